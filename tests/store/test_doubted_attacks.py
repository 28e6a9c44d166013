"""Orders that were put off or doubted, attacked: senders that sleep, people who act meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import httpx
import pytest
from tests.calling import NOBODY
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import LAG, WINDOW, AskableRail
from tests.served import make_deps, make_settings
from tests.store.test_doubted import STEP, go_on, not_now, proofs, says_no
from tests.withdrawals import assert_proven, available
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.cli import doctor
from paymaster.db.tx import ControlTx
from paymaster.dispatch import accounts, resolve, unknowns
from paymaster.dispatch.accounts import NewAccount
from paymaster.dispatch.decide import Finding, of_withdrawal
from paymaster.dispatch.failures import find
from paymaster.kernel.clock import ManualClock, rfc3339
from paymaster.kernel.errors import Conflict, NeverSent, RailError, RailRefused, RailUnknown
from paymaster.kernel.ids import new_trace_id
from paymaster.rails.base import Outcome, Prepared, RailAccount, Verdict


@pytest.fixture
def only() -> AskableRail:
    return AskableRail("only")


@pytest.fixture
async def alone(postgres: PostgresServer, only: AskableRail) -> AsyncIterator[Payouts]:
    """One account, so that nothing can go another way."""
    async with payout_world(postgres, only) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


async def pause(payouts: Payouts, name: str, state: str = "paused") -> None:
    async def work(tx: ControlTx) -> None:
        await accounts.set_state(tx, 1, 1, name, state, "repairs")

    await payouts.world.dbs.control.run(ACTOR, new_trace_id(), work)
    await payouts.reload()


def silent() -> NeverSent:
    return NeverSent("provider-unreachable", "No connection.")


async def test_a_try_that_never_left_takes_nothing_back_of_what_was_said(
    alone: Payouts, only: AskableRail
) -> None:
    """Put off, and nothing has left since until its time was over: it ends all the same."""
    withdrawal = await approved(alone, await new_payee(alone, 1), "30.00")
    only.before = [not_now("NOT_ENOUGH"), *[silent() for _ in range(10_000)]]
    dispatcher = alone.dispatcher()
    await alone.run(dispatcher)
    await go_on(alone, dispatcher, WINDOW + timedelta(hours=1))
    only.before = []
    await go_on(alone, dispatcher, timedelta(hours=2))
    assert (await alone.states(withdrawal))[1] == ["rejected", "paid"]
    assert (await proofs(alone))[0] == ("refused", "NOT_ENOUGH", "query:no-and-absent")


@pytest.mark.parametrize(("code", "goes_on"), [("RECEIVED_MONEY_LIMIT", True), ("NO_AUTH", False)])
async def test_a_payee_whose_day_is_full_stops_nobody_else(
    alone: Payouts, only: AskableRail, code: str, goes_on: bool
) -> None:
    for number in range(1, 9):
        await approved(alone, await new_payee(alone, number), "30.00")
    only.before = [not_now(code) for _ in range(8)]
    dispatcher = alone.dispatcher()
    await alone.run(dispatcher)
    (lane,) = dispatcher.lanes.values()
    assert lane.healthy(alone.world.clock.now()) is goes_on


async def test_a_pause_for_repairs_fails_nobody_who_was_put_off(
    alone: Payouts, only: AskableRail
) -> None:
    earner = await new_payee(alone, 1)
    withdrawal = await approved(alone, earner, "30.00")
    only.before = [not_now("SIGN_ERROR") for _ in range(100)]
    dispatcher = alone.dispatcher()
    await alone.run(dispatcher)
    await pause(alone, "only")
    await go_on(alone, dispatcher, timedelta(minutes=30))
    assert await alone.states(withdrawal) == ("unknown", ["unknown"])
    assert await available(alone.world, earner) == ("70.00", "30.00")
    only.before = []
    await pause(alone, "only", "active")
    await go_on(alone, dispatcher, timedelta(minutes=30))
    assert await alone.states(withdrawal) == ("paid", ["paid"])
    assert len(only.bodies) == 1


async def test_a_sleeper_with_an_old_not_found_frees_nothing(
    alone: Payouts, only: AskableRail
) -> None:
    """It was asked before the try that paid, and its own copy is refused as a second one."""
    withdrawal = await approved(alone, await new_payee(alone, 1), "30.00")
    only.before = [RailUnknown("provider-silent", "Nothing.")]
    orders = await alone.claim()
    await alone.deliver(orders)
    alone.world.clock.advance(LAG + STEP)
    absent = await alone.ask("only")
    assert absent, "the sleeper knows that it is not there, and falls asleep"
    desk, account = alone.desk, alone.accounts["only"]
    alone.world.clock.advance(timedelta(minutes=20))
    again = await alone.ask("only")
    awake = await alone.world.run(lambda tx: resolve.claim_proven(tx, desk, account, again))
    only.after = [RailUnknown("provider-silent", "It was paid, but nothing came back.")]
    await alone.deliver(awake)
    assert sum(only.paid.values()) == 1
    late = await alone.world.run(lambda tx: resolve.claim_proven(tx, desk, account, absent))
    only.before = [RailRefused("provider-refused", "It is there already.")]
    await alone.deliver(late)
    alone.world.clock.advance(timedelta(minutes=20))
    await alone.run(alone.dispatcher())
    assert await alone.states(withdrawal) == ("paid", ["paid"])


async def test_what_is_accepted_between_question_and_end_is_not_dead(
    alone: Payouts, only: AskableRail
) -> None:
    withdrawal = await approved(alone, await new_payee(alone, 1), "30.00")
    only.after = [says_no("wallet_closed")]
    await alone.deliver(await alone.claim())
    key = await alone.key_of(withdrawal)
    only.answers[key] = Verdict.NOT_FOUND
    alone.world.clock.advance(LAG + STEP)
    desk, account = alone.desk, alone.accounts["only"]
    asked = await alone.world.run(lambda tx: resolve.claim_questions(tx, desk, account, 10))
    told = [await resolve.ask(only, account, one, alone.pace, alone.world.clock) for one in asked]
    await alone.hear("only", Outcome(key, Verdict.ACCEPTED))
    await alone.world.run(lambda tx: resolve.conclude(tx, desk, account, told, alone.random))
    assert await alone.states(withdrawal) == ("sent", ["sent"])
    await alone.hear("only", Outcome(key, Verdict.PAID))


async def test_a_person_and_a_copy_on_the_wire_do_not_cross(
    alone: Payouts, only: AskableRail
) -> None:
    """While it goes again nobody can say that it was not paid; afterwards it never goes again."""
    earner = await new_payee(alone, 1)
    withdrawal = await approved(alone, earner, "30.00")
    only.before = [not_now("NOT_ENOUGH"), not_now("NOT_ENOUGH")]
    await alone.deliver(await alone.claim())
    alone.world.clock.advance(LAG + STEP)
    absent = await alone.ask("only")
    desk, account = alone.desk, alone.accounts["only"]
    orders = await alone.world.run(lambda tx: resolve.claim_proven(tx, desk, account, absent))
    assert orders

    async def not_paid() -> None:
        await alone.world.run(
            lambda tx: of_withdrawal(tx, withdrawal, Finding.NOT_PAID, "seen in their console")
        )

    with pytest.raises(Conflict):
        await not_paid()
    await alone.deliver(orders)
    await not_paid()
    await go_on(alone, alone.dispatcher(), 2 * WINDOW)
    assert await alone.states(withdrawal) == ("failed", ["rejected"])
    assert len(only.orders) == 2
    assert await available(alone.world, earner) == ("100.00", "0.00")


async def test_two_dispatchers_and_a_sender_that_sleeps_through_its_lease(
    alone: Payouts, only: AskableRail
) -> None:
    """Woken after its lease, with a "not now" in its hand, it writes nothing and frees nothing."""
    withdrawal = await approved(alone, await new_payee(alone, 1), "30.00")
    only.before = [not_now("NOT_ENOUGH")]
    (order,) = await alone.claim()
    slept = await alone.call(order)
    alone.world.clock.advance(alone.pace.lease + STEP)
    await alone.expire("only")
    await alone.finish(slept)
    said = owner_rows(alone.world, "SELECT doubted_no, put_off, ended, tries FROM batch")
    assert said == [(None, False, 0, 1)]
    dispatcher = alone.dispatcher()
    await go_on(alone, dispatcher, timedelta(minutes=30))
    assert await alone.states(withdrawal) == ("paid", ["paid"])


async def test_a_refused_order_of_many_payments_comes_to_an_end(
    postgres: PostgresServer,
) -> None:
    """Also of more payments than are asked about at once."""
    rail = AskableRail("many", batch_items=20)
    async with payout_world(postgres, rail) as payouts:
        earners = [await new_payee(payouts, n) for n in range(1, 21)]
        all_of = [await approved(payouts, one, "30.00") for one in earners]
        rail.before = [says_no("wallet_closed") for _ in range(1000)]
        dispatcher = payouts.dispatcher()
        await payouts.run(dispatcher)
        assert len(rail.orders) == 1
        await go_on(payouts, dispatcher, timedelta(hours=3))
        states = {(await payouts.states(one))[0] for one in all_of}
        assert states == {"failed"}
        assert len(rail.orders) == 1
        await assert_proven(payouts.world)
        await assert_paid_once(payouts)


class ForgetfulRail(AskableRail):
    """It does not show a number any longer than it takes it again, as WeChat's oldest product."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.clock: ManualClock | None = None
        self.first: dict[str, datetime] = {}

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        assert self.clock is not None
        self.first.setdefault(prepared.keys[0], self.clock.now())
        return await super().send(account, prepared)

    async def query(self, account: RailAccount, key: str) -> Outcome:
        assert self.clock is not None
        if not self.paid[key] and self.clock.now() >= self.first[key] + WINDOW:
            return Outcome(key, Verdict.UNKNOWN)
        return await super().query(account, key)


