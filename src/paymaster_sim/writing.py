"""Writing the script of a seed: ordinary days first, then the faults, each as an act of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from paymaster_sim import cast, writing_terms, writing_yuan
from paymaster_sim.clock import DAY_SECONDS
from paymaster_sim.mixes import EURO, mix_of, rails_of
from paymaster_sim.script import FAULTS, Act, Script

HOUR = 3600
PROCESSES = (
    "api", "hooks", "intake", "screen", "dispatch-1", "dispatch-2", "settle", "reconcile", "relay",
)  # fmt: skip
"""The processes that can be struck."""

WITHDRAWALS_PER_USER = 2.0
_BUSY, _LEAST_BUSY, _CLOSED = 0.17, 5, 0.1
"""On which part of the days people come, and after which part of them providers report: what has
gathered is then done together, as on a bank's Monday."""

_PROVED = 0.15
"""After which part of the closed days we seal what there is, and prove our books."""

_FLOAT, _SHORT_FLOAT, _SHORT_YUAN = 2_000_000, 60_000, 15_000
_CODES = ("wallet_blocked", "wallet_limit_exceeded", "recipient_unverified")


def write(
    seed: int, days: int, users: int, faults: Collection[str], rails: Sequence[str] = ()
) -> Script:
    """The script of a seed. The ordinary acts are the same whatever faults are chosen.

    Without `rails` the seed chooses how people are paid; see `mixes`.
    """
    rails = tuple(rails) or rails_of(seed)
    yuan = mix_of(rails) is not EURO
    plain = _Plain(Random(f"{seed}/plain"), days, users, rails)  # noqa: S311 - a story, no secret
    acts = list(plain.acts("repeated" in faults))
    acts = writing_terms.added(Random(f"{seed}/terms"), acts, users, rails)  # noqa: S311 - a story
    if yuan:
        acts = writing_yuan.planned(Random(f"{seed}/payees"), acts)  # noqa: S311 - a story
    short = _SHORT_YUAN if yuan else _SHORT_FLOAT
    opening = short if "short" in faults else _FLOAT
    acts.append(Act(0, "open", {"bank": 5_000_000, "float": opening}))
    writers = {**_WRITERS, **writing_yuan.WRITERS} if yuan else _WRITERS
    for name in FAULTS:
        if name in faults and name in writers:
            random = Random(f"{seed}/{name}")  # noqa: S311 - a story, no secret
            trouble = Trouble(random, days, users, name, rails, plain.waves, plain.asked)
            acts += writers[name](trouble)
    ordered = sorted(enumerate(acts), key=lambda pair: (pair[1].at, _rank(pair[1]), pair[0]))
    return Script(seed, days, users, rails, tuple(act for _, act in ordered))


def _rank(act: Act) -> int:
    """Faults are armed before what they are to strike."""
    return 0 if act.kind == "open" else 1 if act.fault is not None else 2


