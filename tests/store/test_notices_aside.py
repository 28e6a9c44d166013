"""People see what providers said that could not be placed, have it tried again, or end it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import AsyncMock

import pytest
from psycopg.types.json import Jsonb
from tests.collecting import CAMPAIGN, Collecting
from tests.unplaced import BECAUSE, NOTICES, Office, codes, office_of
from tests.withdrawals import assert_proven
from tests.world import PostgresServer, owner_rows

from paymaster.cli import doctor
from paymaster.dispatch import outcome
from paymaster.kernel.ids import reference
from paymaster.observe import Metrics
from paymaster.payin import outcome as payin_outcome
from paymaster.payin.run import Collector
from paymaster.rails.base import Verdict
from paymaster.roles.gauges import measure


@pytest.fixture
async def office(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Office]:
    async with office_of(postgres, tmp_path) as found:
        yield found
        await assert_proven(found.payouts.world)


async def before_cell_2(office: Office, key: str) -> None:
    """A message came before the directory had its cell."""
    dbs = office.payouts.world.dbs
    new = dbs._cells.pop(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dbs, "_directory", AsyncMock(return_value=([], [])))
        await office.tell(key, "ev_1")
    dbs._cells[2] = new


async def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("a fault of ours")


async def poisoned(office: Office, patch: pytest.MonkeyPatch, event: str = "ev_1") -> int:
    """A payment whose provider's word could not be applied: there was a fault in our code."""
    withdrawal, key = await office.sent(1)
    await office.tell(key, event)
    with patch.context() as patched:
        patched.setattr(outcome, "apply", broken)
        await office.apply_until_aside()
    return withdrawal


def acts(office: Office) -> list[tuple[object, ...]]:
    return owner_rows(
        office.payouts.world,
        "SELECT action, subject, reason FROM audit WHERE action LIKE 'notice.%%'"
        " ORDER BY acted_at, action",
    )


async def test_a_foreign_message_is_shown_no_try_can_place_it_and_it_is_closed(
    office: Office,
) -> None:
    await office.tell("invoice-1", "ev_1")
    found, path = await office.only()
    assert found.pop("id").startswith("nt_01")
    assert len(found.pop("trace_id")) == 32
    assert found == {
        "message": "webhook:wallet#ev_1", "rail_account": "wallet", "kind": "payout",
        "reference": None, "state": "laid-aside", "slug": "notice-unmatched",
        "detail": "We have no such reference.", "changed": None, "moved_to": None, "tries": 0,
        "received_at": "2026-11-20T09:00:00.000Z",
    }  # fmt: skip
    status, code, words = await office.refused("POST", f"{path}/retry", BECAUSE)
    assert (status, code) == (422, "notice-foreign")
    assert "no try can place it" in words
    closed = await office.ok("POST", f"{path}/close", {"reason": "another shop's invoice"})
    assert (closed["state"], closed["slug"]) == ("closed", "notice-unmatched")
    assert closed["detail"] == found["detail"]
    assert await office.aside() == []
    assert (await office.refused("POST", f"{path}/close", BECAUSE))[:2] == (409, "notice-closed")
    assert await office.ok("GET", path) == closed
    assert acts(office) == [("notice.close", "webhook:wallet#ev_1", "another shop's invoice")]


@pytest.mark.parametrize("key", [reference(77, 4711), reference(1023, 1)])
async def test_a_reference_of_our_form_in_a_cell_that_is_not_here_is_foreign(
    office: Office, key: str
) -> None:
    await office.tell(key, "ev_1")
    found, path = await office.only()
    assert (found["reference"], found["slug"]) == (key, "notice-unmatched")
    assert (await office.refused("POST", f"{path}/retry", BECAUSE))[:2] == (422, "notice-foreign")


async def test_a_message_finds_a_cell_that_was_added_since_this_process_began(
    office: Office,
) -> None:
    withdrawal, key = await office.sent(1, cell=2)
    dbs = office.payouts.world.dbs
    del dbs._cells[2]
    await office.tell(key, "ev_1")
    assert await office.aside() == []
    assert [cell.number for cell in dbs.cells()] == [1, 2]
    await office.apply(2)
    assert await office.payouts.states(withdrawal, 2) == ("paid", ["paid"])


async def test_a_message_that_came_before_its_cell_was_known_goes_there(office: Office) -> None:
    withdrawal, key = await office.sent(1, cell=2)
    await before_cell_2(office, key)
    found, path = await office.only()
    assert (found["reference"], found["id"][:5]) == (key, "nt_01")
    first = await office.ok("POST", f"{path}/retry", {"reason": "cell 2 is known now"})
    assert (first["state"], first["id"][:5]) == ("waiting", "nt_02")
    assert await office.aside() == []
    here = await office.ok("GET", path)
    assert (here["state"], here["moved_to"]) == ("moved", first["id"])
    assert (await office.refused("POST", f"{path}/retry", BECAUSE))[:2] == (409, "notice-moved")
    assert (await office.refused("POST", f"{path}/close", BECAUSE))[:2] == (409, "notice-moved")
    await office.apply(2)
    assert await office.payouts.states(withdrawal, 2) == ("paid", ["paid"])
    there = await office.ok("GET", f"{NOTICES}/{first['id']}")
    assert (there["state"], there["changed"]) == ("applied", 1)