async def test_what_was_put_off_ends_while_its_end_can_still_be_proven(
    postgres: PostgresServer,
) -> None:
    rail = ForgetfulRail("forgets")
    async with payout_world(postgres, rail) as payouts:
        rail.clock = payouts.world.clock
        withdrawal = await approved(payouts, await new_payee(payouts, 1), "30.00")
        rail.before = [not_now("NOTENOUGH") for _ in range(10_000)]
        dispatcher = payouts.dispatcher()
        await payouts.run(dispatcher)
        await go_on(payouts, dispatcher, WINDOW)
        rail.before = []
        await go_on(payouts, dispatcher, timedelta(hours=2))
        assert (await payouts.states(withdrawal))[1] == ["rejected", "paid"]
        await assert_proven(payouts.world)
        await assert_paid_once(payouts)


async def shown(payouts: Payouts) -> unknowns.Next:
    world, known = payouts.world, payouts.desk.accounts
    (one,) = await world.read(lambda tx: unknowns.listing(tx, tx.now, tx.now, 10))
    return unknowns.next_of(one, known, payouts.rails, world.clock.now())


async def test_an_operator_is_told_why_it_waits_and_until_when(
    alone: Payouts, only: AskableRail
) -> None:
    await approved(alone, await new_payee(alone, 1), "30.00")
    began = alone.world.clock.now()
    only.before = [RailUnknown("provider-silent", "Nothing."), not_now("NOT_ENOUGH"), silent()]
    dispatcher = alone.dispatcher()
    await alone.run(dispatcher)
    assert "NOT_ENOUGH" not in (await shown(alone)).words
    while len(only.orders) < 3:
        await go_on(alone, dispatcher, STEP)
    said = await shown(alone)
    assert "put it off (NOT_ENOUGH)" in said.words
    assert rfc3339(began + WINDOW - WINDOW / 12)[:16] in said.words
    assert said.at is not None
    await pause(alone, "only")
    assert "paused" in (await shown(alone)).words


