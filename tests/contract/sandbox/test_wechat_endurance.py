"""The books outlive the process, and no order of faults makes anybody be paid twice."""

from __future__ import annotations

import random
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.calling import NOBODY
from tests.contract.sandbox.support import Process, Receiver, eventually, start
from tests.contract.sandbox.test_wechat_bills import at_noon, flow, ready
from tests.contract.sandbox.wechat_support import BILLS, MCHID, Merchant

from paymaster_sandbox import World

FAULTS = (
    "cut_before", "cut_after", "error_before", "error_after", "limited_before", "limited_after",
    "code_before", "code_after", "lied_no", "accepted_before", "accepted_after", "bad_signature",
    "no_signature", "unknown_serial", "stale", "truncated", "garbled",
)  # fmt: skip


def client_of(process: Process, private: rsa.RSAPrivateKey, old: Merchant | None) -> Merchant:
    """A merchant at a process; with the keys of before, if it is one that was there before."""
    http = httpx.AsyncClient(base_url=process.ready["wechat"], trust_env=False, verify=NOBODY)
    control = httpx.AsyncClient(base_url=process.ready["http"], trust_env=False, verify=NOBODY)
    if old is None:
        return Merchant(http, control, private)
    return Merchant(
        http, control, private, serial=old.serial, apiv3_key=old.apiv3_key,
        apiv2_key=old.apiv2_key, platform=old.platform,
    )  # fmt: skip


async def test_killed_and_restarted_it_continues(
    tmp_path: Path,
    receiver: Receiver,
    processes: list[Process],
    wechat_keys: tuple[rsa.RSAPrivateKey, Path],
) -> None:
    first = await start(tmp_path)
    processes.append(first)
    before = client_of(first, wechat_keys[0], None)
    await before.register(notify_url=receiver.url)
    openid = await before.user()
    made = (await before.transfer("A1", openid)).json()
    await before.http.aclose()
    await before.control.aclose()
    first.kill()
    second = await start(tmp_path)
    processes.append(second)
    for kept in ("wechat", "wechat_tls", "wechat_tls_ca_file"):
        assert second.ready[kept] == first.ready[kept]
    after = client_of(second, wechat_keys[0], before)
    again = await after.transfer("A1", openid)
    assert again.json() == made
    assert after.genuine(again)
    await after.act("A1")
    await eventually(lambda: receiver.heard)
    assert after.told(receiver)[0]["state"] == "SUCCESS"
    assert (await after.books())["references"] == {"A1": 1}
    await after.http.aclose()
    await after.control.aclose()


async def test_a_notice_may_come_before_the_answer(merchant: Merchant, receiver: Receiver) -> None:
    openid = await merchant.user(behaviour="confirm")
    await merchant.mishap("transfer.create", "slow", seconds=0.5)
    answer = await merchant.transfer("A1", openid)
    assert answer.json()["state"] == "WAIT_USER_CONFIRM"
    assert [told["state"] for told in merchant.told(receiver)] == ["SUCCESS"]


async def answered(merchant: Merchant, out_no: str, openid: str) -> bool:
    """Ask once; whether the answer can be believed."""
    try:
        answer = await merchant.transfer(out_no, openid, 150)
    except httpx.TransportError:
        return False
    if answer.status_code != 200 or not merchant.genuine(answer):
        return False
    try:
        return bool(answer.json()["state"])
    except ValueError:
        return False


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_goes_wrong_the_same_number_pays_once(
    merchant: Merchant, world: World, seed: int
) -> None:
    day = await at_noon(world)
    await merchant.register(payee_day_count=100)
    chance = random.Random(seed)
    for _ in range(25):
        await merchant.mishap("transfer.create", chance.choice(FAULTS))
    openids = [await merchant.user(f"u{n}", behaviour="confirm") for n in range(3)]
    numbers = {f"N{n}": chance.choice(openids) for n in range(15)}
    for _ in range(100):
        left = [number for number in numbers if chance.random() < 0.9]
        done = [await answered(merchant, number, numbers[number]) for number in left]
        if len(left) == len(numbers) and all(done):
            break
    else:
        pytest.fail("the faults never ended")

    async def at_rest() -> bool:
        return {await merchant.state(number) for number in numbers} == {"SUCCESS"}

    await eventually(at_rest)
    books = await merchant.books()
    assert books["references"] == dict.fromkeys(numbers, 1)
    assert books["duplicates"] == []
    assert books["proven"]
    assert books["merchants"][MCHID]["paid_fen"] == 150 * len(numbers)
    for openid in openids:
        times = list(numbers.values()).count(openid)
        assert books["payees"].get(openid, {"paid": 0})["paid"] == times
    await ready(world, day)
    rows, sums = await flow(merchant, day)
    assert {row["业务凭证号"] for row in rows} == set(numbers)
    assert sums["支出金额"] == f"{150 * len(numbers) // 100}.{150 * len(numbers) % 100:02}"


async def test_unknown_paths_are_not_an_error_of_ours(merchant: Merchant) -> None:
    assert (await merchant.get("/v3/nothing")).status_code == 404
    assert (await merchant.http.get(BILLS)).status_code == 405
