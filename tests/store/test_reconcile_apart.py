"""Lines of money that is set apart: booked at once, and no word about whether its payee has it."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from tests.sent import Payout
from tests.statements import (
    BANK,
    DAY,
    WALLET,
    Office,
    came_back,
    given_back,
    later,
    line,
    office,
    paid,
    set_apart,
    sheet,
)
from tests.store.test_reconcile_day import close_on_day, run_day
from tests.world import PostgresServer, owner_rows

from paymaster.db.tx import CellTx
from paymaster.dispatch import outcome
from paymaster.dispatch.outcome import Applied
from paymaster.kernel.errors import Conflict, Unprocessable
from paymaster.kernel.ids import Ref, parse_text_id, text_id
from paymaster.rails.base import LineKind, Outcome, Verdict
from paymaster.reconcile import proof, resolve, store


async def told(desk: Office, payout: Payout, verdict: Verdict, code: str | None = None) -> Applied:
    said = Outcome(payout.key, verdict, code=code)
    (applied,) = await desk.world.run(
        lambda tx: outcome.apply(tx, BANK.id, [said], evidence="query"), payout.cell
    )
    return applied


async def clearing(desk: Office, cell: int = 1) -> str:
    return (await desk.balance("clearing", BANK.id, cell)).text()


async def test_what_is_set_apart_is_gone_from_the_account_and_proves_nothing(
    postgres: PostgresServer,
) -> None:
    """Whatever is known of the order: only the provider's answer moves it."""
    async with office(postgres, cells=2) as desk:
        payouts = [
            await desk.payout("10.00", cell=2, state=state)
            for state in ("sending", "unknown", "sent")
        ]
        payouts.append(await desk.payout("10.00", cell=2))
        await told(desk, payouts[-1], Verdict.AWAITING)
        before = [await desk.withdrawal(one) for one in payouts]
        await desk.store(sheet("100.00", *map(set_apart, payouts)))
        await desk.settle()
        assert await desk.breaks() == []
        assert await desk.cash() == "60.00"
        assert await clearing(desk, 2) == "-40.00"
        assert [await desk.withdrawal(one) for one in payouts] == before
        assert (await run_day(desk)).difference == 0
        await desk.assert_proven()
        for one in payouts:
            await told(desk, one, Verdict.PAID)
        assert [await desk.withdrawal(one) for one in payouts] == ["paid"] * 4
        assert await clearing(desk, 2) == "0.00"
        await desk.assert_proven()


