"""The balance proof of a day, and the day closed: refused with every blocker, then signed."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import psycopg
import pytest
from tests.statements import BANK, DAY, FUNDING, WALLET, Office, later, line, office, paid, sheet
from tests.world import ACTOR, START, PostgresServer

from paymaster import compose
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.errors import Unprocessable
from paymaster.kernel.ids import new_trace_id, text_id
from paymaster.kernel.money import Money
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Posting
from paymaster.ledger.post import post
from paymaster.rails.base import LineKind, RailAccount
from paymaster.reconcile import close, day, proof, resolve, run_store
from paymaster.reconcile.close_store import DayClose
from paymaster.reconcile.match import match_due
from paymaster.reconcile.resolve import Target
from paymaster.reconcile.run_store import Run

ACCOUNTS = [BANK, WALLET]


async def run_day(desk: Office, account: RailAccount = BANK, on: date = DAY) -> Run:
    return await day.run_account(
        desk.world.dbs, 1, ACTOR, new_trace_id(), account, on, timedelta(hours=12)
    )


async def close_on_day(
    desk: Office, accounts: list[RailAccount] = ACCOUNTS, on: date = DAY
) -> DayClose:
    return await day.close_day(desk.world.dbs, 1, desk.signers, ACTOR, new_trace_id(), accounts, on)


async def _blockers(desk: Office, accounts: list[RailAccount] = ACCOUNTS) -> dict[str, str]:
    with pytest.raises(Unprocessable) as refused:
        await close_on_day(desk, accounts)
    assert refused.value.slug == "day-not-ready"
    return {problem.pointer: problem.detail for problem in refused.value.problems}


async def test_the_balance_proof_of_a_day(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        one, two = await desk.payouts(["10.00", "20.00"])
        with pytest.raises(Unprocessable) as missing:
            await run_day(desk)
        assert missing.value.slug == "statement-missing"
        await desk.store(sheet("100.00", paid(one), line("U", "-1.00", fee="0.50")))
        first = await run_day(desk)
        assert (first.ledger, first.outstanding, first.difference) == (10_000, -1_150, 0)
        await desk.store(sheet("88.50", paid(two), day=later(1)))
        assert (await run_day(desk)).difference == 0
        await desk.settle()
        second = await run_day(desk)
        assert (second.opening, second.closing, second.ledger) == (10_000, 8_850, 8_850)
        assert (second.outstanding, second.difference) == (0, 0)
        assert (second.lines, second.matched, second.breaks) == (2, 1, 1)
        assert (await run_day(desk, on=later(1))).difference == 0
        runs = await desk.world.read(lambda tx: run_store.listing(tx, BANK.id, DAY, None, 10))
        assert (runs[0], runs[2], len(runs)) == (second, first, 3)


async def test_cash_that_moves_without_a_statement_is_a_difference(
    postgres: PostgresServer,
) -> None:
    async with office(postgres) as desk:
        await desk.store(sheet("100.00"))
        euro = Money(100, "EUR")
        cash, equity = Account("cash", BANK.id, "EUR"), Account("equity", 0, "EUR")

        async def move(source: Account, target: Account) -> None:
            entry_id = (await desk.world.run(_ids))[0]
            entry = Entry(entry_id, "manual", "x", (Posting(source, target, euro),))
            await desk.world.run(lambda tx: post(tx, [entry]))

        await move(cash, equity)
        found = await run_day(desk)
        assert (found.closing, found.ledger, found.difference) == (10_000, 10_100, -100)
        assert await desk.kinds() == ["balance-differs"]
        differences = await desk.world.read(day.prove_cell)
        assert [each.check for each in differences] == ["cash"]
        await move(equity, cash)
        assert (await run_day(desk)).difference == 0
        assert await desk.breaks() == []


async def _ids(tx: CellTx) -> list[int]:
    return tx.ids(1)


async def test_what_never_came_is_a_break_until_it_comes(postgres: PostgresServer) -> None:
    """Paid and returned as the provider said, in two cells; one comes late, one never was."""
    async with office(postgres, cells=2) as desk:
        late = await desk.payout("10.00", cell=2, state="paid")
        (back,) = await desk.payouts(["20.00"], state="returned")
        fresh = await desk.payout("5.00", state="sent")
        desk.world.clock.advance(timedelta(days=2))
        await desk.store(sheet("100.00", paid(back), day=later(1)))
        await desk.settle()
        await run_day(desk, on=later(1))
        assert sorted(await desk.breaks()) == [
            ("missing-at-provider", late.attempt),
            ("return-missing-at-provider", back.attempt),
        ]
        await desk.store(sheet("80.00", paid(late), paid(fresh), day=later(2)))
        await desk.settle()
        assert await desk.breaks() == [("return-missing-at-provider", back.attempt)]
        await desk.assert_proven()


async def test_what_is_not_overdue_any_more_is_cleared(postgres: PostgresServer) -> None:
    """Finance allows the bank more time than before."""
    async with office(postgres) as desk:
        await desk.payout("10.00", state="paid")
        desk.world.clock.advance(timedelta(days=2))
        await desk.store(sheet("0.00", day=later(1)))
        await run_day(desk, on=later(1))
        assert await desk.kinds() == ["missing-at-provider"]
        await day.run_account(
            desk.world.dbs, 1, ACTOR, new_trace_id(), BANK, later(1), timedelta(days=30)
        )
        assert await desk.breaks() == []


async def test_a_day_is_refused_with_every_blocker_and_then_closed(
    postgres: PostgresServer,
) -> None:
    async with office(postgres, cells=3) as desk:
        payout = await desk.payout("10.00", cell=3)
        refused = await _blockers(desk)
        assert set(refused) == {"/rail_accounts/bank", "/rail_accounts/wallet"}
        await desk.store(sheet("100.00", paid(payout), line("U", "-1.00")))
        await desk.store(sheet("0.00"), account=WALLET)
        refused = await _blockers(desk)
        assert "not been proven" in refused["/rail_accounts/bank"]
        await desk.match()
        await desk.deliver(only=1)
        await run_day(desk)
        await run_day(desk, WALLET)
        refused = await _blockers(desk)
        assert refused["/rail_accounts/bank"] == "1 lines are not decided yet."
        assert "10.00 EUR" in refused["/intercell/1-3"]
        (broken,) = [pointer for pointer in refused if pointer.startswith("/breaks/br_")]
        await desk.settle()
        refused = await _blockers(desk)
        assert set(refused) == {"/rail_accounts/bank", broken}
        await _resolve_all(desk)
        await run_day(desk)
        closed = await close_on_day(desk)
        assert await close_on_day(desk) == closed
        await assert_signed(desk, closed)
        for cell in desk.cells:
            assert await closed_through(desk, cell) == DAY
        totals = closed.totals["cells"]
        assert totals["1"]["accounts"]["cash"] == {"EUR": "89.00"}
        assert totals["3"]["accounts"]["intercell"] == {"EUR": "10.00"}
        assert closed.totals["statements"][text_id("ra", 1, BANK.id)] == {
            "closing": "89.00", "currency": "EUR",
        }  # fmt: skip
        await desk.assert_proven()


async def _resolve_all(desk: Office) -> None:
    for subject in [row[0] for row in await _open_ids(desk)]:
        await desk.world.run(
            lambda tx, one=subject: resolve.resolve(tx, one, "bank fee", Target("rail_fees"))
        )


async def _open_ids(desk: Office) -> list[tuple[int]]:
    return await desk.world.read(
        lambda tx: tx.tuples("SELECT id FROM break WHERE state = 'open' ORDER BY id")
    )


async def closed_through(desk: Office, cell: int) -> object:
    return await desk.world.read(lambda tx: tx.value("SELECT closed_through FROM head"), cell)


async def assert_signed(desk: Office, closed: DayClose) -> None:
    (public,) = desk.signer.public_keys("day-close")
    assert close.verify(closed, public)
    assert not close.verify(replace(closed, closed_seq=closed.closed_seq + 1), public)
    altered = {**closed.totals, "statements": {}}
    assert not close.verify(replace(closed, totals=altered), public)


async def test_a_closed_day_takes_nothing_more_and_days_form_a_chain(
    postgres: PostgresServer,
) -> None:
    """What belongs to the closed day and is booked later takes effect on the next open day."""
    async with office(postgres) as desk:
        desk.world.clock.advance(timedelta(days=1))
        await desk.store(sheet("0.00"))
        await run_day(desk)
        first = await close_on_day(desk, [BANK])
        funded = line("I", "5.00", kind=LineKind.INCOMING, remittance=FUNDING, day=DAY)
        await desk.store(sheet("0.00", funded, day=later(1)))
        await desk.settle()
        days = await desk.world.read(
            lambda tx: tx.tuples("SELECT effective_day FROM entry WHERE kind = 'fund'")
        )
        assert days == [(later(1),)]
        await run_day(desk, on=later(1))
        second = await close_on_day(desk, [BANK], later(1))
        assert second.totals["previous"] == first.digest.hex()
        with pytest.raises(Unprocessable) as passed:
            await close_on_day(desk, [BANK], later(-1))
        assert passed.value.slug in {"day-passed", "day-not-ready"}
        with pytest.raises(Unprocessable) as early:
            await close_on_day(desk, [], later(2))
        assert "not over" in early.value.problems[0].detail
        await desk.assert_proven()
        with psycopg.connect(desk.world.owner_dsn, autocommit=True) as owner:
            owner.execute("UPDATE cell_1.day_close SET closed_seq = 1 WHERE day = %s", (DAY,))
        (found,) = await desk.world.read(day.prove_cell)
        assert (found.check, found.subject) == ("day-close", DAY.isoformat())


async def test_closing_goes_on_after_a_crash_between_the_cells(postgres: PostgresServer) -> None:
    async with office(postgres, cells=2) as desk:
        await desk.store(sheet("0.00"))
        await run_day(desk)
        await desk.world.run(lambda tx: close.freeze(tx, DAY), 2)
        assert await closed_through(desk, 1) is None
        closed = await close_on_day(desk, [BANK])
        assert await closed_through(desk, 1) == DAY
        await assert_signed(desk, closed)


async def test_a_cell_whose_books_do_not_prove_keeps_the_day_open(
    postgres: PostgresServer,
) -> None:
    async with office(postgres, cells=2) as desk:
        await desk.payout("10.00", cell=2, state="paid")
        await desk.store(sheet("0.00"))
        await run_day(desk)
        with psycopg.connect(desk.world.owner_dsn, autocommit=True) as owner:
            owner.execute("UPDATE cell_2.account SET balance = balance + 1 WHERE kind = 'clearing'")
        refused = await _blockers(desk, [BANK])
        assert set(refused) == {"/cells/2"}


async def test_a_statement_after_the_last_run_keeps_the_day_open(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        await desk.store(sheet("0.00"))
        await run_day(desk)
        await desk.store(sheet("0.00", line("F", "-1.00", kind=LineKind.FEE), name="S-more"))
        await desk.settle()
        refused = await _blockers(desk, [BANK])
        assert "run it again" in refused["/rail_accounts/bank"]
        assert (await run_day(desk)).closing == -100
        await close_on_day(desk, [BANK])


async def test_prove_names_what_was_altered(postgres: PostgresServer) -> None:
    """Past the application's rights: an amount, a booking, a state, a break."""
    async with office(postgres) as desk:
        payout = await desk.payout("10.00")
        await desk.store(sheet("100.00", paid(payout, "L", None), line("U", "-1.00")))
        await desk.settle()
        damages = {
            "line-posting": "UPDATE statement_line SET amount = amount - 1 WHERE line_id = 'L'",
            "line-fee": "UPDATE statement_line SET fee = 1 WHERE line_id = 'L'",
            "line-state": "UPDATE statement_line SET posted_id = NULL WHERE line_id = 'L'",
            "suspense": "UPDATE statement_line SET state = 'matched', matched = 'x'"
            " WHERE line_id = 'U'",
            "statement-sum": "UPDATE statement SET closing = closing + 1",
            "clearing": "UPDATE attempt SET booked_line = NULL, booked_on = NULL",
            "attempt-booking": "UPDATE attempt SET state = 'sent'",
            "line-break": "UPDATE break SET state = 'resolved', resolved_by = 'x'",
            "cash": "UPDATE account SET balance = balance + 5 WHERE kind = 'cash'",
            "closed-through": "UPDATE head SET closed_through = '2026-11-19'",
            "legal-move": "INSERT INTO legal_move VALUES"
            " ('reward', 'reversed', 'credit', 'credited')",
        }
        for check, damage in damages.items():
            assert check in await _found_after(desk, damage), check
        gone = "DELETE FROM legal_move WHERE machine = 'task'"
        assert await _found_after(desk, gone) == {"legal-move"}


