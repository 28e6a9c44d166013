"""Payees whose name says what becomes of payments to them."""

import httpx
import pytest
from tests.contract.sandbox.support import (
    ALPHABET,
    Client,
    Pay,
    Receiver,
    Sftp,
    eventually,
    pain001,
    texts,
)

from paymaster.dispatch.failures import DICTIONARY
from paymaster.rails.destinations import check
from paymaster_sandbox.chassis import magic


def named(word: str, number: int = 0) -> str:
    """A wallet that begins with a word."""
    nine = (word + f"{number:09}")[: len(word)] + f"{number:0{9 - len(word)}}"
    total = sum((place + 1) * ALPHABET.index(char) for place, char in enumerate(nine))
    found = f"SW-{nine}{ALPHABET[total % 36]}"
    return check("sandbox-wallet", {"wallet": found}).details["wallet"]


def account(number: int) -> str:
    """An IBAN of the bank that does not exist."""
    bban = f"99999999{number:010}"
    value = int(f"{bban}131400")
    return check("iban", {"iban": f"DE{98 - value % 97:02}{bban}", "holder": "A"}).details["iban"]


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("CLOSED", "wallet_closed"),
        ("REFUSED", "wallet_blocked"),
        ("LIMIT", "wallet_limit_exceeded"),
    ],
)
async def test_wallets_that_take_nothing(client: Client, word: str, code: str) -> None:
    for number in (0, 7):
        refused = await client.pay(f"k{number}", f"R{number}", named(word, number))
        assert (refused.status_code, refused.json()["code"]) == (422, code)
    assert (await client.settled())["references"] == {}


async def test_a_wallet_that_fails_later_and_one_that_sends_the_money_back(client: Client) -> None:
    failing, returning = named("FAILED"), named("RETURN")
    for key, to in (("k1", failing), ("k2", returning)):
        assert (await client.pay(key, key, to)).status_code == 201
    await client.control("clock", advance_seconds=5)

    async def both() -> bool:
        found = [(await client.get("/v1/payouts", reference=key)).json() for key in ("k1", "k2")]
        states = [one["data"][0]["status"] for one in found]
        return states == ["failed", "returned"]

    await eventually(both)
    assert (await client.settled())["references"] == {"k2": 1}


async def test_answers_that_do_not_arrive_although_it_was_paid(client: Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await client.pay("k1", "R1", named("DROPPED"))
    assert (await client.pay("k2", "R2", named("BROKEN"))).status_code == 500
    again = await client.pay("k1", "R1", named("DROPPED"))
    assert (again.status_code, again.json()["reference"]) == (200, "R1")
    assert (await client.settled())["references"] == {"R1": 1, "R2": 1}


async def test_notices_that_are_missing_doubled_and_forged(
    client: Client, receiver: Receiver, world
) -> None:
    for key, word in (("R1", "SILENT"), ("R2", "TWICE"), ("R3", "FORGED")):
        await client.pay(key, key, named(word))
    await client.settled()

    def heard() -> list[tuple[str, bool]]:
        return sorted(
            (one.event["data"]["reference"], one.genuine(world.webhook_secret))
            for one in receiver.heard
        )

    await eventually(lambda: len(receiver.heard) >= 4)
    assert heard() == [("R2", True), ("R2", True), ("R3", False), ("R3", True)]


async def test_what_was_foretold_by_hand_counts_before_the_name(client: Client) -> None:
    await client.control("oracle", payee=named("CLOSED"), outcome="slow", after_seconds=0)
    assert (await client.pay("k1", "R1", named("CLOSED"))).status_code == 201


async def test_bank_accounts_by_number(client: Client, sftp: Sftp) -> None:
    wanted = {1: "ACSP", 2: "AC04", 3: "AC01", 4: "BE04", 5: "MS03", 6: "ACSP"}
    pays = [Pay(f"R{number}", account(number), "1.00") for number in wanted]
    await sftp.put("m1", pain001("M1", pays))
    answer = await sftp.answer("m1")
    said = dict(zip(texts(answer, "OrgnlEndToEndId"), texts(answer, "TxSts"), strict=True))
    assert said == {f"R{n}": "ACSP" if v == "ACSP" else "RJCT" for n, v in wanted.items()}
    reasons = texts(answer, "Cd")
    assert set(reasons) >= {"AC04", "AC01", "BE04", "MS03"}


def test_every_code_is_in_the_failure_dictionary() -> None:
    outcomes = [*magic._WALLETS.values(), *magic._ACCOUNTS.values()]
    codes = {code or "wallet_closed" for outcome, code, _ in outcomes if outcome != "slow"}
    assert codes <= DICTIONARY.keys()
