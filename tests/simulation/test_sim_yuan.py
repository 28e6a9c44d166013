"""The simulation in yuan: WeChat Pay with payees who confirm or have agreed, and Alipay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import closing
from typing import Any

import pytest
from tests.simulation.test_sim import Hand

from paymaster.kernel.errors import Refusal
from paymaster_sim import checks, writing
from paymaster_sim.checks import Violation
from paymaster_sim.clock import DAY_SECONDS
from paymaster_sim.merchants import ALIPAY, CONSENT, WECHAT
from paymaster_sim.mixes import AGREED, YUAN, mix_of, rails_of
from paymaster_sim.script import FAULTS, Act, Script, load
from paymaster_sim.stage import Stage, stage
from paymaster_sim.world import World

USERS, DAYS = 6, 4
HOUR = 3600
NOON = DAY_SECONDS + 12 * HOUR
CONFIRMED, AGREED_ONCE = (WECHAT, ALIPAY), (CONSENT, ALIPAY)


@pytest.fixture(scope="module")
def made() -> Generator[Stage]:
    with stage(USERS) as found:
        yield found


def want(rail: str, at: int = NOON, key: str = "w1", person: int = 0, **plan: Any) -> Act:
    """Somebody asks for one yuan; `plan` is what a payee of WeChat's then does."""
    data = {"key": key, "person": person, "rail": rail, "minor": 100}
    return Act(at, "want", {**data, "payee": plan} if plan else data)


def story(*acts: Act, rails: tuple[str, ...] = CONFIRMED, days: int = DAYS) -> Script:
    """Everybody has earned something on the first day, and the bank says so; then these acts."""
    events = [(person, 1, person + 1) for person in range(USERS)]
    before = [
        Act(0, "open", {"bank": 1_000_000, "float": 100_000}),
        Act(8 * HOUR, "fund", {"campaign": "quick", "minor": 100_000, "key": "f1"}),
        Act(9 * HOUR, "earn", {"events": events, "twice": False}),
        Act(DAY_SECONDS, "close", {"prove": False}),
    ]
    return Script(7, days, USERS, rails, (*before, *sorted(acts, key=lambda act: act.at)))


def ends(made: Stage, script: Script) -> Counter[str]:
    """The states in which a run's withdrawals end; nothing may be violated."""
    result = made.play(script)
    assert result.violation is None, result.violation
    return result.states


# ---------------------------------------------------------------------------------- whole runs


def test_a_seed_with_all_faults_holds_and_is_the_same_run_again(made: Stage) -> None:
    script = writing.write(4, DAYS, USERS, tuple(FAULTS), CONFIRMED)
    first = made.play(script, keep=True)
    assert first.violation is None, first.violation
    assert first.withdrawals > 5
    assert sum(first.by_rail[WECHAT].values()) > 2
    again = made.play(load(script.dump()), keep=True)
    assert again.lines == first.lines
    assert again.digest == first.digest


def test_a_seed_of_payees_who_have_agreed_holds_with_all_faults(made: Stage) -> None:
    found = made.play(writing.write(4, DAYS, USERS, tuple(FAULTS), AGREED_ONCE))
    assert found.violation is None, found.violation
    assert sum(found.by_rail[CONSENT].values()) > 2


def test_the_script_of_a_seed_strikes_with_every_fault() -> None:
    """In one of the two ways to be paid by WeChat Pay, or in both."""
    struck = Counter[str | None]()
    for rails in (CONFIRMED, AGREED_ONCE):
        acts = writing.write(1, 30, 50, tuple(FAULTS), rails).acts
        struck.update(act.fault for act in acts)
    silent = {"repeated", "report-lost"}  # that one is about a bank's payments only
    assert {name for name in FAULTS if not struck[name]} == silent


