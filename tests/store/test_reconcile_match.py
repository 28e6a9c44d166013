"""Lines against payments on a real database: what a statement proves, and what it does not."""

from __future__ import annotations

from tests.statements import (
    BANK,
    CAMPAIGN,
    FUNDING,
    WALLET,
    Office,
    came_back,
    later,
    line,
    office,
    paid,
    sheet,
)
from tests.world import PostgresServer

from paymaster.db.outbox import Outgoing
from paymaster.dispatch import outcome
from paymaster.kernel.ids import text_id
from paymaster.rails.base import LineKind, Outcome, Verdict
from paymaster.reconcile.wire import Answer


async def test_a_payment_is_booked_and_paid(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        payout = await desk.payout("10.00")
        await desk.store(sheet("100.00", paid(payout)))
        await desk.settle()
        assert await desk.cash() == "90.00"
        assert await desk.withdrawal(payout) == "paid"
        assert (await desk.balance("clearing", BANK.id)).minor == 0
        assert await desk.breaks() == []
        await desk.assert_proven()


async def test_what_waits_for_its_payee_is_not_paid_by_a_line(postgres: PostgresServer) -> None:
    """Some providers set the money apart when they take an order, and show that as a movement."""
    async with office(postgres) as desk:
        payout = await desk.payout("10.00")
        waits = [Outcome(payout.key, Verdict.AWAITING)]
        await desk.world.run(lambda tx: outcome.apply(tx, BANK.id, waits, evidence="query"))
        await desk.store(sheet("100.00", paid(payout)))
        await desk.settle()
        assert await desk.withdrawal(payout) == "awaiting_payee"
        assert await desk.breaks() == []
        assert (await desk.balance("held", payout.user_id)).text() == "10.00"
        assert (await desk.balance("clearing", BANK.id)).text() == "-10.00"
        await desk.assert_proven()
        accepted = [Outcome(payout.key, Verdict.PAID)]
        await desk.world.run(lambda tx: outcome.apply(tx, BANK.id, accepted, evidence="query"))
        assert (await desk.balance("clearing", BANK.id)).minor == 0
        await desk.assert_proven()


async def test_a_return_may_overtake_its_payment(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        payout = await desk.payout("10.00")
        await desk.store(sheet("100.00", came_back(payout, "1")))
        await desk.settle()
        assert await desk.withdrawal(payout) == "returned"
        await desk.store(sheet("110.00", paid(payout, "2"), day=later(1)))
        await desk.settle()
        assert await desk.cash() == "100.00"
        assert await desk.withdrawal(payout) == "returned"
        assert (await desk.balance("available", payout.user_id)).text() == "10.00"
        assert await desk.breaks() == []
        await desk.assert_proven()


async def test_every_injected_difference_is_named(postgres: PostgresServer) -> None:
    """Altered, duplicated, unknown, under a strange reference, with fees; the rest is matched."""
    async with office(postgres) as desk:
        good, altered, doubled = await desk.payouts(["10.00", "20.00", "30.00"])
        await desk.store(
            sheet(
                "1000.00",
                line("F1", "-1.50", kind=LineKind.FEE),
                line("F2", "0.25", kind=LineKind.FEE),
                line("G", "-10.00", key=good.key, fee="0.10"),
                paid(altered, "A", "20.01"),
                paid(doubled, "D1"),
                paid(doubled, "D2"),
                line("U", "-7.00", remittance="who knows"),
                line("R", "-8.00", key="0100000000000ZZ"),
                line("C", "-9.00", key="ZZ00000000000AA"),
            )
        )
        await desk.settle()
        assert sorted(await desk.breaks()) == sorted(
            [
                ("amount-differs", text_id("sl", 1, await desk.line("A"))),
                ("booked-twice", text_id("sl", 1, await desk.line("D2"))),
                ("unknown-line", text_id("sl", 1, await desk.line("U"))),
                ("reference-unknown", text_id("sl", 1, await desk.line("R"))),
                ("unknown-line", text_id("sl", 1, await desk.line("C"))),
            ]
        )
        states = await desk.lines()
        assert {name for name, state in states.items() if state == "matched"} == {
            "F1", "F2", "G", "D1",
        }  # fmt: skip
        assert await desk.cash() == "884.64"
        assert (await desk.balance("suspense", BANK.id)).text() == "-74.01"
        assert (await desk.balance("rail_fees", BANK.id)).text() == "-1.35"
        assert await desk.withdrawal(altered) == "sent"
        await desk.assert_proven()


async def test_lines_go_to_the_cells_of_their_payments(postgres: PostgresServer) -> None:
    async with office(postgres, cells=3) as desk:
        payouts = [
            payout
            for cell in (1, 2, 3)
            for payout in await desk.payouts(["10.00", "5.00"], cell=cell)
        ]
        await desk.store(sheet("100.00", *[paid(payout) for payout in payouts]))
        await desk.settle()
        assert await desk.cash() == "55.00"
        assert {await desk.withdrawal(payout) for payout in payouts} == {"paid"}
        for cell in (1, 2, 3):
            assert (await desk.balance("clearing", BANK.id, cell)).minor == 0
        assert (await desk.balance("intercell", 1, 2)).text() == "15.00"
        assert (await desk.balance("intercell", 2, 1)).text() == "-15.00"
        assert (await desk.balance("intercell", 1, 1)).minor == 0
        await desk.assert_proven()


async def test_a_crash_between_question_and_answer_changes_nothing(
    postgres: PostgresServer,
) -> None:
    """Commands are delivered again after the relay forgot how far it was: same books."""
    async with office(postgres, cells=2) as desk:
        payout = await desk.payout("10.00", cell=2)
        await desk.store(sheet("100.00", paid(payout)))
        await desk.match()
        assert await desk.lines() == {f"L{payout.key}": "asked"}
        assert await desk.deliver(only=1, lose_position=True) == 1
        assert await desk.deliver(only=1, lose_position=True) == 0
        assert await desk.cash() == "100.00"
        assert await desk.deliver(only=2, lose_position=True) == 1
        assert await desk.deliver(only=2) == 0
        await desk.settle()
        assert await desk.cash() == "90.00"
        await desk.assert_proven()


async def test_the_same_question_asked_anew_is_answered_again_and_posts_once(
    postgres: PostgresServer,
) -> None:
    """A lost answer is asked for again under a new message: the attempt knows its line."""
    async with office(postgres, cells=2) as desk:
        payout = await desk.payout("10.00", cell=2)
        await desk.store(sheet("100.00", paid(payout)))
        await desk.match()
        await desk.deliver(only=1)
        await desk.deliver(only=2, lose=True)
        await desk.world.run(
            lambda tx: tx.execute(
                "UPDATE statement_line SET state = 'open', due_at = %s", (tx.now,)
            )
        )
        await desk.settle()
        assert await desk.cash() == "90.00"
        assert (await desk.balance("clearing", BANK.id, 2)).minor == 0
        assert await desk.breaks() == []
        await desk.assert_proven()


async def test_an_answer_that_nobody_waits_for_changes_nothing(postgres: PostgresServer) -> None:
    async with office(postgres, cells=2) as desk:
        payout = await desk.payout("10.00", cell=2)
        await desk.store(sheet("100.00", paid(payout, "L")))
        await desk.settle()
        name = text_id("sl", 1, await desk.line("L"))
        late = Answer(name, ok=False, slug="booked-twice", detail="late")
        message = Outgoing(1, 1, "line.booked", "k", 1, {"lines": [late.write()]}, "t")
        assert await desk.hand_over(2, message) == 1
        assert await desk.breaks() == []
        assert await desk.lines() == {"L": "matched"}
        await desk.assert_proven()


async def test_what_contradicts_the_attempt_is_a_break(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        rejected = await desk.payout("10.00", state="rejected")
        (foreign,) = await desk.payouts(["20.00"], account=WALLET)
        await desk.store(sheet("100.00", paid(rejected), paid(foreign)))
        await desk.settle()
        assert sorted(await desk.kinds()) == ["account-differs", "attempt-contradicts"]
        assert await desk.withdrawal(rejected) == "failed"
        assert (await desk.balance("available", rejected.user_id)).text() == "10.00"
        assert await desk.cash() == "70.00"
        await desk.assert_proven()


async def test_an_order_booked_as_one_sum(postgres: PostgresServer) -> None:
    async with office(postgres, cells=2) as desk:
        batch_id, key = await desk.batch(2)
        payouts = await desk.payouts(["10.00", "20.00"], cell=2, batch=batch_id)
        await desk.payouts(["5.00"], cell=2, batch=batch_id, state="rejected")
        await desk.store(sheet("100.00", line("B", "-30.00", key=key)))
        await desk.settle()
        assert {await desk.withdrawal(payout) for payout in payouts} == {"paid"}
        assert await desk.cash() == "70.00"
        await desk.store(
            sheet("70.00", line("B2", "-30.00", key=key), paid(payouts[0], "L"), day=later(1))
        )
        await desk.settle()
        assert await desk.kinds() == ["booked-twice", "booked-twice"]
        await desk.assert_proven()


async def test_an_order_with_a_transfer_in_it_is_for_a_person(postgres: PostgresServer) -> None:
    """A transfer never lies in clearing: as one sum with payouts it cannot be booked."""
    async with office(postgres) as desk:
        batch_id, key = await desk.batch()
        payout = await desk.payout("10.00", batch=batch_id)
        await desk.transfer("20.00", batch_id)
        await desk.store(sheet("100.00", line("B", "-30.00", key=key)))
        await desk.settle()
        assert await desk.kinds() == ["reference-unknown"]
        assert await desk.withdrawal(payout) == "sent"
        await desk.assert_proven()


async def test_a_sponsor_pays_in(postgres: PostgresServer) -> None:
    """By the remittance, retyped with spaces and in lower case, or by the reference alone."""
    async with office(postgres) as desk:
        retyped = f"Invoice 7, campaign {FUNDING[:5].lower()} {FUNDING[5:]} thank you"
        await desk.store(
            sheet(
                "0.00",
                line("I1", "500.00", kind=LineKind.INCOMING, remittance=retyped),
                line("I2", "20.00", kind=LineKind.INCOMING, key=FUNDING),
                line("I3", "30.00", kind=LineKind.INCOMING, remittance="Invoice 8"),
                line("I4", "40.00", kind=LineKind.INCOMING, remittance="CPUSD000000001"),
                line(
                    "I5",
                    "50.00",
                    kind=LineKind.INCOMING,
                    remittance=f"{FUNDING} CPUSD000000001",
                ),
            )
        )
        await desk.settle()
        assert (await desk.balance("budget", CAMPAIGN)).text() == "520.00"
        assert await desk.cash() == "640.00"
        assert sorted(await desk.kinds()) == [
            "funding-ambiguous", "funding-currency", "unknown-line",
        ]  # fmt: skip
        funded = await desk.topics("campaign.funded")
        assert [row["amount"] for row in funded] == [
            {"amount": "500.00", "currency": "EUR"},
            {"amount": "20.00", "currency": "EUR"},
        ]
        assert funded[0]["campaign"] == text_id("cp", 1, CAMPAIGN)
        await desk.assert_proven()


async def test_a_transfer_is_booked_on_both_sides_in_any_order(postgres: PostgresServer) -> None:
    for wallet_first in (False, True):
        async with office(postgres) as desk:
            transfer_id, key = await desk.transfer("40.00")
            out = sheet("100.00", line("T", "-40.00", key=key))
            into = sheet("0.00", line("T", "40.00", kind=LineKind.TOPUP, key=key))
            if wallet_first:
                await desk.store(into, account=WALLET)
                await desk.settle()
                assert (await desk.balance("transit", 0)).text() == "40.00"
                await desk.store(out)
            else:
                await desk.store(out)
                await desk.settle()
                assert (await desk.balance("transit", 0)).text() == "-40.00"
                await desk.store(into, account=WALLET)
            await desk.settle()
            assert await desk.cash(BANK) == "60.00"
            assert await desk.cash(WALLET) == "40.00"
            assert (await desk.balance("transit", 0)).minor == 0
            assert await _transfer_state(desk, transfer_id) == "done"
            assert await desk.breaks() == []
            await desk.assert_proven()


async def test_a_transfer_that_comes_back(postgres: PostgresServer) -> None:
    """Also when the line of the return is seen first: it waits in suspense for the other one."""
    async with office(postgres) as desk:
        transfer_id, key = await desk.transfer("40.00")
        await desk.store(sheet("100.00", line("B", "40.00", kind=LineKind.RETURN, key=key)))
        await desk.settle()
        assert await desk.kinds() == ["attempt-contradicts"]
        await desk.store(sheet("140.00", line("O", "-40.00", key=key), day=later(1)))
        await desk.settle()
        assert await _transfer_state(desk, transfer_id) == "failed"
        assert await desk.cash() == "100.00"
        assert (await desk.balance("suspense", BANK.id)).minor == 0
        assert await desk.breaks() == []
        assert await desk.kinds("resolved") == ["attempt-contradicts"]
        await desk.assert_proven()


async def test_a_transfer_of_another_amount_or_twice_is_a_break(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        _, key = await desk.transfer("40.00")
        await desk.store(
            sheet("0.00", line("T", "39.00", kind=LineKind.TOPUP, key=key)), account=WALLET
        )
        await desk.store(
            sheet("100.00", line("T1", "-40.00", key=key), line("T2", "-40.00", key=key))
        )
        await desk.settle()
        assert sorted(await desk.kinds()) == ["booked-twice", "transfer-differs"]
        await desk.assert_proven()


async def _transfer_state(desk: Office, transfer_id: int) -> str:
    return await desk.world.read(
        lambda tx: tx.value("SELECT state FROM transfer WHERE id = %s", (transfer_id,))
    )
