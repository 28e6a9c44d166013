"""Sponsors and their campaigns, with what they have cost and brought over all cells."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Path
from pydantic import Field, StringConstraints

from paymaster.api.context import Call, Campaigns, Reads
from paymaster.api.door import Door
from paymaster.api.models import Body, Moment, Name, Reply, Text, listing, wire
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import CampaignOut, Page, SponsorOut
from paymaster.earn import campaign as campaigns
from paymaster.earn import figures
from paymaster.earn.campaign import PutCampaign as Command
from paymaster.earn.figures import Figures
from paymaster.earn.machine import OfferState
from paymaster.earn.views import CampaignView
from paymaster.kernel.clock import parse_rfc3339
from paymaster.kernel.money import Money

router = APIRouter(route_class=Door, tags=["campaigns"])
LIST, SPONSORS = "/v1/campaigns", "/v1/sponsors"
CampaignPath = Annotated[
    str, Path(max_length=128, description="The app's own id of the campaign.", examples=["spring"])
]
SponsorPath = Annotated[str, Path(max_length=128, description="The app's own id of the sponsor.")]
MAX_SECONDS = 2**53


class PutSponsor(Body):
    """Who pays."""

    name: Name


class PutCampaign(Body):
    """The whole campaign: what is left out takes its default.

    Sponsor, currency and start stay as they were first given.
    """

    sponsor: Annotated[Text, StringConstraints(max_length=128), Field(description="External id.")]
    name: Name
    currency: Annotated[Text, StringConstraints(max_length=12), Field(examples=["EUR"])]
    starts_at: Moment
    ends_at: Moment | None = None
    state: Literal["active", "paused", "ended"] = "active"
    when_exhausted: Annotated[
        Literal["wait", "refuse"],
        Field(description="Whether rewards wait for money or are refused when there is none."),
    ] = "wait"
    vesting_seconds: Annotated[int, Field(ge=0, le=MAX_SECONDS)] = 0
    targeting: Annotated[
        dict[Text, Any],
        Field(
            default_factory=dict,
            description="countries, languages, minimum_age, maximum_age.",
        ),
    ]


@router.put(
    "/v1/sponsors/{sponsor}",
    response_model=SponsorOut,
    responses={201: {"model": SponsorOut, "description": "Made."}},
)
async def put_sponsor(call: Campaigns, sponsor: SponsorPath, body: PutSponsor) -> Reply:
    """Make a sponsor or rename one. Safe to repeat."""
    view, created = await call.control(
        lambda tx: campaigns.put_sponsor(
            tx, call.environment.id, call.treasury.number, call.name(sponsor), body.name
        )
    )
    return Reply(view.wire(), 201 if created else 200)


@router.get("/v1/sponsors/{sponsor}", response_model=SponsorOut)
async def get_sponsor(call: Reads, sponsor: SponsorPath) -> Reply:
    """A sponsor."""
    view = await call.look(
        lambda tx: campaigns.get_sponsor(
            tx, call.environment.id, call.treasury.number, call.name(sponsor)
        )
    )
    return Reply(view.wire())


@router.get(SPONSORS, response_model=Page[SponsorOut])
async def list_sponsors(call: Reads, page: Paged) -> Reply:
    """Sponsors, oldest first."""
    position = page.after(call, SPONSORS, {})
    after = cast("int", position[0]) if position else 0
    found = await call.look(
        lambda tx: campaigns.sponsors(
            tx, call.environment.id, call.treasury.number, after, page.limit
        )
    )
    last = (found[-1].number,) if len(found) == page.limit else None
    return listing([view.wire() for view in found], next_cursor(call, SPONSORS, {}, last))


@router.put(
    "/v1/campaigns/{campaign}",
    response_model=CampaignOut,
    responses={201: {"model": CampaignOut, "description": "Made."}},
)
async def put_campaign(call: Campaigns, campaign: CampaignPath, body: PutCampaign) -> Reply:
    """Make a campaign or change one. Safe to repeat.

    The sponsor pays by a bank transfer with `funding_reference` in its remittance.
    """
    command = Command(
        external_id=call.name(campaign),
        sponsor=body.sponsor,
        name=body.name,
        currency=body.currency,
        starts_at=parse_rfc3339(body.starts_at),
        ends_at=parse_rfc3339(body.ends_at) if body.ends_at else None,
        state=OfferState(body.state),
        when_exhausted=body.when_exhausted,
        vesting_seconds=body.vesting_seconds,
        targeting=body.targeting,
    )
    view, created = await call.control(
        lambda tx: campaigns.put_campaign(tx, call.environment.id, call.treasury.number, command)
    )
    return Reply(view.wire(), 201 if created else 200)


@router.get("/v1/campaigns/{campaign}", response_model=CampaignOut)
async def get_campaign(call: Reads, campaign: CampaignPath) -> Reply:
    """A campaign with its budget and counters over all cells."""
    view = await call.look(lambda tx: campaigns.get(tx, call.environment.id, call.name(campaign)))
    return Reply({**view.wire(), **await _figures(call, view)})


async def _figures(call: Call, view: CampaignView) -> dict[str, Any]:
    tasks = await call.look(lambda tx: figures.task_ids(tx, view.number))
    total = Figures.total(
        await call.everywhere(
            lambda tx: figures.of_cell(tx, view.number, view.home_cell, view.currency, tasks)
        )
    )
    funded, spent = Money(total.funded, view.currency), Money(total.spent, view.currency)
    return {
        "budget": {
            "funded": wire(funded),
            "spent": wire(spent),
            "remaining": wire(funded - spent),
        },
        "counters": {
            "events": total.events,
            "users": total.users,
            "rewards": total.rewards,
            "rewarded": wire(spent),
            "awaiting_funds": total.awaiting_funds,
        },
    }


@router.get(LIST, response_model=Page[CampaignOut])
async def list_campaigns(call: Reads, page: Paged) -> Reply:
    """Campaigns, oldest first, without figures."""
    position = page.after(call, LIST, {})
    after = cast("int", position[0]) if position else 0
    found = await call.look(
        lambda tx: campaigns.listing(tx, call.environment.id, after, page.limit)
    )
    last = (found[-1].number,) if len(found) == page.limit else None
    return listing([view.wire() for view in found], next_cursor(call, LIST, {}, last))
