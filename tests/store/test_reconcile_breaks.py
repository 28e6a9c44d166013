"""Breaks: assigned, aged, resolved by an entry, by another try, or by themselves."""

from __future__ import annotations

import pytest
from tests.statements import BANK, CAMPAIGN, DAY, Office, later, line, office, paid, sheet
from tests.world import PostgresServer

from paymaster.db import audit
from paymaster.kernel.errors import Conflict, NotFound, PaymasterError, Unprocessable
from paymaster.kernel.ids import Ref, text_id
from paymaster.rails.base import LineKind
from paymaster.reconcile import breaks, resolve, trace, view
from paymaster.reconcile.breaks import Kind, NewBreak
from paymaster.reconcile.resolve import Target


async def _only(desk: Office) -> breaks.Break:
    (found,) = await desk.world.read(breaks.listing)
    return found


async def _fails(desk: Office, break_id: int, reason: str, target: Target | None = None) -> str:
    with pytest.raises(PaymasterError) as raised:
        await desk.world.run(lambda tx: resolve.resolve(tx, break_id, reason, target))
    return raised.value.slug


async def test_suspended_money_is_explained_by_an_entry(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        await desk.store(
            sheet("0.00", line("I", "30.00", kind=LineKind.INCOMING, remittance="for 9"))
        )
        await desk.settle()
        row = await _only(desk)
        assert (row.kind, row.found, row.day) == ("unknown-line", 3000, DAY)
        assert await _fails(desk, row.id, " ") == "reason-missing"
        assert await _fails(desk, row.id, "so what") == "break-needs-entry"
        assert await _fails(desk, row.id, "mine", Target("available")) == "break-target"
        assert await _fails(desk, row.id, "which", Target("budget")) == "break-target"
        assert await _fails(desk, row.id + 1, "what") == "not-found"
        done = await desk.world.run(
            lambda tx: resolve.resolve(tx, row.id, "they wrote", Target("budget", CAMPAIGN))
        )
        assert (done.state, done.resolution, done.resolved_by) == ("resolved", "they wrote", "test")
        assert await _fails(desk, row.id, "again") == "break-resolved"
        assert (await desk.balance("budget", CAMPAIGN)).text() == "30.00"
        assert (await desk.balance("suspense", BANK.id)).minor == 0
        acts = await desk.world.read(lambda tx: audit.of_subject(tx, text_id("br", 1, row.id)))
        assert [(act.action, act.reason) for act in acts] == [("break.resolve", "they wrote")]
        await desk.assert_proven()


async def test_money_that_went_out_is_explained_as_a_fee(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        await desk.store(sheet("10.00", line("U", "-3.00", kind=LineKind.OTHER)))
        await desk.settle()
        row = await _only(desk)
        await desk.world.run(
            lambda tx: resolve.resolve(tx, row.id, "yearly fee", Target("rail_fees"))
        )
        assert (await desk.balance("rail_fees", BANK.id)).text() == "-3.00"
        assert await desk.cash() == "7.00"
        await desk.assert_proven()


async def test_a_line_is_tried_again_with_the_right_reference(postgres: PostgresServer) -> None:
    async with office(postgres, cells=2) as desk:
        payout = await desk.payout("10.00", cell=2)
        await desk.store(sheet("100.00", line("L", "-10.00", key="MANGLED")))
        await desk.settle()
        ref = Ref(1, await desk.line("L"))
        assert (await desk.balance("suspense", BANK.id)).text() == "-10.00"
        await desk.world.run(
            lambda tx: resolve.retry(tx, ref, "bank cut it off", reference=payout.key)
        )
        await desk.settle()
        assert await desk.withdrawal(payout) == "paid"
        assert (await desk.balance("suspense", BANK.id)).minor == 0
        assert await desk.cash() == "90.00"
        assert await desk.breaks() == []
        row = (await desk.world.read(lambda tx: breaks.listing(tx, state="resolved")))[0]
        assert row.resolved_by == breaks.ITSELF
        kinds = await desk.world.read(
            lambda tx: tx.tuples(
                "SELECT e.kind, r.kind FROM entry e LEFT JOIN entry r ON r.id = e.reverses_id"
                " WHERE e.subject = %s ORDER BY e.commit_id, e.ordinal",
                (text_id("sl", 1, ref.id),),
            )
        )
        assert kinds == [("suspend", None), ("unsuspend", "suspend"), ("booked", None)]
        await desk.assert_proven()
        with pytest.raises(Conflict) as raised:
            await desk.world.run(lambda tx: resolve.retry(tx, ref, "once more"))
        assert raised.value.slug == "line-in-work"


async def test_a_difference_is_accepted_as_the_rails_fee(postgres: PostgresServer) -> None:
    """Both ways: the bank took more, and the bank gave back less than was paid."""
    async with office(postgres) as desk:
        more, less = await desk.payouts(["10.00", "20.00"])
        await desk.store(
            sheet(
                "100.00",
                paid(more, "M", "10.30"),
                paid(less, "P"),
                line("B", "18.50", kind=LineKind.RETURN, key=less.key, code="AC04"),
            )
        )
        await desk.settle()
        assert await desk.kinds() == ["amount-differs", "amount-differs"]
        for name in ("M", "B"):
            ref = Ref(1, await desk.line(name))
            await desk.world.run(
                lambda tx, ref=ref: resolve.retry(tx, ref, "charges", accept_difference=True)
            )
        await desk.settle()
        assert await desk.breaks() == []
        assert await desk.withdrawal(more) == "paid"
        assert await desk.withdrawal(less) == "returned"
        assert (await desk.balance("rail_fees", BANK.id)).text() == "-1.80"
        assert (await desk.balance("clearing", BANK.id)).minor == 0
        assert await desk.cash() == "88.20"
        await desk.assert_proven()


async def test_another_try_may_find_another_reason(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        payout = await desk.payout("10.00")
        await desk.store(sheet("100.00", paid(payout), line("L", "-10.00", key="MANGLED")))
        await desk.settle()
        ref = Ref(1, await desk.line("L"))
        await desk.world.run(lambda tx: resolve.retry(tx, ref, "it is", reference=payout.key))
        row = await _only(desk)
        await desk.match()
        assert await _fails(desk, row.id, "now", Target("rail_fees")) == "line-in-work"
        await desk.settle()
        assert await desk.kinds() == ["booked-twice"]
        assert await desk.kinds("resolved") == ["unknown-line"]
        await desk.assert_proven()


async def test_breaks_are_assigned_listed_and_aged(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        await desk.store(sheet("100.00", line("A", "-1.00"), line("B", "-2.00")))
        await desk.store(sheet("97.00", line("C", "-3.00"), day=later(1)))
        await desk.settle()
        rows = await desk.world.read(breaks.listing)
        assert [row.found for row in rows] == [-100, -200, -300]
        assert rows[0].age_days(later(3)) == 3
        (page,) = await desk.world.read(
            lambda tx: breaks.listing(tx, after=(rows[0].day, rows[0].id), limit=1)
        )
        assert page == rows[1]
        mine = await desk.world.run(lambda tx: breaks.assign(tx, rows[2].id, "finance"))
        assert mine.owner == "finance"
        assert await desk.world.read(lambda tx: breaks.listing(tx, owner="finance")) == [mine]
        (aged,) = await desk.world.read(breaks.ageing)
        assert (aged.open, aged.in_doubt.text(), aged.oldest) == (3, "6.00", DAY)
        with pytest.raises(NotFound):
            await desk.world.run(lambda tx: breaks.assign(tx, 1, "nobody"))


async def test_a_break_is_opened_once_and_again_when_its_figures_change(
    postgres: PostgresServer,
) -> None:
    async with office(postgres) as desk:

        def found(amount: int) -> NewBreak:
            return NewBreak(7, DAY, Kind.BALANCE_DIFFERS, "ra_x", "EUR", "d", 0, amount)

        async def opened(amount: int) -> int:
            return await desk.world.run(lambda tx: breaks.open_all(tx, [found(amount)] * 2))

        assert [await opened(5), await opened(5), await opened(6)] == [1, 0, 1]
        row = await _only(desk)
        await desk.world.run(lambda tx: resolve.resolve(tx, row.id, "known", None))
        assert await opened(6) == 0
        assert await desk.breaks() == []
        assert await opened(7) == 1
        await desk.world.run(lambda tx: breaks.clear(tx, ["ra_x"], "gone"))
        assert await opened(7) == 1
        assert len(await desk.topics("break.opened")) == 4
        assert await _fails(desk, row.id, "no", Target("loss")) == "break-has-no-money"


async def test_a_line_leads_to_its_withdrawal_and_back(postgres: PostgresServer) -> None:
    async with office(postgres, cells=2) as desk:
        payout = await desk.payout("10.00", cell=2)
        await desk.store(
            sheet("100.00", line("I", "5.00", kind=LineKind.INCOMING, remittance="Hallo")),
        )
        await desk.store(sheet("105.00", paid(payout, "L"), day=later(1)))
        await desk.settle()
        ref = Ref(1, await desk.line("L"))
        found = await trace.trace(desk.world.dbs, desk.sealer, ref)
        (payment,) = found.payments
        assert payment.withdrawal == text_id("wd", 2, payout.withdrawal_id)
        assert payment.user == text_id("us", 2, payout.user_id)
        assert payment.booked_line == text_id("sl", 1, ref.id)
        assert found.story.line.matched == payout.attempt
        assert [entry.kind for entry in found.story.entries] == ["booked"]
        assert found.story.statement.day == later(1)
        assert (found.story.statement.open_lines, found.story.statement.lines) == (0, 1)
        unknown = await desk.line("I")
        story = await desk.world.read(lambda tx: trace.line_story(tx, desk.sealer, unknown))
        assert story.note.remittance == "Hallo"
        assert [each.kind for each in story.breaks] == ["unknown-line"]
        (_, first) = await desk.world.read(lambda tx: view.statements(tx, BANK.id, None, None, 9))
        (listed,) = await desk.world.read(lambda tx: view.lines(tx, first.id, "break", 0, 9))
        assert listed.id == unknown
        with pytest.raises(NotFound):
            await desk.world.read(lambda tx: trace.line_story(tx, desk.sealer, unknown + 9))


async def test_an_entry_that_the_books_refuse_changes_nothing(postgres: PostgresServer) -> None:
    """Money that went out cannot be explained by a budget that is empty."""
    async with office(postgres) as desk:
        await desk.store(sheet("10.00", line("U", "-3.00", kind=LineKind.OTHER)))
        await desk.settle()
        row = await _only(desk)
        with pytest.raises(Unprocessable) as raised:
            await desk.world.run(
                lambda tx: resolve.resolve(tx, row.id, "no", Target("budget", CAMPAIGN))
            )
        assert raised.value.slug == "posting-refused"
        assert await desk.kinds() == ["unknown-line"]
        await desk.assert_proven()
