"""What withdrawals cost: fee plans, and rates between currencies."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import Field, StringConstraints

from paymaster.api.context import Call, Operates, Reads
from paymaster.api.door import Door
from paymaster.api.guarded import WAITS, lasting, limits_of
from paymaster.api.models import Body, Moment, Reason, Reply, Text, listing
from paymaster.api.shapes import Page
from paymaster.api.shapes_quotes import FeePlanOut, RateOut, RecordedOut
from paymaster.api.shapes_staff import WAITING
from paymaster.db.tx import ControlTx
from paymaster.kernel.clock import parse_rfc3339, rfc3339
from paymaster.people import four_eyes
from paymaster.people.four_eyes import FEE_PLAN_ACT, RATE_ACT, Proposal, Waiting
from paymaster.withdraw import fee_plans, rates_ecb, rates_record
from paymaster.withdraw.rates import Rate

router = APIRouter(route_class=Door, tags=["quotes"])
PlanPath = Annotated[str, Path(max_length=40, description="The plan's name.", examples=["normal"])]
_Code = Annotated[Text, StringConstraints(max_length=12), Field(examples=["EUR"])]
_Decimal = Annotated[Text, StringConstraints(max_length=32), Field(examples=["0.25"])]
_Ppm = Annotated[int, Field(ge=0, le=1_000_000, description="Parts per million.")]


class TierIn(Body):
    """From this amount on these figures hold in the place of the plan's."""

    from_: Annotated[_Decimal, Field(alias="from", examples=["100.00"])]
    flat: _Decimal | None = None
    percent_ppm: _Ppm = 0


class ExchangeIn(Body):
    """That it pays out in other currencies too, at a rate less the markup."""

    markup_ppm: _Ppm = 0
    sources: Annotated[list[Literal["ecb", "provider", "operator"]], Field(min_length=1)]


class PutPlan(Body):
    """A whole plan, made from the version that its author has seen; 0 for a new one."""

    based_on: Annotated[int, Field(ge=0, le=2**31 - 2)]
    currency: _Code
    payer: Literal["sender", "receiver"] = "sender"
    destination_kinds: list[Text] | None = None
    payout_currencies: list[Text] | None = None
    rails: Annotated[
        list[Text] | None,
        Field(
            description="For payments that no other rail could make, as the active accounts are.",
            examples=[["iso20022"]],
        ),
    ] = None
    flat: _Decimal | None = None
    percent_ppm: _Ppm = 0
    tiers: Annotated[
        list[TierIn], Field(default_factory=list[TierIn], max_length=fee_plans.MAX_TIERS)
    ]
    minimum: _Decimal | None = None
    maximum: _Decimal | None = None
    fee_on_return: Literal["kept", "given_back"] = "kept"
    exchange: ExchangeIn | None = None
    retired: bool = False


@router.get("/v1/fee-plans", response_model=Page[FeePlanOut])
async def list_plans(call: Reads) -> Reply:
    """The newest version of each plan, by name."""
    found = await call.look(lambda tx: fee_plans.current(tx, call.environment.id))
    return listing([fee_plans.shown(plan) for plan in found.plans])


@router.get("/v1/fee-plans/{plan}", response_model=FeePlanOut)
async def get_plan(call: Reads, plan: PlanPath) -> Reply:
    """The newest version of a plan."""
    name = call.name(plan)
    found = await call.look(lambda tx: fee_plans.one(tx, call.environment.id, name))
    return Reply(fee_plans.shown(found))


@router.get("/v1/fee-plans/{plan}/versions", response_model=Page[FeePlanOut])
async def list_versions(call: Reads, plan: PlanPath) -> Reply:
    """All versions of a plan, newest first."""
    name = call.name(plan)
    found = await call.look(lambda tx: fee_plans.history(tx, call.environment.id, name))
    return listing([fee_plans.shown(one) for one in found])


@router.put("/v1/fee-plans/{plan}", response_model=FeePlanOut, responses=WAITING)
async def put_plan(call: Operates, plan: PlanPath, body: PutPlan) -> Reply:
    """Put a new version in force, for requests and quotes from now on. Quotes keep their figures.

    Where withdrawals are approved by two persons, this needs two as well. One that would fit as
    closely as another plan is refused.
    """
    limits, name = await limits_of(call), call.name(plan)
    document = body.model_dump(mode="json", by_alias=True, exclude={"based_on"})
    wanted = fee_plans.read(name, body.based_on + 1, document, call.deps.rails)
    written = fee_plans.data(wanted)
    asked = {"based_on": body.based_on, "plan": written}
    proposal = Proposal(FEE_PLAN_ACT, name, None, asked, call.reason or "")

    async def work(tx: ControlTx) -> Waiting | Mapping[str, Any]:
        fee_plans.refuse_tie(wanted, await fee_plans.current(tx, call.environment.id))
        waiting = await four_eyes.guard(tx, call.principal, limits, proposal, lasting(call))
        return waiting or await put_in_force(tx, call.environment.id, name, asked)

    done = await call.control(work)
    return Reply(done.wire(), WAITS) if isinstance(done, Waiting) else Reply(done)