async def test_what_expires_comes_back_and_nothing_is_left(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        payout = await desk.payout("10.00")
        await told(desk, payout, Verdict.AWAITING)
        await desk.store(sheet("100.00", set_apart(payout)))
        await desk.settle()
        await told(desk, payout, Verdict.REJECTED, "OVERDUE_CLOSE")
        assert await desk.withdrawal(payout) == "failed"
        assert (await desk.balance("available", payout.user_id)).text() == "10.00"
        await desk.assert_proven()
        await desk.store(sheet("90.00", given_back(payout), day=later(1)))
        await desk.settle()
        assert (await desk.cash(), await clearing(desk)) == ("100.00", "0.00")
        assert await desk.breaks() == []
        await desk.assert_proven()


async def test_a_line_back_before_the_answer_waits_for_the_answer(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        gone, had = await desk.payouts(["10.00", "20.00"])
        lines = [set_apart(gone), set_apart(had), given_back(gone), given_back(had)]
        await desk.store(sheet("100.00", *lines))
        await desk.settle()
        assert [await desk.withdrawal(one) for one in (gone, had)] == ["sent", "sent"]
        await told(desk, gone, Verdict.REJECTED, "OVERDUE_CLOSE")
        assert await desk.withdrawal(gone) == "failed"
        await told(desk, had, Verdict.PAID)
        assert await desk.withdrawal(had) == "returned", "it was paid, and the money is here again"
        assert (await desk.balance("available", had.user_id)).text() == "20.00"
        assert (await told(desk, had, Verdict.PAID)).slug == "superseded"
        assert (await desk.cash(), await clearing(desk)) == ("100.00", "0.00")
        assert await desk.breaks() == []
        await desk.assert_proven()


async def test_what_comes_back_after_it_was_paid_is_returned(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        payout = await desk.payout("10.00", state="paid")
        await desk.store(sheet("100.00", set_apart(payout)))
        await desk.settle()
        await desk.store(sheet("90.00", given_back(payout), day=later(1)))
        await desk.settle()
        assert await desk.withdrawal(payout) == "returned"
        assert (await desk.cash(), await clearing(desk)) == ("100.00", "0.00")
        await desk.assert_proven()


@pytest.mark.parametrize("first", ["out", "back"])
async def test_one_line_of_a_refused_payment_misses_the_other(
    postgres: PostgresServer, first: str
) -> None:
    make, other = (set_apart, given_back) if first == "out" else (given_back, set_apart)
    kind = "return-missing-at-provider" if first == "out" else "missing-at-provider"
    async with office(postgres) as desk:
        payout = await desk.payout("10.00", state="rejected")
        desk.world.clock.advance(timedelta(days=2))
        one = make(payout)
        await desk.store(sheet("100.00", one, day=later(1)))
        await desk.settle()
        await run_day(desk, on=later(1))
        assert await desk.breaks() == [(kind, payout.attempt)]
        after = str(one.amount + sheet("100.00").closing).split()[0]
        await desk.store(sheet(after, other(payout), day=later(2)))
        await desk.settle()
        assert await desk.breaks() == []
        assert (await desk.cash(), await clearing(desk)) == ("100.00", "0.00")
        await desk.assert_proven()


async def test_a_second_line_and_a_wrong_one_are_breaks(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        twice, odd, strange = await desk.payouts(["10.00", "20.00", "30.00"])
        (foreign,) = await desk.payouts(["5.00"], account=WALLET)
        lines = [
            set_apart(twice, "1"),
            set_apart(twice, "2"),
            line("3", "-20.01", kind=LineKind.SET_APART, key=odd.key),
            set_apart(foreign, "4"),
            line("5", "-7.00", kind=LineKind.SET_APART, key=strange.key[:-1] + "0"),
            line("6", "-8.00", kind=LineKind.SET_APART),
        ]
        await desk.store(sheet("100.00", *lines))
        await desk.settle()
        assert await desk.kinds() == [
            "account-differs", "amount-differs", "booked-twice", "reference-unknown",
            "unknown-line",
        ]  # fmt: skip
        await desk.assert_proven()


async def test_a_banks_line_is_still_proof(postgres: PostgresServer) -> None:
    """Beside one that is not, and after a refusal, of which it rules out the truth."""
    async with office(postgres) as desk:
        sent, dead = await desk.payout("10.00"), await desk.payout("20.00", state="rejected")
        await desk.store(sheet("100.00", paid(sent), paid(dead)))
        await desk.settle()
        assert await desk.withdrawal(sent) == "paid"
        assert await desk.kinds() == ["attempt-contradicts"]
        await desk.store(sheet("70.00", came_back(sent), day=later(1)))
        await desk.settle()
        assert await desk.withdrawal(sent) == "returned"
        await desk.assert_proven()


async def test_the_mark_is_what_allows_a_line_without_a_payment(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        payout = await desk.payout("10.00")
        await desk.store(sheet("100.00", set_apart(payout)))
        await desk.settle()
        await desk.assert_proven()
        owner_rows(desk.world, "UPDATE attempt SET apart = false RETURNING id")
        (found,) = await desk.world.read(proof.prove)
        assert (found.check, found.subject) == ("attempt-booking", payout.key)


async def test_the_owners_money_needs_nobody_to_explain_it(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        lines = [line("1", "50.00", kind=LineKind.OWN), line("2", "-20.00", kind=LineKind.OWN)]
        await desk.store(sheet("100.00", *lines))
        await desk.settle()
        assert await desk.breaks() == []
        assert (await desk.balance("equity", 0)).text() == "130.00"
        assert (await run_day(desk)).difference == 0
        await desk.assert_proven()


async def test_a_line_on_the_statement_of_the_next_day_heals_both_days(
    postgres: PostgresServer,
) -> None:
    """The balance of the first day knows of it already, its lines do not."""
    async with office(postgres) as desk:
        desk.world.clock.advance(timedelta(days=3))
        one, two = await desk.payouts(["10.00", "20.00"])
        await desk.store(sheet("100.00", day=later(-1)))
        await desk.store(sheet("90.00", set_apart(two)))
        await desk.settle()
        assert (await run_day(desk)).difference == -1000
        assert await desk.kinds() == ["balance-differs", "statement-gap"]
        await desk.store(sheet("80.00", set_apart(one), day=later(1)))
        await desk.settle()
        assert (await run_day(desk, on=later(1))).difference == 0
        again = await run_day(desk)
        assert (again.ledger, again.closing, again.difference) == (7000, 7000, 0)
        assert await desk.breaks() == []
        await desk.assert_proven()


async def test_what_never_comes_stays_a_difference(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        (one,) = await desk.payouts(["10.00"])
        await desk.store(sheet("100.00", day=later(-1)))
        await desk.store(sheet("90.00", set_apart(one)))
        await desk.store(sheet("80.00", day=later(1)))
        await desk.settle()
        for day in (DAY, later(1)):
            assert (await run_day(desk, on=day)).difference == -1000
        assert await desk.kinds() == ["balance-differs", "balance-differs", "statement-gap"]


async def test_a_day_on_which_nothing_moved_is_closed_without_a_statement(
    postgres: PostgresServer,
) -> None:
    """Providers make no file for it; that the next one begins where the last ended proves it."""
    async with office(postgres) as desk:
        desk.world.clock.advance(timedelta(days=4))
        await desk.store(sheet("100.00"))
        await run_day(desk)
        with pytest.raises(Unprocessable) as refused:
            await close_on_day(desk, [BANK], later(1))
        assert "no statement" in refused.value.problems[0].detail
        await desk.store(sheet("100.00", line("F", "-1.00", kind=LineKind.FEE), day=later(3)))
        await desk.settle()
        closed = await close_on_day(desk, [BANK], later(1))
        shown = closed.totals["statements"][text_id("ra", 1, BANK.id)]
        assert shown == {"closing": "100.00", "currency": "EUR"}


async def test_a_gap_is_no_quiet_day(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        desk.world.clock.advance(timedelta(days=4))
        await desk.store(sheet("100.00"))
        await desk.store(sheet("99.00", day=later(2)))
        with pytest.raises(Unprocessable) as refused:
            await close_on_day(desk, [BANK], later(1))
        assert "no statement" in refused.value.problems[0].detail


async def dismiss(desk: Office, kind: str) -> None:
    found = await desk.world.read(
        lambda tx: tx.value("SELECT id FROM break WHERE state = 'open' AND kind = %s", (kind,))
    )
    await desk.world.run(lambda tx: resolve.resolve(tx, found, "The provider lost a row."))


async def test_a_gap_that_nothing_fills_becomes_a_line_that_is_explained(
    postgres: PostgresServer,
) -> None:
    """Every day after a lost row would differ by it for ever, and none could be closed."""
    async with office(postgres) as desk:
        desk.world.clock.advance(timedelta(days=3))
        lost, shown = await desk.payouts(["10.00", "20.00"], state="paid")
        await desk.store(sheet("100.00", day=later(-1)))
        await desk.store(sheet("90.00", set_apart(shown)))
        await desk.store(sheet("70.00", day=later(1)))
        await desk.settle()
        for day in (later(-1), DAY, later(1)):
            await run_day(desk, on=day)
        await dismiss(desk, "statement-gap")
        await desk.settle()
        assert sorted(set(await desk.kinds())) == ["balance-differs", "unknown-line"]
        await desk.assert_proven()
        line_id = await desk.line(f"gap-st_{await statement_of(desk, DAY)}")
        await desk.world.run(
            lambda tx: resolve.retry(tx, Ref(1, line_id), "This one.", reference=lost.key)
        )
        await desk.settle()
        for day in (later(-1), DAY, later(1)):
            assert (await run_day(desk, on=day)).difference == 0
        assert await desk.breaks() == []
        assert (await desk.cash(), await clearing(desk)) == ("70.00", "0.00")
        await desk.assert_proven()
        for day in (later(-1), DAY, later(1)):
            await close_on_day(desk, [BANK], day)


async def statement_of(desk: Office, on: date) -> str:
    found = await desk.world.read(
        lambda tx: tx.value("SELECT min(id) FROM statement WHERE day = %s", (on,))
    )
    return text_id("st", 1, found).removeprefix("st_")


async def test_a_gap_that_has_closed_meanwhile_is_not_filled(postgres: PostgresServer) -> None:
    """The missing statement came while a person looked at the break."""
    async with office(postgres) as desk:
        await desk.store(sheet("100.00", day=later(-2)))
        await desk.store(sheet("90.00"))
        (gap,) = [subject for _, subject in await desk.breaks()]
        fee = line("F", "-10.00", kind=LineKind.FEE)
        await desk.store(sheet("100.00", fee, day=later(-1)))
        await desk.settle()
        assert await desk.breaks() == []
        number = parse_text_id("st", gap).id
        assert await desk.world.read(lambda tx: store.find_gap(tx, number)) is None
        with pytest.raises(Conflict) as refused:
            await desk.world.run(_resolve_any)
        assert refused.value.slug == "break-resolved"
        assert len(await desk.lines()) == 1


async def _resolve_any(tx: CellTx) -> object:
    number = await tx.value("SELECT id FROM break")
    return await resolve.resolve(tx, number, "Too late.")


async def test_two_statements_of_one_day_have_no_room_for_a_line(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        await desk.store(sheet("100.00"))
        await desk.store(sheet("90.00", name="second"))
        await dismiss(desk, "statement-gap")
        assert await desk.lines() == {}