@dataclass
class _Plain:
    """Days without trouble."""

    random: Random
    days: int
    users: int
    rails: Sequence[str]

    def __post_init__(self) -> None:
        self.waves: dict[int, list[int]] = {}
        """Who asks for money in their wallet, or by the first of the ways, by moment."""
        self.asked: list[tuple[int, str, str]] = []
        """When which key is asked for, and by which way."""
        self._keys = 0
        self._answered = [0] * self.users

    def acts(self, repeated: bool) -> Iterator[Act]:
        """Everything that people do. The first day is busy, and the days are closed at the end."""
        count = min(self.days - 1, max(_LEAST_BUSY, round(_BUSY * self.days)))
        busy = set(self.random.sample(range(1, self.days), count))
        for day in range(self.days):
            start = day * DAY_SECONDS
            if day == 0 or day in busy:
                yield from self._earning(day, start)
            if day in busy:
                yield from self._wave(day, start, repeated, len(busy))
                yield from self._office(start)
            if day in {0, self.days - 1} or self.random.random() < _CLOSED:
                prove = self.random.random() < _PROVED
                yield Act(start + DAY_SECONDS, "close", {"prove": prove})

    def _earning(self, day: int, start: int) -> Iterator[Act]:
        random = self.random
        if day == 0 or random.random() < 0.2:
            for job in cast.JOBS:
                minor = job.reward_minor * self.users * random.randint(4, 8)
                data = {"campaign": job.campaign, "minor": minor, "key": f"f{day}/{job.campaign}"}
                yield Act(start + 8 * HOUR, "fund", data)
        events: list[tuple[int, int, int]] = []
        for person in range(self.users):
            for _ in range(random.choice((1, 2, 3, 4, 5) if day else (2, 3, 4))):
                self._answered[person] += 1
                job = random.randrange(len(cast.JOBS))
                events.append((person, job, self._answered[person] % cast.ITEMS))
        again = random.random() < 0.2
        if events:
            yield Act(start + 9 * HOUR, "earn", {"events": events, "twice": again})

    def _wave(self, day: int, start: int, repeated: bool, waves: int) -> Iterator[Act]:
        random = self.random
        at = start + random.randint(9 * HOUR + 600, 14 * HOUR)
        askers = self.waves.setdefault(at, [])
        each = self.users * WITHDRAWALS_PER_USER / waves
        count = int(each) + (random.random() < each % 1)
        for _ in range(count):
            self._keys += 1
            key = f"w{self._keys}"
            person = random.randrange(self.users)
            rail = self.rails[-1] if random.random() < 0.3 else self.rails[0]
            minor = random.choice((100, 150, 200, 499, 700, 1000, 1999, 2500, 4100))
            most = 250 * (day + 2)
            data: dict[str, Any] = {
                "key": key, "person": person, "rail": rail, "minor": min(minor, most),
            }  # fmt: skip
            oddity = random.random()
            if repeated and oddity < 0.25:
                data["copies" if oddity < 0.12 else "lost"] = random.randint(1, 2)
                data["copies"] = max(data.get("copies", 1), 1) + (oddity < 0.12)
            if rail == self.rails[0]:
                askers.append(person)
            self.asked.append((at, key, rail))
            yield Act(at, "want", data)
            if random.random() < 0.06:
                later = random.choice((0, 1, 30, 3000))
                yield Act(at + later, "cancel", {"key": key})

    def _office(self, start: int) -> Iterator[Act]:
        """What operators do in the afternoon."""
        random, at = self.random, start + 14 * HOUR + 1800
        chances = (
            ("approve", 0.45), ("deny", 0.05), ("hold", 0.1), ("release", 0.15),
            ("find-out", 0.15), ("reverse-reward", 0.1), ("reverse-payment", 0.1),
        )  # fmt: skip
        for kind, chance in chances:
            if random.random() < chance:
                yield Act(at, kind, {"pick": random.randrange(1000)})
        if random.random() < 0.4:
            yield Act(at, "top-up", {"minor": random.randint(20_000, 80_000)})


