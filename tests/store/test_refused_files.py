"""People see files of providers that were refused, have them read again, or end them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path

import pytest
from tests.scripted_rails import FileRail
from tests.served import Served, serve
from tests.unplaced import BECAUSE, FILES, NOTICES, SECRET, Office, codes, office_of
from tests.world import PostgresServer, owner_rows

from paymaster.cli import doctor
from paymaster.kernel.money import Money
from paymaster.observe import Metrics
from paymaster.rails.base import Notice, Outcome, RemoteFile, Statement, Verdict
from paymaster.rails.sandbox_wallet import settlement, webhook
from paymaster.rails.sandbox_wallet.rail import SandboxWalletRail
from paymaster.roles import work
from paymaster.roles.gauges import measure
from paymaster.secrets.opening import secrets_directory
from paymaster.settle.files import Polled


@pytest.fixture
async def office(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Office]:
    async with office_of(postgres, tmp_path) as found:
        yield found


def leaves(bank: FileRail, name: str, how: str = "") -> None:
    """A file that is `broken`, or on which our reader breaks (`poison`)."""
    bank.out.append(RemoteFile(name, f"{how}{name} {SECRET}".encode()))
    zero = Money.zero("EUR")
    day = date(2026, 11, 19)
    bank.statements[name] = [Statement(name, "bank", day, zero, zero, ())]


def mend(bank: FileRail, patch: pytest.MonkeyPatch) -> None:
    """The next version of our reader."""
    patch.setattr(bank, "read_file", lambda _account, name, _body: (bank.notices.get(name, []), []))


async def test_a_file_that_we_could_not_read_is_read_after_the_fix(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    withdrawal, key = await office.sent(1)
    leaves(office.bank, "a.xml", "poison")
    office.bank.notices["a.xml"] = [Notice("m1", Outcome(key, Verdict.PAID))]
    assert await office.visit() == Polled(fetched=1, refused=1)
    [found] = (await office.ok("GET", FILES, params={"state": "refused"}))["data"]
    number = found.pop("id")
    assert found == {
        "rail_account": "bank", "name": "a.xml", "state": "refused", "slug": "file-unreadable",
        "detail": "Reading it failed: RuntimeError.", "received_at": "2026-11-20T09:00:00.000Z",
    }  # fmt: skip
    path = f"{FILES}/{number}"
    mend(office.bank, monkeypatch)
    waits = await office.ok("POST", f"{path}/read", {"reason": "reader mended"})
    assert (waits["state"], waits["slug"], waits["detail"]) == ("received", None, None)
    assert (await office.refused("POST", f"{path}/read", BECAUSE))[:2] == (409, "file-waiting")
    assert (await office.refused("POST", f"{path}/close", BECAUSE))[:2] == (409, "file-waiting")
    assert await office.visit() == Polled(read=1)
    assert (await office.ok("GET", path))["state"] == "read"
    assert (await office.refused("POST", f"{path}/read", BECAUSE))[:2] == (409, "file-read")
    assert (await office.refused("POST", f"{path}/close", BECAUSE))[:2] == (409, "file-read")
    assert acts(office) == [("rail_file.again", number, "reader mended")]
    # What it says of another account's payment is for people again: an answer is applied once.
    await office.apply()
    assert await office.payouts.states(withdrawal) == ("sent", ["sent"])
    assert [one["slug"] for one in await office.aside()] == ["attempt-foreign"]


def acts(office: Office) -> list[tuple[object, ...]]:
    return owner_rows(
        office.payouts.world,
        "SELECT action, subject, reason FROM audit WHERE action LIKE 'rail_file.%%' ORDER BY 1",
    )


async def test_a_broken_file_stays_broken_and_is_closed_with_why_it_was_refused(
    office: Office,
) -> None:
    leaves(office.bank, "a.xml", "broken")
    await office.visit()
    [found] = (await office.ok("GET", FILES))["data"]
    path = f"{FILES}/{found['id']}"
    await office.ok("POST", f"{path}/read", {"reason": "perhaps"})
    assert await office.visit() == Polled(refused=1)
    again = await office.ok("GET", path)
    assert (again["state"], again["slug"]) == ("refused", "statement-malformed")
    closed = await office.ok("POST", f"{path}/close", {"reason": "the bank sent b.xml"})
    assert (closed["state"], closed["slug"]) == ("closed", None)
    assert closed["detail"] == "statement-malformed: The file is cut off."
    code = await office.refused("POST", f"{path}/close", BECAUSE)
    assert code[:2] == (409, "file-closed")
    assert (await office.ok("GET", FILES, params={"state": "refused"}))["data"] == []
    assert (await office.ok("GET", FILES, params={"state": "closed"}))["data"] == [closed]
    assert [act[:1] for act in acts(office)] == [("rail_file.again",), ("rail_file.close",)]
    assert (await office.ok("POST", f"{path}/read", BECAUSE))["state"] == "received"


@pytest.mark.parametrize("act", ["read", "close"])
async def test_of_two_at_once_one_is_told_that_the_other_was_quicker(
    office: Office, act: str
) -> None:
    leaves(office.bank, "a.xml", "broken")
    await office.visit()
    [found] = (await office.ok("GET", FILES))["data"]
    path = f"{FILES}/{found['id']}/{act}"
    answers = await asyncio.gather(
        *(office.ask("POST", path, {"reason": who}) for who in ("anna", "otto"))
    )
    done, late = {"read": (202, "file-waiting"), "close": (200, "file-closed")}[act]
    assert codes(answers) == [(done, None), (409, late)]
    assert len(acts(office)) == 1


async def test_who_reads_may_look_and_nothing_else(office: Office) -> None:
    leaves(office.bank, "a.xml", "broken")
    await office.visit()
    async with await office.caller("read") as reader, await office.caller("users") as other:
        [found] = (await reader.get(FILES)).json()["data"]
        path = f"{FILES}/{found['id']}"
        assert (await reader.get(path)).json() == found
        refused = [await reader.post(f"{path}/{act}", json=BECAUSE) for act in ("read", "close")]
        refused += [await other.get(FILES), await other.get(path)]
    assert codes(refused) == [(403, "scope-missing")] * 4
    assert acts(office) == []


async def test_the_list_by_state_and_account_in_pages(office: Office) -> None:
    for number in range(5):
        leaves(office.bank, f"{number}.xml", "broken" if number % 2 else "")
    await office.visit()
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": 2} | ({} if cursor is None else {"cursor": cursor})
        page = await office.ok("GET", FILES, params=params)
        seen += [one["name"] for one in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ["4.xml", "3.xml", "2.xml", "1.xml", "0.xml"]

    async def names(**params: str) -> list[str]:
        return [one["name"] for one in (await office.ok("GET", FILES, params=params))["data"]]

    assert await names(state="refused") == ["3.xml", "1.xml"]
    assert await names(state="read", rail_account="bank") == ["4.xml", "2.xml", "0.xml"]
    assert await names(rail_account="wallet") == []
    for path in (f"{FILES}/rf_0100000000000ZZ", f"{FILES}/rf_0200000000000ZZ", f"{FILES}/x"):
        assert (await office.refused("GET", path))[:2] == (404, "not-found")
        assert (await office.refused("POST", f"{path}/read", BECAUSE))[:2] == (404, "not-found")
        assert (await office.refused("POST", f"{path}/close", BECAUSE))[:2] == (404, "not-found")


async def test_gauge_and_doctor_tell_of_them_until_somebody_has_looked(office: Office) -> None:
    metrics, account = Metrics(), str(office.payouts.accounts["bank"].id)

    async def shown() -> dict[str, float]:
        await measure(office.payouts.world.dbs, metrics)
        [family] = metrics.files_refused.collect()
        return {one.labels["rail"]: one.value for one in family.samples}

    leaves(office.bank, "a.xml")
    await office.visit()
    assert await shown() == {}
    assert await doctor.unplaced(office.deps) == []
    leaves(office.bank, "b.xml", "broken")
    await office.visit()
    assert await shown() == {account: 1.0}
    said = "1 refused. See GET /v1/settlement/files?state=refused"
    assert await doctor.unplaced(office.deps) == [("files acme/test bank", False, said)]
    [found] = (await office.ok("GET", FILES, params={"state": "refused"}))["data"]
    await office.ok("POST", f"{FILES}/{found['id']}/close", BECAUSE)
    assert await shown() == {}
    assert await doctor.unplaced(office.deps) == []


# ------------------------------------------------------------------ with the sandbox's own rail


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as found:
        folder = secrets_directory(found.deps.settings)
        for name in ("pay-key", "pay-hook"):
            (folder / name).write_bytes(secrets.token_hex(16).encode())
            (folder / name).chmod(0o600)
        account = {
            "rail": "sandbox-wallet", "currency": "EUR",
            "settings": {"url": "http://127.0.0.1:1"},
            "secrets": {"api_key": "pay-key", "webhook_secret": "pay-hook"},
        }  # fmt: skip
        await found.ok("PUT", "/v1/rail-accounts/wallet", account)
        yield found


def settled(day: str, *lines: str) -> RemoteFile:
    """The sandbox provider's settlement of a day, without an end of line where a line lacks it."""
    at = f"{day}T23:00:00.000Z"
    table = [
        ",".join(settlement.HEADER), f"1,opening,,,0.00,0.00,EUR,{at}", *lines,
        f"9,closing,,,5.00,0.00,EUR,{at}",
    ]  # fmt: skip
    body = ("\n".join(table) + "\n").encode()
    return RemoteFile(settlement.file_name(day, "EUR", hashlib.sha256(body).hexdigest()), body)