async def test_the_doctor_and_the_warning_name_what_puts_payments_off(
    alone: Payouts, only: AskableRail, tmp_path: Path
) -> None:
    for number in (1, 2):
        await approved(alone, await new_payee(alone, number), "30.00")
    only.before = [not_now("NOT_ENOUGH") for _ in range(1000)]
    dispatcher, world = alone.dispatcher(), alone.world
    await alone.run(dispatcher)
    async with httpx.AsyncClient(trust_env=False, verify=NOBODY) as http:
        deps = make_deps(make_settings(tmp_path), world.dbs, world.clock, http, alone.rails)
        assert await doctor.put_off(deps) == [], "a moment is nothing to call anybody for"
        began = world.clock.now()
        await go_on(alone, dispatcher, timedelta(minutes=31))
        ((name, fine, detail),) = await doctor.put_off(deps)
    assert (name.split()[-1], fine) == ("only", False)
    assert detail.startswith(f"2 put off, the oldest of {rfc3339(began)}: NOT_ENOUGH. ")
    assert find("NOT_ENOUGH").operator.en in detail
    assert await world.run(lambda tx: unknowns.warn(tx, [timedelta(minutes=30)], 10)) == 2
    told = owner_rows(world, "SELECT payload FROM outbox WHERE topic = 'attempt.unknown_old'")
    assert [payload["code"] for (payload,) in told] == ["NOT_ENOUGH", "NOT_ENOUGH"]