def test_the_seed_chooses_how_people_are_paid() -> None:
    chosen = Counter(mix_of(rails_of(seed)).name for seed in range(1, 61))
    assert chosen == {"euro": 57, "yuan": 2, "agreed": 1}
    assert mix_of(rails_of(1, "wechat,alipay")) is YUAN
    assert mix_of(rails_of(3, "wechat,alipay")) is AGREED
    assert rails_of(3, "alipay") == (ALIPAY,)
    for asked in ("float,wechat", "paper", ","):
        with pytest.raises(Refusal, match="rails-unknown"):
            rails_of(1, asked)


# --------------------------------------------------------------------------------- what payees do


def test_payees_confirm_refuse_or_forget(made: Stage) -> None:
    acts = [
        want(WECHAT, key="app", person=0, act="confirm", after=60),
        want(WECHAT, key="message", person=1, act="confirm", after=20 * HOUR, message=True),
        want(WECHAT, key="refuse", person=2, act="refuse", after=60),
        want(WECHAT, key="forget", person=3, act="forget"),
        want(WECHAT, key="late", person=4, act="confirm", after=25 * HOUR, message=True),
        want(ALIPAY, key="alipay", person=5),
    ]
    result = made.play(story(*acts))
    assert result.violation is None, result.violation
    assert result.by_rail == {"alipay": {"paid": 1}, "wechat": {"paid": 2, "failed": 3}}


def test_payments_are_taken_back_at_the_moment_at_which_they_are_confirmed(made: Stage) -> None:
    """A second before, in the same one, and a second after: each has one end."""
    acts: list[Act] = []
    for person, after in enumerate((59, 60, 61)):
        key = f"w{person}"
        acts.append(want(WECHAT, key=key, person=person, act="confirm", after=after, message=True))
        acts.append(Act(NOON + 60, "take-back", {"key": key}, "taken-back"))
    assert ends(made, story(*acts)).total() == 3


def test_consent_that_was_withdrawn_pays_nobody(made: Stage) -> None:
    acts = [
        Act(NOON - 60, "consent", {"person": 0, "given": 0}, "consent-closed"),
        want(CONSENT, person=0),
        want(CONSENT, key="w2", person=1),
    ]
    assert ends(made, story(*acts, rails=AGREED_ONCE)) == {"failed": 1, "paid": 1}


# ------------------------------------------------------------------------------------ what is found


def test_a_signed_no_to_an_order_that_was_taken_is_no_end(made: Stage) -> None:
    """Nor is a signed word that our funds are short."""
    acts: list[Act] = []
    for hour, what in enumerate(("lied_no", "lied_short")):
        at = NOON + hour * HOUR
        mishap = {"call": "transfer.create", "what": what, "times": 1}
        acts += [
            Act(at, "mishap", mishap, "lied-no"),
            Act(at, "alipay", {f"{what}@alipay.fund.trans.uni.transfer": 1}, "lied-no"),
            want(WECHAT, at, key=f"w{hour}", person=hour),
            want(ALIPAY, at, key=f"a{hour}", person=2 + hour),
        ]
    assert ends(made, story(*acts)) == {"paid": 4}


def test_money_that_was_set_apart_for_days_is_not_yet_paid(made: Stage) -> None:
    """Its provider works on it, and says no in the end."""
    acts = [Act(day * DAY_SECONDS, "close", {"prove": True}) for day in (2, 3, 4, 5)]
    for person, after in enumerate((30, DAY_SECONDS, 3 * DAY_SECONDS)):
        fate = {"person": person, "rail": ALIPAY, "outcome": "fail", "code": "PAYEE_NOT_EXIST"}
        acts.append(Act(NOON, "fate", {**fate, "after": after}, "refused"))
        acts.append(want(ALIPAY, key=f"w{person}", person=person))
    assert ends(made, story(*acts, days=6)) == {"failed": 3}


def test_money_that_comes_back_days_later_is_returned(made: Stage) -> None:
    fate = {"person": 0, "rail": ALIPAY, "outcome": "return", "code": "PAYEE_CARD_REFUND"}
    acts = [
        Act(NOON, "fate", {**fate, "after": 2 * DAY_SECONDS}, "returned"),
        Act(NOON, "alipay", {"notice_lose": 9}, "missing"),
        want(ALIPAY),
        Act(5 * DAY_SECONDS, "close", {"prove": False}),
    ]
    assert ends(made, story(*acts, days=6)) == {"returned": 1}