def test_the_proof_knows_every_machine() -> None:
    assert set(proof.MACHINES) == set(compose.MACHINES)


async def test_prove_names_a_day_that_was_opened_or_closed_past_the_rights(
    postgres: PostgresServer,
) -> None:
    async with office(postgres) as desk:
        await desk.store(sheet("5.00"))
        await run_day(desk)
        await close_on_day(desk, [BANK])
        for closed in ("NULL", "closed_through - 1", "closed_through + 1", "'2030-01-01'"):
            damage = f"UPDATE head SET closed_through = {closed}"
            assert "closed-through" in await _found_after(desk, damage), closed
        unsaid = "DELETE FROM audit WHERE action = 'day.freeze'"
        assert "closed-through" in await _found_after(desk, unsaid)


async def _found_after(desk: Office, damage: str) -> set[str]:
    """The checks that fail on a snapshot with some damage, which is never committed."""
    async with await psycopg.AsyncConnection.connect(desk.world.owner_dsn) as owner:
        await owner.execute("SET search_path TO cell_1")
        assert await day.prove_cell(CellRead(owner, START, 1, "Europe/Berlin")) == []
        await owner.execute(damage.encode())
        found = await day.prove_cell(CellRead(owner, START, 1, "Europe/Berlin"))
        await owner.rollback()
    return {each.check for each in found}


