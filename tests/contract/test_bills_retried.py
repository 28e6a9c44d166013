"""A bill that cannot be had is asked for again; nothing of it is read before it is whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from tests.contract.bill_world import ALIPAY, WECHAT, BillWorld, bill_world
from tests.world import PostgresServer

from paymaster.kernel.errors import RailError

LOG = "alipay.data.bill.accountlog.query"
ADDRESS = "alipay.data.dataservice.bill.downloadurl.query"


def mishap(call: str, kind: str) -> Callable[[BillWorld], Awaitable[None]]:
    """It strikes until it is taken away."""
    return lambda world: world.wechat.mishap(kind, call, times=None)


def knob(name: str) -> Callable[[BillWorld], Awaitable[None]]:
    async def arm(world: BillWorld) -> None:
        await world.found.control("/alipay/faults", {name: 100})

    return arm


def expired(table: str, column: str, path: str) -> Callable[[BillWorld], Awaitable[None]]:
    """The address is too old by the time that the file is asked for."""

    async def arm(world: BillWorld) -> None:
        chassis = world.found.world.chassis

        async def before(request: httpx.Request) -> None:
            if request.url.path.endswith(path):
                with chassis.tx() as tx:
                    tx.run(f"UPDATE {table} SET {column} = 0")

        world.found.client.event_hooks["request"].append(before)

    return arm


WECHATS = {
    "not ready": mishap("bill.flow", "creating"),
    "refused": mishap("bill.flow", "error_before"),
    "too often": mishap("bill.flow", "limited_before"),
    "the digest is not the provider's": mishap("bill.flow", "bad_signature"),
    "cut off": mishap("bill.download", "cut_after"),
    "half a file": mishap("bill.download", "truncated"),
    "another file": mishap("bill.download", "garbled"),
    "no file": mishap("bill.download", "error_before"),
    "expired": expired("wechat_download", "expires", "/billdownload/file"),
}
ALIPAYS = {
    "refused": ("log", knob(f"fail_before@{LOG}")),
    "half a page": ("log", knob(f"truncated@{LOG}")),
    "false signature": ("log", knob(f"bad_signature@{LOG}")),
    "no address": ("csv", knob(f"drop_answers@{ADDRESS}")),
    "expired": ("csv", expired("alipay_download", "until", "/bill/download")),
}


async def mend(world: BillWorld) -> None:
    """Nothing goes wrong any more."""
    await world.wechat.reset()
    await world.alipay.reset()
    world.found.client.event_hooks["request"].clear()


async def files_of(world: BillWorld, kind: str) -> list[str]:
    found = await world.value(
        "SELECT coalesce(array_agg(state ORDER BY id), '{}') FROM rail_file"
        " WHERE rail_account_id = %s",
        world.account(kind).id,
    )
    return list(found)


async def check(world: BillWorld, kind: str, arm: Callable[[BillWorld], Awaitable[None]]) -> None:
    """A sound day, then one whose bill is not to be had at the first visit."""
    await world.pay(kind, "11.11")
    await world.ask()
    await world.morning()
    before = await files_of(world, kind)
    assert before
    assert set(before) == {"read"}
    await world.pay(kind, "22.22")
    await world.pay(kind, "33.33")
    await world.ask()
    await world.until(11, days=1)
    await arm(world)
    with suppress(RailError):
        polled = await world.poll(kind)
        assert polled.fetched == 0
    await world.settle()
    assert await files_of(world, kind) == before, "nothing is kept of what is not whole"
    assert await world.ever() == []
    await mend(world)
    assert (await world.poll(kind)).read == 1
    await world.settle()
    assert await world.ever() == []
    assert await world.in_books("clearing", kind) == 0
    assert await world.in_books("cash", kind) == await world.balance(kind)
    await world.desk.assert_proven()


@pytest.mark.parametrize("trouble", WECHATS)
async def test_a_fund_flow_bill(postgres: PostgresServer, tmp_path: Path, trouble: str) -> None:
    async with bill_world(postgres, tmp_path, topups="own") as world:
        await check(world, WECHAT, WECHATS[trouble])


@pytest.mark.parametrize("trouble", ALIPAYS)
async def test_an_account_log(postgres: PostgresServer, tmp_path: Path, trouble: str) -> None:
    source, arm = ALIPAYS[trouble]
    async with bill_world(postgres, tmp_path, source=source, topups="own") as world:
        await check(world, ALIPAY, arm)


async def test_a_broken_day_keeps_back_no_other(postgres: PostgresServer, tmp_path: Path) -> None:
    """It is a gap meanwhile, which closes itself."""
    async with bill_world(postgres, tmp_path, topups="own") as world:
        for place in range(3):
            await world.pay(WECHAT, f"1{place}.11")
            await world.ask()
            if place:
                await world.until(11, days=1)
            else:
                await world.morning()
        before = await world.value("SELECT count(*) FROM statement")
        await world.wechat.mishap("truncated", "bill.download")
        await world.poll(WECHAT)
        await world.settle()
        assert await world.value("SELECT count(*) FROM statement") == before + 1
        assert "statement-gap" in await world.breaks()
        await world.poll(WECHAT)
        await world.settle()
        assert await world.value("SELECT count(*) FROM statement") == before + 2
        assert await world.breaks() == []
        assert await world.in_books("cash", WECHAT) == await world.balance(WECHAT)
        await world.desk.assert_proven()


async def test_a_provider_that_is_away_is_left_alone_after_two_days(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with bill_world(postgres, tmp_path, topups="own") as world:
        asked: list[str] = []

        async def away(request: httpx.Request) -> None:
            if "fundflowbill" in request.url.path:
                asked.append(request.url.path)
                raise httpx.ReadTimeout("away")

        hooks = world.found.client.event_hooks["request"]
        hooks.append(away)
        with pytest.raises(RailError):
            await world.poll(WECHAT)
        hooks.remove(away)
        assert len(asked) == 2