def test_a_run_waits_for_the_bill_of_what_comes_back_after_its_last_day(made: Stage) -> None:
    """In the evening, when the bill of that day is for the day after (seed 760 once)."""
    evening = DAY_SECONDS + 13 * HOUR
    fate = {"person": 0, "rail": ALIPAY, "outcome": "return", "code": "PAYEE_CARD_REFUND"}
    acts = [
        Act(evening, "fate", {**fate, "after": 3 * DAY_SECONDS}, "returned"),
        want(ALIPAY, evening),
        Act(2 * DAY_SECONDS, "close", {"prove": False}),
    ]
    assert ends(made, story(*acts, days=2)) == {"returned": 1}


def test_a_line_of_a_bill_that_stays_in_doubt_is_found(made: Stage) -> None:
    def meddle(world: World) -> None:
        with closing(Hand(made, world)) as hand:
            hand.do("UPDATE cell_1.statement_line SET reference = NULL WHERE kind = 'set-apart'")
            hand.do(
                "UPDATE cell_1.statement_line SET state = 'break', matched = NULL"
                " WHERE kind = 'set-apart'"
            )

    found = made.play(story(want(ALIPAY)), meddle=meddle).violation
    assert found is not None
    assert found.name == "line-in-doubt"


class _Done(Exception):
    pass


def test_what_opens_a_payment_is_found_wherever_it_lies(made: Stage) -> None:
    """Planted in the clear, in a column of texts and in one of bytes."""

    def meddle(world: World) -> None:
        packages = world.outside.yuan.packages() if world.outside.yuan else []
        if not packages:
            return
        checks.sealed(world.eye, packages)
        for kind, value in (("bytea", "convert_to(%(p)s, 'UTF8')"), ("text", "%(p)s")):
            with closing(Hand(made, world)) as hand:
                hand.do(f"CREATE TABLE cell_2.planted (one {kind})")
                hand.do(f"INSERT INTO cell_2.planted VALUES ({value})", p=f"x{packages[0]}")
                with pytest.raises(Violation, match="package-readable"):
                    checks.sealed(hand, packages)
                hand.do("DROP TABLE cell_2.planted")
        raise _Done

    result = made.play(story(want(WECHAT, act="confirm", after=60)), meddle=meddle)
    assert result.violation is not None
    assert result.violation.detail.startswith("_Done"), result.violation


def test_a_payee_who_is_shown_another_package_is_a_violation(
    made: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paymaster_sim.clients import Clients

    async def another(*_: object) -> str:
        return "pkg of another payment"

    monkeypatch.setattr(Clients, "package", another)
    found = made.play(story(want(WECHAT, act="confirm", after=60))).violation
    assert found is not None
    assert found.name == "package-differs"


def test_an_order_that_is_paid_twice_out_there_is_found(made: Stage) -> None:
    def meddle(world: World) -> None:
        with world.outside.world.chassis.tx() as tx:
            row = tx.one("SELECT bill_no FROM wechat_paid")
            if row is not None:
                tx.run(
                    "INSERT INTO wechat_paid (mchid, openid, reference, amount, product, bill_no,"
                    " at) SELECT mchid, openid, reference, amount, product, bill_no || 'x', at"
                    " FROM wechat_paid WHERE bill_no NOT LIKE '%x'"
                )

    found = made.play(story(want(WECHAT, act="confirm", after=5)), meddle=meddle).violation
    assert found is not None
    assert found.name == "paid-twice"


def test_figures_are_told_by_rail(made: Stage) -> None:
    result = made.play(
        story(want(WECHAT, act="confirm", after=5), want(ALIPAY, key="w2", person=1))
    )
    assert result.by_rail == {"alipay": {"paid": 1}, "wechat": {"paid": 1}}