async def put_in_force(
    tx: ControlTx, environment_id: int, name: str, asked: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Carry out what was asked for, at once or once it was approved."""
    made = await fee_plans.put(tx, environment_id, name, asked["plan"], asked["based_on"])
    return fee_plans.shown(made)


class RateIn(Body):
    """One unit of `base` is `rate` units of `counter`, as it was at `observed_at` (now)."""

    base: _Code
    counter: Annotated[_Code, Field(examples=["USD"])]
    rate: Annotated[_Decimal, Field(description="Decimal text.", examples=["1.0823"])]
    observed_at: Moment | None = None
    valid_seconds: Annotated[int, Field(ge=1, le=31 * 86_400)] | None = None
    reference: Annotated[Text, StringConstraints(max_length=128)] = ""


class PutRates(Body):
    """`provider`: a provider's quote, `reference` its id. `operator`: entered by a person."""

    source: Literal["provider", "operator"]
    rates: Annotated[list[RateIn], Field(min_length=1, max_length=rates_record.MAX_RATES)]
    reason: Reason | None = None


@router.get("/v1/fx-rates", response_model=Page[RateOut])
async def list_rates(call: Reads) -> Reply:
    """The newest rate of each source and pair."""
    found = await call.look(lambda tx: rates_record.newest(tx, call.environment.id))
    return listing([rates_record.shown(rate) for rate in found])


@router.post("/v1/fx-rates", response_model=RecordedOut, responses=WAITING)
async def add_rates(call: Operates, body: PutRates) -> Reply:
    """Take rates down. Those that are known already change nothing.

    A person's entry needs two persons where withdrawals are approved by two, and so does the first
    rate of a pair that nothing is known of.
    """
    fx, now = call.deps.settings.fx, await call.now()
    valid = int(rates_record.ages(fx)[body.source].total_seconds())
    asked = {
        "source": body.source,
        "rates": [
            {
                **one.model_dump(mode="json"),
                "observed_at": one.observed_at or rfc3339(now),
                "valid_seconds": one.valid_seconds or valid,
            }
            for one in body.rates
        ],
    }
    return await _taken(call, asked, body.reason or call.reason or "", now)


async def _taken(call: Call, asked: Mapping[str, Any], reason: str, now: datetime) -> Reply:
    """Take rates down, or let them wait for a second person where a person's word is all there is.

    That is so of an entry by hand, and of the first rate of a pair that nothing is known of.
    """
    limits, rates = await limits_of(call), _rates(asked)
    subject = ", ".join(f"{rate.base}/{rate.counter}" for rate in rates)[:200]
    proposal = Proposal(RATE_ACT, subject, None, asked, reason)

    async def work(tx: ControlTx) -> Waiting | Mapping[str, Any]:
        rates_record.check(max(tx.now, now), rates)
        if asked["source"] == "operator" or await rates_record.unheard_of(
            tx, call.environment.id, rates
        ):
            waiting = await four_eyes.guard(tx, call.principal, limits, proposal, lasting(call))
            if waiting is not None:
                return waiting
        return await enter(call, tx, asked)

    done = await call.control(work)
    return Reply(done.wire(), WAITS) if isinstance(done, Waiting) else Reply(done)


async def enter(call: Call, tx: ControlTx, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """Carry out what was asked for, at once or once it was approved."""
    most = call.deps.settings.fx.most_change_percent
    rates, now = _rates(asked), call.clock.now()
    done = await rates_record.record(tx, call.environment.id, rates, most, now)
    return {"new": done.new, "known": done.known}


def _rates(asked: Mapping[str, Any]) -> list[Rate]:
    return [
        Rate(
            asked["source"],
            one["base"],
            one["counter"],
            one["rate"],
            parse_rfc3339(one["observed_at"]),
            one["valid_seconds"],
            one["reference"],
        )
        for one in asked["rates"]
    ]


_FILE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            name: {"schema": {"type": "string", "description": "The bank's file as it is."}}
            for name in ("application/xml", "text/xml", "text/csv")
        },
    },
}


@router.post("/v1/fx-rates/ecb", response_model=RecordedOut, openapi_extra=_FILE, responses=WAITING)
async def import_ecb(call: Operates, request: Request) -> Reply:
    """Take down the newest day of the European Central Bank's file of reference rates.

    A currency that no rate is known of needs two persons where withdrawals are approved by two.
    """
    hours = call.deps.settings.fx.ecb_age_hours
    found = rates_ecb.read(await request.body(), hours * 3600)
    rows = [
        {
            "base": rate.base,
            "counter": rate.counter,
            "rate": rate.rate,
            "observed_at": rfc3339(rate.observed_at),
            "valid_seconds": rate.valid_seconds,
            "reference": rate.reference,
        }
        for rate in found
    ]
    return await _taken(call, {"source": "ecb", "rates": rows}, call.reason or "", await call.now())
