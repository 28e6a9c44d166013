"""Fee plans as data: read and checked, kept under versions in the directory.

A version is never changed, only followed by another one; what was charged names the version.

{"currency": "EUR", "payer": "sender", "destination_kinds": ["iban"], "payout_currencies": null,
 "rails": null, "flat": "0.25", "percent_ppm": 10000, "minimum": "0.50", "maximum": "20.00",
 "tiers": [{"from": "1000.00", "flat": "0", "percent_ppm": 5000}],
 "fee_on_return": "kept", "exchange": {"markup_ppm": 5000, "sources": ["ecb"]}, "retired": false}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from paymaster.db import audit
from paymaster.db.tx import ControlRead, ControlTx
from paymaster.kernel.errors import Conflict, NotFound, Problem, Refusal, Unprocessable
from paymaster.kernel.money import EXPONENTS, Money
from paymaster.rails.destinations import KINDS
from paymaster.withdraw import rates_store
from paymaster.withdraw.fees import PPM, Exchange, FeePlan, Payer, Tier, choose
from paymaster.withdraw.rates import SOURCES

MAX_TIERS: Final = 50
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}\Z", re.ASCII)
_FIELDS: Final = (
    "currency", "payer", "destination_kinds", "payout_currencies", "rails", "flat", "percent_ppm",
    "tiers", "minimum", "maximum", "fee_on_return", "exchange", "retired",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plans:
    """The newest version of each plan of an environment; `revision` is None without any.

    `routes` are the rails that could pay to a kind of destination in a currency now. They are known
    further down the way of the money, and only needed where a plan is for certain rails.
    """

    revision: int | None = None
    plans: tuple[FeePlan, ...] = ()
    routes: Mapping[tuple[str, str], frozenset[str]] = field(
        default_factory=dict[tuple[str, str], frozenset[str]]
    )

    @property
    def by_rail(self) -> bool:
        """Whether a plan is for certain rails."""
        return any(plan.rails is not None and not plan.retired for plan in self.plans)

    def choose(self, kind: str, currency: str, payout: str) -> FeePlan | None:
        """The plan for a withdrawal in one currency to a destination in another, or the same."""
        rails = self.routes.get((kind, payout), frozenset())
        return choose(self.plans, kind, currency, payout, rails)


NO_PLANS: Final = Plans()


@dataclass(slots=True)
class _Reader:
    """Reads the fields of a document and collects what is wrong with them."""

    currency: str
    problems: list[Problem] = field(default_factory=list[Problem])

    def fault(self, pointer: str, detail: str) -> None:
        self.problems.append(Problem(pointer, detail))

    def money(self, value: object, pointer: str) -> int | None:
        """Minor units from zero on; None where there is nothing."""
        if value is None:
            return None
        try:
            found = Money.parse(value if isinstance(value, str) else "?", self.currency)
        except Refusal as refused:
            self.fault(pointer, refused.detail)
            return None
        if found.minor < 0:
            self.fault(pointer, "Write an amount from zero on.")
        return found.minor

    def ppm(self, value: object, pointer: str, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            self.fault(pointer, f"Give parts per million, a whole number from 0 to {most}.")
            return 0
        return value

    def chosen(self, value: object, pointer: str, known: Sequence[str]) -> tuple[str, ...] | None:
        """A list of known names, each once; None where there is none."""
        if value is None:
            return None
        names = cast("list[object]", value) if isinstance(value, list) else []
        found = tuple(name for name in names if isinstance(name, str) and name in known)
        if not found or len(found) != len(names) or len(set(found)) != len(found):
            self.fault(pointer, f"List some of these, each once: {', '.join(sorted(known))}.")
        return found

    def tiers(self, value: object) -> tuple[Tier, ...]:
        listed = cast("list[object]", value) if isinstance(value, list) else None
        if listed is None or len(listed) > MAX_TIERS:
            self.fault("/tiers", f"Give a list of at most {MAX_TIERS} tiers.")
            return ()
        tiers: list[Tier] = []
        for index, entry in enumerate(listed):
            pointer = f"/tiers/{index}"
            if not isinstance(entry, dict) or not {*cast("dict[str, Any]", entry)} <= {
                "from", "flat", "percent_ppm",
            }:  # fmt: skip
                self.fault(pointer, "A tier has from, flat and percent_ppm.")
                continue
            one = cast("dict[str, Any]", entry)
            since = self.money(one.get("from"), f"{pointer}/from") or 0
            if since <= (tiers[-1].since if tiers else 0):
                self.fault(f"{pointer}/from", "Give amounts above zero, each above the last one.")
            flat = self.money(one.get("flat"), f"{pointer}/flat") or 0
            ppm = self.ppm(one.get("percent_ppm", 0), f"{pointer}/percent_ppm", PPM)
            tiers.append(Tier(since, flat, ppm))
        return tuple(tiers)

    def exchange(self, value: object) -> Exchange | None:
        if value is None:
            return None
        given = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        if not {*given} <= {"markup_ppm", "sources"} or not given:
            self.fault("/exchange", "Give markup_ppm and sources, or null.")
            return None
        markup = self.ppm(given.get("markup_ppm", 0), "/exchange/markup_ppm", PPM // 2)
        sources = self.chosen(given.get("sources"), "/exchange/sources", SOURCES)
        if sources is None:
            self.fault("/exchange/sources", f"Name one at least of: {', '.join(SOURCES)}.")
        return Exchange(markup, sources or ())


def read(
    name: str, version: int, document: Mapping[str, Any], rails: Iterable[str] | None = None
) -> FeePlan:
    """A plan out of its document; `rails` are those it may name, where that is to be checked.

    Raises Unprocessable `fee-plan-invalid` with every fault.
    """
    currency = document.get("currency")
    reader = _Reader(currency if isinstance(currency, str) else "")
    if not _NAME.match(name):
        reader.fault("path:name", "Use a-z, 0-9 and -, at most 40 characters.")
    for unknown in sorted({*document} - {*_FIELDS}):
        reader.fault(f"/{unknown[:40]}", f"Fields are: {', '.join(_FIELDS)}.")
    if reader.currency not in EXPONENTS:
        reader.fault("/currency", "Write an ISO 4217 code such as EUR.")
        raise _invalid(reader.problems)
    words: dict[str, str] = {}
    for field_name, choices in (
        ("payer", ("sender", "receiver")),
        ("fee_on_return", ("kept", "given_back")),
    ):
        words[field_name] = document.get(field_name, choices[0])
        if words[field_name] not in choices:
            reader.fault(f"/{field_name}", f"It is {' or '.join(choices)}.")
    retired = document.get("retired", False)
    if not isinstance(retired, bool):
        reader.fault("/retired", "It is true or false.")
    kinds = reader.chosen(document.get("destination_kinds"), "/destination_kinds", [*KINDS])
    payouts = reader.chosen(document.get("payout_currencies"), "/payout_currencies", [*EXPONENTS])
    named = _texts(document.get("rails")) if rails is None else [*rails]
    by_rails = reader.chosen(document.get("rails"), "/rails", named)
    minimum = reader.money(document.get("minimum"), "/minimum")
    maximum = reader.money(document.get("maximum"), "/maximum")
    if minimum is not None and maximum is not None and maximum < minimum:
        reader.fault("/maximum", "The maximum is below the minimum.")
    plan = FeePlan(
        name,
        version,
        reader.currency,
        cast("Payer", words["payer"]),
        None if kinds is None else frozenset(kinds),
        None if payouts is None else frozenset(payouts),
        reader.money(document.get("flat"), "/flat") or 0,
        reader.ppm(document.get("percent_ppm", 0), "/percent_ppm", PPM),
        reader.tiers(document.get("tiers", [])),
        minimum,
        maximum,
        words["fee_on_return"] == "given_back",
        reader.exchange(document.get("exchange")),
        bool(retired),
        None if by_rails is None else frozenset(by_rails),
    )
    if reader.problems:
        raise _invalid(reader.problems)
    return plan


def _texts(value: object) -> list[str]:
    listed = cast("list[object]", value) if isinstance(value, list) else []
    return [one for one in listed if isinstance(one, str)]


def _invalid(problems: Sequence[Problem]) -> Unprocessable:
    return Unprocessable("fee-plan-invalid", "The fee plan has faults.", problems=problems)


def data(plan: FeePlan) -> dict[str, Any]:
    """The plan as data, with everything written out; `read` takes it back."""

    def money(minor: int | None) -> str | None:
        return None if minor is None else Money(minor, plan.currency).text()

    def listed(names: frozenset[str] | None) -> list[str] | None:
        return None if names is None else sorted(names)

    exchange = plan.exchange
    return {
        "currency": plan.currency,
        "payer": plan.payer,
        "destination_kinds": listed(plan.kinds),
        "payout_currencies": listed(plan.payouts),
        "rails": listed(plan.rails),
        "flat": money(plan.flat),
        "percent_ppm": plan.ppm,
        "tiers": [
            {"from": money(tier.since), "flat": money(tier.flat), "percent_ppm": tier.ppm}
            for tier in plan.tiers
        ],
        "minimum": money(plan.minimum),
        "maximum": money(plan.maximum),
        "fee_on_return": "given_back" if plan.gives_back else "kept",
        "exchange": exchange
        and {"markup_ppm": exchange.markup_ppm, "sources": [*exchange.sources]},
        "retired": plan.retired,
    }


def shown(plan: FeePlan) -> dict[str, Any]:
    """The plan for JSON."""
    return {"name": plan.name, "version": plan.version, **data(plan)}


async def revision(tx: ControlRead, environment_id: int) -> int | None:
    """How often plans of an environment changed; None where there never was one."""
    return await rates_store.newest_revision(tx, environment_id)


async def current(tx: ControlRead, environment_id: int) -> Plans:
    """The plans in force, retired ones too."""
    rows = await rates_store.newest_plans(tx, environment_id)
    plans = tuple(read(name, version, plan) for name, version, _, plan in rows)
    return Plans(max((row[2] for row in rows), default=None), plans)


async def one(tx: ControlRead, environment_id: int, name: str) -> FeePlan:
    """The newest version of a plan. Raises NotFound `fee-plan-unknown`."""
    for plan in (await current(tx, environment_id)).plans:
        if plan.name == name:
            return plan
    raise _unknown()


def _unknown() -> NotFound:
    return NotFound("fee-plan-unknown", "There is no fee plan of this name here.")


async def history(tx: ControlRead, environment_id: int, name: str) -> list[FeePlan]:
    """All versions of a plan, newest first. Raises NotFound `fee-plan-unknown`."""
    rows = await rates_store.versions(tx, environment_id, name)
    if not rows:
        raise _unknown()
    return [read(name, version, plan) for version, plan in rows]


def refuse_tie(plan: FeePlan, known: Plans) -> None:
    """Raises Unprocessable `fee-plan-ambiguous` when another plan would fit as closely.

    Which of the two is charged would depend on a name, and nobody would have said so.
    """
    for other in known.plans:
        if other.name != plan.name and plan.ties(other):
            raise Unprocessable(
                "fee-plan-ambiguous",
                f"The plan {other.name} fits some of the same withdrawals and names as many of"
                " destination_kinds, payout_currencies and rails: let one of the two name more,"
                " or take out of its lists what both name.",
                problems=[Problem(pointer, f"Also in {other.name}.") for pointer in _SAME],
                extra={"plan": other.name},
            )


_SAME: Final = ("/destination_kinds", "/payout_currencies", "/rails")


async def put(
    tx: ControlTx, environment_id: int, name: str, document: Mapping[str, Any], based_on: int
) -> FeePlan:
    """Put a new version in force. `based_on` is the version that its author has seen, 0 for none.

    Raises Unprocessable `fee-plan-invalid` or `fee-plan-ambiguous`, Conflict `fee-plan-changed`
    when another version has come into force since.
    """
    plan = read(name, based_on + 1, document)
    known = await current(tx, environment_id)
    refuse_tie(plan, known)
    seen = max((each.version for each in known.plans if each.name == name), default=0)
    if seen != based_on or not await rates_store.insert_plan(
        tx, environment_id, name, plan.version, (known.revision or 0) + 1, data(plan)
    ):
        raise Conflict(
            "fee-plan-changed",
            "Plans have changed since the version that this is based on; look at them first.",
        )
    detail = {**data(plan), "version": plan.version, audit.ENVIRONMENT: environment_id}
    await audit.record(tx, [audit.Act("fee_plan.put", f"fee-plan:{name}", detail=detail)])
    return plan