async def test_a_slower_pace_is_no_other_merchant(alone: Payouts, only: AskableRail) -> None:
    """Who is told that it is too much at once slows down, and what was put off goes on."""
    withdrawal = await approved(alone, await new_payee(alone, 1), "30.00")
    only.before = [not_now("FREQUENCY_LIMITED")]
    dispatcher = alone.dispatcher()
    await alone.run(dispatcher)

    async def work(tx: ControlTx) -> None:
        new = NewAccount("only", "only", "EUR", {"rate_per_second": "5"}, {})
        await accounts.put(tx, 1, 1, new, alone.rails)

    await alone.world.dbs.control.run(ACTOR, new_trace_id(), work)
    await alone.reload()
    await go_on(alone, dispatcher, timedelta(minutes=30))
    assert await alone.states(withdrawal) == ("paid", ["paid"])


async def test_settings_that_changed_meanwhile_are_said(alone: Payouts, only: AskableRail) -> None:
    """Another merchant may be asked since: nothing is proven, nothing goes, and that is said."""
    withdrawal = await approved(alone, await new_payee(alone, 1), "30.00")
    only.before = [not_now("NO_AUTH") for _ in range(1000)]
    dispatcher = alone.dispatcher()
    await alone.run(dispatcher)
    alone.world.clock.advance(timedelta(minutes=5))

    async def work(tx: ControlTx) -> None:
        new = NewAccount("only", "only", "EUR", {"scene": "1005"}, {})
        await accounts.put(tx, 1, 1, new, alone.rails)

    await alone.world.dbs.control.run(ACTOR, new_trace_id(), work)
    await alone.reload()
    only.before = []
    sent = len(only.orders)
    await go_on(alone, dispatcher, 2 * WINDOW)
    assert await alone.states(withdrawal) == ("unknown", ["unknown"])
    assert len(only.orders) == sent
    assert "settings" in (await shown(alone)).words


def mishap(random: Random) -> RailError | None:
    """What a call meets: most of it says no, in one way or another, or nothing at all."""
    kinds = [
        not_now("NOT_ENOUGH"),
        not_now("RECEIVED_MONEY_LIMIT"),
        says_no("PARAM_ERROR"),
        silent(),
        RailUnknown("provider-silent", "Nothing."),
        None,
    ]
    return random.choice(kinds)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_said_and_whoever_is_stopped_nobody_is_paid_twice(
    postgres: PostgresServer, seed: int
) -> None:
    """Three processes, stopped at random; lies before and after paying; pauses in between."""
    random = Random(seed)
    first, second = AskableRail("first", batch_items=3), AskableRail("second")
    async with payout_world(postgres, first, second) as payouts:
        owed = [await approved(payouts, await new_payee(payouts, n), "30.00") for n in range(1, 9)]
        crew = [payouts.dispatcher() for _ in range(3)]
        for _ in range(60):
            for rail in (first, second):
                rail.before = [error for _ in range(3) if (error := mishap(random)) is not None]
                lie = random.choice([None, not_now("NOT_ENOUGH"), says_no("PARAM_ERROR")])
                rail.after = [] if lie is None else [lie]
                rail.silent = random.randrange(3)
            turn = random.randrange(3)
            if random.random() < 0.1:
                await pause(payouts, "first", random.choice(["paused", "active"]))
            crew[turn].reload()
            await crew[turn].tick(1)
            if random.random() < 0.3:
                await crew[turn].stop()
                crew[turn] = payouts.dispatcher()
            else:
                await crew[turn].drain()
            payouts.world.clock.advance(timedelta(seconds=random.choice([5, 70, 400, 3600])))
        first.before = second.before = []
        first.after = second.after = []
        first.silent = second.silent = 0
        await pause(payouts, "first", "active")
        await go_on(payouts, crew[0], 2 * WINDOW)
        for withdrawal in owed:
            state, attempts = await payouts.states(withdrawal)
            assert state in {"paid", "failed", "unknown"}, (state, attempts)
        left = owner_rows(
            payouts.world,
            "SELECT b.ended < b.tries OR b.doubted_no IS NULL FROM attempt a"
            " JOIN batch b ON b.id = a.batch_id WHERE a.state = 'unknown'",
        )
        assert all(open_still for (open_still,) in left), "what is proven dead has ended"
        await assert_proven(payouts.world)
        await assert_paid_once(payouts)