async def test_one_whose_cell_has_become_the_treasury_is_not_moved_onto_itself(
    office: Office,
) -> None:
    await office.tell(reference(77, 4711), "ev_1")
    named = Jsonb({"rail_account": 1, "key": reference(1, 4711), "batch_key": None})
    owner_rows(office.payouts.world, "UPDATE inbox SET payload = %s RETURNING 1", named)
    found, path = await office.only()
    assert found["reference"] == reference(1, 4711)
    assert (await office.refused("POST", f"{path}/retry", BECAUSE))[:2] == (422, "notice-foreign")
    assert len(await office.aside()) == 1


async def test_one_that_its_cell_has_already_is_moved_and_changes_nothing(office: Office) -> None:
    """As after a process that died in between, or when the provider said it again meanwhile."""
    withdrawal, key = await office.sent(1, cell=2)
    await before_cell_2(office, key)
    await office.tell(key, "ev_1")
    await office.apply(2)
    _, path = await office.only()
    first = await office.ok("POST", f"{path}/retry", BECAUSE)
    assert first["state"] == "applied"
    assert await office.aside() == []
    assert await office.payouts.states(withdrawal, 2) == ("paid", ["paid"])


async def test_one_that_our_fault_kept_from_being_applied_is_applied_when_that_is_mended(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    withdrawal = await poisoned(office, monkeypatch)
    found, path = await office.only()
    assert (found["slug"], found["detail"], found["tries"]) == (
        "notice-poisoned", "RuntimeError", 8,
    )  # fmt: skip
    assert found["reference"] == await office.payouts.key_of(withdrawal)
    waiting = await office.ok("POST", f"{path}/retry", {"reason": "mended in 1.4.2"})
    assert (waiting["state"], waiting["slug"], waiting["tries"]) == ("waiting", None, 0)
    again = await office.refused("POST", f"{path}/retry", BECAUSE)
    assert again == (409, "notice-waiting", "It is tried by itself; 0 tries so far.")
    await office.apply()
    assert await office.payouts.states(withdrawal) == ("paid", ["paid"])
    for act in ("retry", "close"):
        status, code, words = await office.refused("POST", f"{path}/{act}", BECAUSE)
        assert (status, code) == (409, "notice-applied")
        assert words == "It was applied: it changed one payment."
    assert (await office.ok("GET", path))["state"] == "applied"
    assert acts(office) == [("notice.again", "webhook:wallet#ev_1", "mended in 1.4.2")]


async def test_what_fails_again_is_laid_aside_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    withdrawal = await poisoned(office, monkeypatch)
    _, path = await office.only()
    await office.ok("POST", f"{path}/retry", BECAUSE)
    with monkeypatch.context() as patched:
        patched.setattr(outcome, "apply", broken)
        await office.apply_until_aside()
    assert (await office.only())[0]["tries"] == 8
    assert await office.payouts.states(withdrawal) == ("sent", ["sent"])


async def test_a_retry_adds_no_word_of_the_persons(office: Office) -> None:
    """A contradiction stays one: it is judged by the rules of the first time."""
    withdrawal, key = await office.sent(1)
    await office.tell(key, "ev_1", Verdict.REJECTED)
    await office.apply()
    office.wallet.paid.clear()
    await office.tell(key, "ev_2")
    await office.apply()
    found, path = await office.only()
    assert (found["slug"], found["changed"]) == ("outcome-contradicts", 0)
    await office.ok("POST", f"{path}/retry", BECAUSE)
    await office.apply()
    assert (await office.only())[0]["slug"] == "outcome-contradicts"
    assert await office.payouts.states(withdrawal) == ("failed", ["rejected"])
    await office.ok("POST", f"{path}/close", {"reason": "the provider took ev_2 back"})
    waits = await office.ok("POST", f"{path}/retry", {"reason": "closed too early"})
    assert waits["state"] == "waiting"


async def test_money_that_came_in_is_credited_once_when_the_cause_is_gone(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    payouts = office.payouts
    dbs, rails, sealer = payouts.world.dbs, payouts.rails, payouts.sealer
    till = Collecting(payouts, office.till, Collector(dbs, 1, rails, sealer, random=Random(1)))
    row = await till.opened()
    await office.tell_payin(row.key, "n1")
    with monkeypatch.context() as patched:
        patched.setattr(payin_outcome, "apply", broken)
        await office.apply_until_aside()
    found, path = await office.only()
    assert (found["kind"], found["slug"], found["message"]) == (
        "payin", "notice-poisoned", "payin:pay-in#n1",
    )  # fmt: skip
    assert (found["reference"], found["rail_account"]) == (row.key, "pay-in")
    await office.ok("POST", f"{path}/retry", BECAUSE)
    await office.apply()
    assert await till.balance("budget", CAMPAIGN) == 1000
    assert (await office.refused("POST", f"{path}/retry", BECAUSE))[:2] == (409, "notice-applied")
    await office.apply()
    assert await till.balance("budget", CAMPAIGN) == 1000
    await till.collector.drain()


@pytest.mark.parametrize("act", ["retry", "close"])
async def test_of_two_at_once_one_is_told_that_the_other_was_quicker(
    office: Office, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    await poisoned(office, monkeypatch)
    _, path = await office.only()
    answers = await asyncio.gather(
        *(office.ask("POST", f"{path}/{act}", {"reason": who}) for who in ("anna", "otto"))
    )
    done, late = {"retry": (202, "notice-waiting"), "close": (200, "notice-closed")}[act]
    assert codes(answers) == [(done, None), (409, late)]
    assert len(acts(office)) == 1


async def test_two_who_move_one_at_once_bring_it_once(office: Office) -> None:
    withdrawal, key = await office.sent(1, cell=2)
    await before_cell_2(office, key)
    _, path = await office.only()
    answers = await asyncio.gather(
        *(office.ask("POST", f"{path}/retry", {"reason": who}) for who in ("anna", "otto"))
    )
    assert codes(answers) == [(202, None), (409, "notice-moved")]
    await office.apply(2)
    assert await office.payouts.states(withdrawal, 2) == ("paid", ["paid"])
    assert len(acts(office)) == 1


async def test_who_reads_may_look_and_nothing_else(office: Office) -> None:
    await office.tell("invoice-1", "ev_1")
    _, path = await office.only()
    async with await office.caller("read") as reader, await office.caller("users") as other:
        assert (await reader.get(NOTICES)).is_success
        assert (await reader.get(path)).is_success
        refused = [await reader.post(f"{path}/{act}", json=BECAUSE) for act in ("retry", "close")]
        refused += [await other.get(NOTICES), await other.get(path)]
    assert codes(refused) == [(403, "scope-missing")] * 4
    assert len(await office.aside()) == 1
    assert acts(office) == []


async def test_the_list_is_whole_over_all_cells_also_of_one_moment(office: Office) -> None:
    for number in range(4):
        await office.tell(f"invoice-{number}", f"foreign-{number}")
        await office.tell(reference(1, 4711 + number), f"one-{number}")
        await office.tell(reference(2, 4711 + number), f"two-{number}")
        await office.tell_payin(reference(2, 4711 + number), f"in-{number}")
    await office.apply(1)
    await office.apply(2)
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": 3} | ({} if cursor is None else {"cursor": cursor})
        page = await office.ok("GET", NOTICES, params=params)
        seen += [one["message"] for one in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 16
    kinds = {kind: len(await office.aside(kind=kind)) for kind in ("payout", "payin")}
    assert kinds == {"payout": 12, "payin": 4}
    assert len(await office.aside(rail_account="pay-in")) == 4
    assert len(await office.aside(slug="attempt-unknown")) == 8
    assert len(await office.aside(slug="attempt-unknown", kind="payin")) == 0
    answer = await office.api.get(NOTICES, params={"rail_account": "nobody"})
    assert codes([answer]) == [(404, "rail-account-unknown")]


async def test_ids_that_name_nothing_are_not_found(office: Office) -> None:
    await office.tell("invoice-1", "ev_1")
    found, _ = await office.only()
    good = found["id"]
    wrong = [
        good + "A", good + "=", good[:-1], "nt_02" + good[5:], "nt_ZZ" + good[5:], "nt_", "nt_01",
        "rf_" + good[3:], good.replace("nt_", "NT_"), "nt_01" + "A" * 600, "nt_01AAAA", "nt_01____",
    ]  # fmt: skip
    for name in wrong:
        assert (await office.refused("GET", f"{NOTICES}/{name}"))[:2] == (404, "not-found"), name
        retry = await office.refused("POST", f"{NOTICES}/{name}/retry", BECAUSE)
        assert retry[:2] == (404, "not-found"), name


async def test_gauge_and_doctor_tell_of_them_until_somebody_has_looked(office: Office) -> None:
    metrics = Metrics()

    async def shown() -> dict[str, float]:
        await measure(office.payouts.world.dbs, metrics)
        [family] = metrics.notices_aside.collect()
        return {one.labels["slug"]: one.value for one in family.samples}

    assert await shown() == {}
    assert await doctor.unplaced(office.deps) == []
    await office.tell("invoice-1", "ev_1")
    await office.tell(reference(2, 4711), "ev_2")
    await office.apply(2)
    assert await shown() == {"attempt-unknown": 1.0, "notice-unmatched": 1.0}
    [(name, fine, said)] = await doctor.unplaced(office.deps)
    assert (name, fine) == ("notices acme/test", False)
    assert said == (
        "laid aside: 1 attempt-unknown, 1 notice-unmatched. See GET /v1/settlement/notices"
    )
    for one in await office.aside():
        await office.ok("POST", f"{NOTICES}/{one['id']}/close", BECAUSE)
    assert await shown() == {}
    assert await doctor.unplaced(office.deps) == []