async def test_prove_names_what_was_booked_into_a_closed_day(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        await desk.store(sheet("5.00"))
        await run_day(desk)
        await close_on_day(desk, [BANK])
        await desk.payout("1.00")
        damage = "UPDATE entry SET effective_day = '2026-11-19' WHERE kind = 'gift'"
        assert await _found_after(desk, damage) == {"closed-day"}


async def test_what_was_dated_before_the_closing_is_dated_anew(postgres: PostgresServer) -> None:
    """A writer that has posted and not committed when its day is closed lands on the next day."""
    async with office(postgres) as desk:
        funded = line("I", "5.00", kind=LineKind.INCOMING, remittance=FUNDING)
        await desk.store(sheet("0.00", funded))
        tries = 0

        async def work(tx: CellTx) -> None:
            nonlocal tries
            tries += 1
            await match_due(tx, desk.sealer, desk.catalogue(), desk.cells)
            if tries == 1:
                with psycopg.connect(desk.world.owner_dsn, autocommit=True) as other:
                    other.execute("UPDATE cell_1.head SET closed_through = %s", (DAY,))

        await desk.world.run(work)
        assert tries == 2
        days = await desk.world.read(
            lambda tx: tx.tuples("SELECT effective_day FROM entry WHERE kind = 'fund'")
        )
        assert days == [(later(1),)]


async def test_a_loop_runs_what_has_changed_and_every_day_the_newest(
    postgres: PostgresServer,
) -> None:
    async with office(postgres) as desk:

        async def due() -> list[tuple[str, object]]:
            runs = await day.run_due(desk.world.dbs, 1, ACTOR, new_trace_id(), ACCOUNTS)
            return [
                ("bank" if run.rail_account_id == BANK.id else "wallet", run.day) for run in runs
            ]

        payout = await desk.payout("10.00")
        assert await due() == []
        await desk.store(sheet("100.00", paid(payout)), sheet("90.00", day=later(1)))
        await desk.store(sheet("0.00"), account=WALLET)
        assert await due() == [("bank", DAY), ("bank", later(1)), ("wallet", DAY)]
        assert await due() == []
        await desk.settle()
        assert await due() == [("bank", DAY), ("bank", later(1))]
        await desk.store(sheet("95.00", day=later(1), name="without the lines between"))
        assert await due() == [("bank", later(1))]
        desk.world.clock.advance(timedelta(days=1))
        assert await due() == [("bank", later(1)), ("wallet", DAY)]
        assert await due() == []


async def test_several_statements_of_one_day_are_one_chain(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        one, two = await desk.payouts(["10.00", "20.00"])
        await desk.store(sheet("100.00", paid(one), name="morning"))
        await desk.store(sheet("90.00", paid(two), name="evening"))
        await desk.settle()
        found = await run_day(desk)
        assert (found.opening, found.closing, found.difference) == (10_000, 7_000, 0)
        assert found.lines == 2
        assert await desk.breaks() == []
        await desk.assert_proven()