@dataclass(frozen=True)
class Trouble:
    """Where and when one fault may strike."""

    random: Random
    days: int
    users: int
    name: str
    rails: Sequence[str]
    waves: Mapping[int, Sequence[int]]
    asked: Sequence[tuple[int, str, str]]

    def often(self, per_month: float) -> int:
        """How many times in this script: about so many in thirty days, at least once."""
        mean = per_month * self.days / 30
        return max(1, round(self.random.uniform(0.5, 1.5) * mean))

    def before_waves(self, per_month: float) -> list[int]:
        """Moments at which withdrawals are asked for."""
        if not self.waves:
            return []
        moments = list(self.waves)
        return [self.random.choice(moments) for _ in range(self.often(per_month))]

    def act(self, at: int, kind: str, **data: Any) -> Act:
        """One act of this fault."""
        return Act(at, kind, data, self.name)

    def knob(self, per_month: float, name: str, most: int, **more: float) -> list[Act]:
        """A counter of the sandbox, set before waves."""
        return [
            self.act(at, "knob", **{name: self.random.randint(1, most)}, **more)
            for at in self.before_waves(per_month)
        ]

    def for_a_day(self, per_month: float, name: str, value: float, normal: float) -> list[Act]:
        """A setting of the sandbox, for a day."""
        found: list[Act] = []
        for at in self.before_waves(per_month):
            found.append(self.act(at, "knob", **{name: value}))
            found.append(self.act(at + DAY_SECONDS // 2, "knob", **{name: normal}))
        return found

    def fates(self, per_month: float, outcomes: tuple[str, ...]) -> list[Act]:
        """What becomes of the next payment to somebody."""
        found: list[Act] = []
        for at in self.before_waves(per_month):
            person, rail = self.random.randrange(self.users), self.random.choice(RAILS)
            outcome = self.random.choice(outcomes)
            code = self.random.choice(_CODES) if rail == cast.WALLET else "AC04"
            after = self.random.choice((1, 30, 3600, DAY_SECONDS, 3 * DAY_SECONDS))
            found.append(
                self.act(
                    at, "fate", person=person, rail=rail, outcome=outcome, code=code, after=after
                )
            )
        return found

    def refusal(self, at: int, person: int) -> Act:
        """The next payment to a wallet is refused once."""
        code = "wallet_limit_exceeded"
        data = {"person": person, "rail": cast.WALLET, "outcome": "reject", "code": code}
        return self.act(at, "fate", after=0, **data)

    def processes(self, per_month: float, kind: str, **ranges: tuple[int, int]) -> list[Act]:
        """Something that befalls a process."""
        found: list[Act] = []
        for _ in range(self.often(per_month)):
            at = self.random.choice(list(self.waves) or [9 * HOUR])
            at += self.random.choice((0, 0, 0, -at % DAY_SECONDS, 15 * HOUR - at % DAY_SECONDS))
            data = {name: self.random.randint(*span) for name, span in ranges.items()}
            found.append(self.act(max(at, 0), kind, process=self.random.choice(PROCESSES), **data))
        return found


def _stalls(trouble: Trouble) -> list[Act]:
    """Whoever calls a provider stands still until another has the order, too.

    Twice: at the first time both often have orders of their own, and at the second the other's.
    Either before its call gets there, or when it was refused what the other one is then granted;
    what the other one hears comes late, so that the first is back before it.
    """
    found: list[Act] = []
    for at in trouble.before_waves(3):
        before = trouble.random.random() < 0.3
        for name in ("dispatch-1", "dispatch-2") * 2:
            seconds = trouble.random.randint(100, 4000)
            found.append(trouble.act(at, "stall", process=name, seconds=seconds, before=before))
        askers = () if before else sorted({*trouble.waves[at]})[:_STALLED]
        found += [trouble.refusal(at, person) for person in askers]
        found.append(trouble.act(at, "knob", webhook_late=8, late_seconds=DAY_SECONDS // 2))
    return found


_STALLED = 6
RAILS = (cast.BANK, cast.WALLET, cast.WALLET)
_WRITERS: dict[str, Callable[[Trouble], list[Act]]] = {
    "answer-lost": lambda t: t.knob(7, "drop_answers", 2),
    "error-before": lambda t: t.knob(5, "fail_before", 2),
    "error-after": lambda t: t.knob(5, "fail_after", 2),
    "slow": lambda t: [t.act(at, "slow", count=t.random.randint(1, 2)) for at in t.before_waves(4)],
    "unreachable": lambda t: [
        t.act(at, "unreachable", count=t.random.randint(1, 4)) for at in t.before_waves(4)
    ],
    "not-found-lag": lambda t: t.for_a_day(4, "not_found_lag_seconds", 45, 0),
    "forged": lambda t: t.knob(5, "webhook_forge", 3),
    "duplicate": lambda t: t.for_a_day(5, "webhook_copies", 3, 1),
    "late": lambda t: t.knob(4, "webhook_late", 3, late_seconds=1.5 * DAY_SECONDS),
    "reordered": lambda t: t.for_a_day(4, "webhook_shuffle", 1, 0),
    "missing": lambda t: t.knob(5, "webhook_lose", 3),
    "refused": lambda t: t.fates(6, ("reject", "reject", "fail", "closed")),
    "returned": lambda t: t.fates(6, ("return",)),
    "short": lambda t: t.for_a_day(1, "balance_short", 0, 0),
    "report-lost": lambda t: t.knob(2, "pain002_lose", 1),
    "skew": lambda t: t.processes(3, "skew", seconds=(-20, 20)),
    "stall": _stalls,
    "crash": lambda t: t.processes(8, "crash", after=(1, 40), committed=(0, 1)),
    "connection": lambda t: t.processes(4, "connection", after=(1, 40), committed=(0, 1)),
}
