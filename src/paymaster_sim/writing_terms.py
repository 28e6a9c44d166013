"""What an ordinary script has beside work and wishes: quotes, prices, holds by order, moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random

from paymaster_sim import terms
from paymaster_sim.script import Act

HOUR = 3600
_QUOTED, _LEFT = 0.15, 0.015
_RACES = (
    ("approve", "deny"), ("approve", "hold"), ("deny", "hold"), ("approve", "approve"),
    ("release", "deny"),
)  # fmt: skip
_HELD = ("user", "destination", "withdrawal", "withdrawal")


def added(random: Random, acts: Iterable[Act], users: int, rails: Sequence[str]) -> list[Act]:
    """The same acts with these among them.

    Some ask for a quote before they ask for their money. Where people ask, others have orders from
    an authority, decide on the same withdrawal as a colleague, or put other prices in force.
    """
    found: list[Act] = []
    waves: dict[int, int] = {}
    for act in acts:
        wants = act.kind == "want"
        quoted = wants and random.random() < _QUOTED
        found.append(replace(act, data={**act.data, "quoted": True}) if quoted else act)
        if wants:
            waves[act.at] = waves.get(act.at, 0) + 1
            if random.random() < _LEFT:
                data = {"person": random.randrange(users), "rail": random.choice(rails)}
                found.append(Act(act.at + random.choice((0, 1, 30, 4 * HOUR)), "leave", data))
    for place, at in enumerate(sorted(waves)):
        found += _around(random, at, place)
    return found


def _around(random: Random, at: int, place: int) -> Iterable[Act]:
    """What happens in offices when people ask for money."""
    if random.random() < 0.3:
        yield Act(at, "sweep", {"both": random.random() < 0.5})
    later = at + random.choice((0, 1, 20, HOUR))
    if random.random() < 0.15:
        what = random.choice(_HELD)
        data = {"what": what, "pick": random.randrange(1000), "reference": f"order {place}"}
        yield Act(later, "freeze", data)
        if random.random() < 0.8:
            after = random.choice((1, HOUR, 15 * HOUR))
            yield Act(later + after, "thaw", {"pick": random.randrange(1000)})
    if random.random() < 0.3:
        first, second = random.choice(_RACES)
        data = {"first": first, "second": second, "pick": random.randrange(1000)}
        yield Act(later, "race", data)
    if random.random() < 0.2:
        yield Act(later, "reprice", {"prices": random.choice((terms.USUAL, terms.DEAR))})
