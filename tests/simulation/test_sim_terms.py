"""Fees, quotes, automatic payouts and holds by order are played, and each check finds its fault."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace

import pytest
from tests.simulation.test_sim import USERS, Hand

from paymaster_sim import checks_terms, terms, writing
from paymaster_sim.cast import Cast
from paymaster_sim.checks import Violation
from paymaster_sim.eye import Eye, Seen
from paymaster_sim.mixes import EURO
from paymaster_sim.script import FAULTS, Act, Script
from paymaster_sim.stage import Stage, stage
from paymaster_sim.world import World

_KINDS = ("sweep", "freeze", "thaw", "race", "reprice", "leave")


@pytest.fixture(scope="module")
def small() -> Generator[Stage]:
    with stage(USERS) as made:
        yield made


def _with(script: Script, *more: Act) -> Script:
    """The script with these acts in the place of what offices would do."""
    kept = [act for act in script.acts if act.kind not in _KINDS]
    return replace(script, acts=tuple(sorted([*kept, *more], key=lambda act: act.at)))


def _waves(script: Script) -> list[int]:
    return sorted({act.at for act in script.acts if act.kind == "want"})


def test_scripts_have_all_of_it() -> None:
    scripts = [writing.write(seed, 30, 50, tuple(FAULTS)) for seed in range(1, 6)]
    acts = [act for script in scripts for act in script.acts]
    assert {act.kind for act in acts} >= {*_KINDS}
    wants = [act for act in acts if act.kind == "want"]
    assert 0.05 < sum(bool(act.data.get("quoted")) for act in wants) / len(wants) < 0.3


def test_prices_are_worked_out_from_what_plans_mean() -> None:
    assert terms.fees(0, 500) == {(500, 11), (500, 20)}  # 5 + 6.25, 9 + 10 and at least 20
    assert terms.fees(1, 500) == {(475, 25), (463, 37)}  # at least 25; 35 + 2.5 to the even one
    assert terms.fees(0, 4100) == {(4100, 40), (4100, 70)}
    for way in (0, 1):
        for asked in (100, 199, 700, 2500):
            assert all(terms.priced(way, *each) for each in terms.fees(way, asked))
            assert not terms.priced(way, asked, 0)


class _Done(Exception):
    pass


def _charged(eye: Eye, cast: Cast) -> None:
    checks_terms.charged(eye, cast)


def _automatic(eye: Eye, _: Cast) -> None:
    checks_terms.automatic(eye)


def _held(eye: Eye, _: Cast) -> None:
    checks_terms.held(eye)


_TWICE = (
    "UPDATE {s}.automatic_payout SET minimum = 1;"
    "UPDATE {s}.withdrawal SET user_id = %(user)s, requested_at = %(at)s WHERE id = %(other)s;"
    "INSERT INTO {s}.automatic_run VALUES ('auto:again', %(other)s, 1, 1)"
)
TAMPERED: dict[str, tuple[str, Callable[[Eye, Cast], None]]] = {
    "priced-otherwise": ("UPDATE {s}.withdrawal SET fee = fee + 1000", _charged),
    "fees-differ": (
        "UPDATE {s}.account SET balance = balance + 1 WHERE kind = 'fee_revenue'",
        _charged,
    ),
    "automatic-small": ("UPDATE {s}.automatic_payout SET minimum = 10000000", _automatic),
    "automatic-twice": (_TWICE, _automatic),
    "moved-though-held": (
        "UPDATE {s}.legal_hold SET subject_id = %(other)s, subject_kind = 'withdrawal'",
        _held,
    ),
}


def _ready(world: World) -> tuple[Seen, Seen] | None:
    """One that nobody asked for, and one that was asked for later, where something is held."""
    holds = dict(world.eye.legal_holds())
    seen = [one for one in world.eye.withdrawals() if one.cell in holds]
    for one in (each for each in seen if each.automatic):
        for other in seen:
            after = other.cell == one.cell and other.id > max(one.id, holds[one.cell])
            if after and other.state == "paid" and not other.automatic:
                return one, other
    return None


def test_each_check_finds_what_was_tampered_with(small: Stage) -> None:
    seen: list[str] = []

    def meddle(world: World) -> None:
        pair = _ready(world)
        if pair is None:
            return
        one, other = pair
        with closing(Hand(small, world)) as hand:
            schema = f"cell_{one.cell}"
            at = hand.rows(f"SELECT requested_at FROM {schema}.withdrawal WHERE id = {one.id}")
            for name, (statement, check) in TAMPERED.items():
                check(hand, world.cast)
                hand.do("BEGIN")
                hand.do(statement.format(s=schema), user=one.user_id, other=other.id, at=at[0][0])
                with pytest.raises(Violation, match=name):
                    check(hand, world.cast)
                hand.do("ROLLBACK")
                seen.append(name)
        raise _Done

    script = writing.write(3, 6, USERS, ("missing",), tuple(EURO.ways))
    first, *others = _waves(script)
    order = {"what": "withdrawal", "pick": 0, "reference": "order 99"}
    sweeps = [Act(at, "sweep", {"both": True}) for at in (first, *others)]
    found = small.play(_with(script, Act(first + 1, "freeze", order), *sweeps), meddle=meddle)
    assert found.violation is not None
    assert found.violation.detail.startswith("_Done"), found.violation.detail
    assert seen == list(TAMPERED)