async def test_a_settlement_of_the_sandbox_is_booked_by_the_roles_once_its_fault_is_mended(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = settled("2026-11-19", "2,topup,,,5.00,0.00,EUR,2026-11-19T08:00:00.000Z")
    rail = served.deps.rails["sandbox-wallet"]
    assert isinstance(rail, SandboxWalletRail)

    async def fetch(_account: object, seen: frozenset[str]) -> list[RemoteFile]:
        return [] if file.name in seen else [file]

    monkeypatch.setattr(rail, "fetch", fetch)
    lanes = {lane.name: lane for lane in work.ROLES["settle"](served.deps).lanes}
    with monkeypatch.context() as patched:
        patched.setattr(settlement, "_KINDS", {})
        await lanes["files:acme/test"].step()
    [found] = (await served.ok("GET", FILES, params={"state": "refused"}))["data"]
    assert (found["name"], found["slug"]) == (file.name, "statement-malformed")
    assert (await served.ok("GET", "/v1/reconciliation/statements"))["data"] == []
    await served.ok("POST", f"{FILES}/{found['id']}/read", {"reason": "knows top-ups now"})
    assert await lanes["files:acme/test"].step() == 1
    assert (await served.ok("GET", f"{FILES}/{found['id']}"))["state"] == "read"
    [statement] = (await served.ok("GET", "/v1/reconciliation/statements"))["data"]
    assert (statement["day"], statement["lines"]) == ("2026-11-19", 1)
    path = f"{FILES}/{found['id']}/read"
    await served.refused(409, "file-read", "POST", path, {"reason": "again"})


async def test_a_foreign_message_of_the_sandbox_is_listed_without_what_it_says(
    served: Served,
) -> None:
    event = {
        "id": "ev_17", "type": "payout.paid",
        "data": {
            "id": "po_1", "reference": "INVOICE-17", "wallet": "SW-1234567890", "amount": "77.31",
            "currency": "EUR", "status": "paid", "failure_code": None, "fee": "0.00",
            "created_at": "2026-11-20T09:00:00.000Z",
        },
    }  # fmt: skip
    body = json.dumps(event).encode()
    at = str(int(served.world.clock.now().timestamp()))
    secret = (secrets_directory(served.deps.settings) / "pay-hook").read_text()
    headers = {
        "Sandpay-Id": "ev_17", "Sandpay-Timestamp": at,
        "Sandpay-Signature": webhook.sign(secret, "ev_17", at, body),
    }  # fmt: skip
    answer = await served.hooks.post("/v1/hooks/acme/test/wallet", content=body, headers=headers)
    assert answer.json() == {"new": 0, "again": 0, "unmatched": 1}
    listed = await served.api.get(NOTICES)
    [found] = listed.json()["data"]
    assert (found["message"], found["slug"]) == ("webhook:wallet#ev_17", "notice-unmatched")
    assert (found["rail_account"], found["reference"]) == ("wallet", None)
    for word in ("INVOICE", "SW-1234567890", "77.31", "po_1", headers["Sandpay-Signature"]):
        assert word not in listed.text
    path = f"{NOTICES}/{found['id']}/retry"
    await served.refused(422, "notice-foreign", "POST", path, {"reason": "perhaps"})
