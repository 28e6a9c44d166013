"""Statements are kept once: again, changed, corrected, out of order, and the first of all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.statements import BANK, CAMPAIGN, FUNDING, came_back, later, line, office, paid, sheet
from tests.world import PostgresServer, owner_rows

from paymaster.kernel.errors import Refusal
from paymaster.kernel.money import Money
from paymaster.rails.base import LineKind


async def test_the_first_statement_opens_the_books(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        (stored,) = await desk.store(sheet("123.45"))
        assert stored.outcome == "stored"
        assert await desk.cash() == "123.45"
        assert (await desk.balance("equity", 0)).text() == "123.45"
        await desk.store(sheet("123.45", day=later(1)))
        assert await desk.cash() == "123.45"
        await desk.assert_proven()


async def test_an_account_may_begin_overdrawn_or_empty(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        await desk.store(sheet("-5.00"))
        assert await desk.cash() == "-5.00"
        await desk.store(sheet("0.00"), account=replace(BANK, id=70))
        await desk.assert_proven()


async def test_the_same_statement_again_is_nothing(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        payout = await desk.payout()
        first = sheet("100.00", paid(payout), line("F", "-1.00", kind=LineKind.FEE))
        await desk.store(first)
        await desk.settle()
        again = await desk.store(first, replace(first, statement_id="under another name"))
        assert [each.outcome for each in again] == ["repeated", "repeated"]
        await desk.settle()
        assert await desk.cash() == "89.00"
        assert len(await desk.topics("statement.stored")) == 1
        await desk.assert_proven()


async def test_a_changed_statement_is_a_break_and_not_taken_over(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        payout = await desk.payout()
        first = sheet("100.00", paid(payout))
        await desk.store(first)
        altered = sheet("100.00", paid(payout, amount="10.01"))
        missing = replace(sheet("100.00"), statement_id="S-2")
        renamed = replace(altered, statement_id="S-3")
        for changed in (altered, missing, renamed):
            (stored,) = await desk.store(changed)
            assert stored.outcome == "changed"
        assert await desk.kinds() == ["statement-changed"]
        await desk.settle()
        assert await desk.cash() == "90.00"
        await desk.assert_proven()


async def test_a_corrected_statement_adds_what_was_left_out(postgres: PostgresServer) -> None:
    """The provider forgot a line and sends the day again with it: the closing is the new one."""
    async with office(postgres) as desk:
        one, two = await desk.payouts(["10.00", "20.00"])
        await desk.store(sheet("100.00", paid(one)))
        corrected = sheet("100.00", paid(one), paid(two), name="S-corrected")
        (stored,) = await desk.store(corrected)
        assert (stored.outcome, stored.lines) == ("restated", 1)
        (again,) = await desk.store(corrected)
        assert again.outcome == "repeated"
        await desk.store(sheet("70.00", day=later(1)))
        await desk.settle()
        assert await desk.cash() == "70.00"
        assert await desk.breaks() == []
        await desk.assert_proven()


async def test_a_gap_closes_itself_when_the_statement_comes(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        one, two = await desk.payouts(["10.00", "20.00"])
        await desk.store(sheet("100.00", paid(one)))
        await desk.store(sheet("70.00", day=later(2)))
        assert await desk.kinds() == ["statement-gap"]
        await desk.store(sheet("90.00", paid(two), day=later(1)))
        assert await desk.breaks() == []
        await desk.settle()
        assert await desk.cash() == "70.00"
        await desk.assert_proven()


async def test_a_statement_that_does_not_fill_the_gap_is_one_more(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        await desk.store(sheet("100.00"), sheet("70.00", day=later(2)))
        await desk.store(sheet("95.00", day=later(1)))
        assert await desk.kinds() == ["statement-gap", "statement-gap"]


async def test_a_statement_from_before_the_books_is_told(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        payout = await desk.payout()
        await desk.store(sheet("90.00"))
        (stored,) = await desk.store(sheet("100.00", paid(payout), day=later(-1)))
        assert stored.outcome == "early"
        await desk.settle()
        assert await desk.kinds() == ["statement-early"]
        assert await desk.cash() == "90.00"
        await desk.assert_proven()


async def test_a_line_told_twice_counts_as_often_as_the_balances_say(
    postgres: PostgresServer,
) -> None:
    """Twice in one statement, or again in the next: the second is no payment of ours."""
    async with office(postgres) as desk:
        payout = await desk.payout("10.00")
        await desk.store(sheet("100.00", paid(payout, "X"), paid(payout, "X")))
        await desk.store(sheet("80.00", paid(payout, "X"), day=later(1)))
        await desk.settle()
        assert await desk.kinds() == ["booked-twice", "booked-twice"]
        assert await desk.cash() == "70.00"
        assert set(await desk.lines()) == {"X", "X#2", f"X@S-{later(1).isoformat()}"}
        await desk.assert_proven()


@pytest.mark.parametrize("opening", ["0.00", "100.00"])
async def test_a_sponsors_payment_on_two_statements_is_credited_once(
    postgres: PostgresServer, opening: str
) -> None:
    """Statements that overlap, or a bank that shows a booking again: a person has to look."""
    async with office(postgres) as desk:
        came = line("F", "100.00", kind=LineKind.INCOMING, remittance=FUNDING)
        await desk.store(sheet("0.00", came))
        await desk.store(sheet(opening, came, day=later(1)))
        await desk.settle()
        assert await desk.balance("budget", CAMPAIGN) == Money(10_000, "EUR")
        assert "booked-twice" in await desk.kinds()
        await desk.assert_proven()


async def test_a_bank_that_gives_all_its_lines_one_number_loses_no_payment(
    postgres: PostgresServer,
) -> None:
    async with office(postgres) as desk:
        first = line("NONREF", "100.00", kind=LineKind.INCOMING, remittance=FUNDING)
        await desk.store(sheet("0.00", first))
        await desk.store(sheet("100.00", replace(first, booked_on=later(1)), day=later(1)))
        await desk.settle()
        assert await desk.balance("budget", CAMPAIGN) == Money(20_000, "EUR")
        assert await desk.kinds() == []
        await desk.assert_proven()


async def test_what_does_not_add_up_is_refused_whole(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        wrong = replace(sheet("100.00"), closing=Money(9_999, "EUR"))
        with pytest.raises(Refusal) as refused:
            await desk.store(sheet("100.00", day=later(-1)), wrong)
        assert refused.value.slug == "statement-malformed"
        foreign = replace(sheet("0"), opening=Money(0, "USD"), closing=Money(0, "USD"))
        with pytest.raises(Refusal) as refused:
            await desk.store(foreign)
        assert refused.value.slug == "statement-foreign"
        assert owner_rows(desk.world, "SELECT count(*) FROM statement") == [(0,)]


async def test_texts_about_people_are_sealed(postgres: PostgresServer) -> None:
    """Of our own payments nothing is kept; of others only sealed."""
    async with office(postgres) as desk:
        payout = await desk.payout()
        other = line("I", "5.00", kind=LineKind.INCOMING, remittance="Geheimer Zweck 77")
        ours = replace(paid(payout, "P"), remittance="Geheimer Zweck 77")
        await desk.store(sheet("100.00", ours, other, came_back(payout, "R")))
        rows = dict(owner_rows(desk.world, "SELECT line_id, sealed FROM statement_line"))
        assert rows["P"] is None
        assert rows["R"] is None
        assert rows["I"] is not None
        whole = owner_rows(desk.world, "SELECT l::text FROM statement_line l")
        assert "Geheim" not in str(whole)
        assert "Beispiel" not in str(whole)
