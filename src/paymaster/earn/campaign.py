"""Sponsors and their campaigns, by the app's own ids; a PUT may be repeated without harm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from paymaster.db import audit, outbox
from paymaster.db.tx import CellRead, ControlRead, ControlTx
from paymaster.earn import requirements
from paymaster.earn.machine import CAMPAIGN, TOWARDS, OfferState
from paymaster.earn.store import offers
from paymaster.earn.store.offers import CampaignRow, SponsorRow
from paymaster.earn.views import CampaignView, SponsorView
from paymaster.kernel.errors import Broken, NotFound, Problem, Unprocessable
from paymaster.kernel.ids import reference, text_id
from paymaster.kernel.money import EXPONENTS, Money, exponent
from paymaster.ledger.balance import account_balance
from paymaster.ledger.chart import Account

MAX_VESTING_SECONDS = 366 * 24 * 3600
WHEN_EXHAUSTED = ("wait", "refuse")


@dataclass(frozen=True, slots=True)
class PutCampaign:
    """Make a campaign, or change it to this. Sponsor, currency and start stay as first given.

    `when_exhausted` says whether rewards wait for money or are refused. Rewards mature
    `vesting_seconds` after they are recorded. `targeting` is as in `requirements`.
    """

    external_id: str
    sponsor: str
    name: str
    currency: str
    starts_at: datetime
    ends_at: datetime | None = None
    state: OfferState = OfferState.ACTIVE
    when_exhausted: str = "wait"
    vesting_seconds: int = 0
    targeting: Mapping[str, Any] = field(default_factory=dict[str, Any])


def check_name(value: str, at: str, longest: int, problems: list[Problem]) -> None:
    """1 to `longest` printable characters."""
    if not 1 <= len(value) <= longest or not value.isprintable():
        problems.append(Problem(at, f"Write 1 to {longest} printable characters."))


async def put_sponsor(
    tx: ControlTx, environment_id: int, home_cell: int, external_id: str, name: str
) -> tuple[SponsorView, bool]:
    """Make or rename a sponsor; the second value says whether it is new.

    Raises Unprocessable `sponsor-invalid`.
    """
    problems: list[Problem] = []
    check_name(external_id, "/external_id", 128, problems)
    check_name(name, "/name", 200, problems)
    if problems:
        raise Unprocessable("sponsor-invalid", "The sponsor has faults.", problems=problems)
    made = SponsorRow(tx.id(), environment_id, external_id, name, tx.now)
    created = await offers.insert_sponsor(tx, made)
    row = await offers.sponsor(tx, environment_id, external_id)
    if row is None:
        raise Broken("row-count", "A sponsor vanished.")
    view = SponsorView.of(replace(row, name=name), home_cell)
    if created or row.name != name:
        if not created:
            await offers.rename_sponsor(tx, row.id, name)
        await audit.record(tx, [audit.Act("sponsor.put", view.id)])
    return view, created


async def put_campaign(
    tx: ControlTx, environment_id: int, home_cell: int, command: PutCampaign
) -> tuple[CampaignView, bool]:
    """Make or change a campaign; the second value says whether it is new.

    `home_cell` is the treasury's number: the budget is kept there. Raises Unprocessable
    `campaign-invalid`, `sponsor-unknown`, `campaign-immutable` or `campaign-ended`, Refusal
    `currency-unknown`.
    """
    exponent(command.currency)
    targeting = _check(command)
    sponsor = await offers.sponsor(tx, environment_id, command.sponsor)
    if sponsor is None:
        raise Unprocessable("sponsor-unknown", "There is no sponsor of this external id.")
    number = tx.id()
    wanted = CampaignRow(
        id=number,
        environment_id=environment_id,
        sponsor_id=sponsor.id,
        home_cell=home_cell,
        external_id=command.external_id,
        name=command.name,
        currency=command.currency,
        starts_at=command.starts_at,
        ends_at=command.ends_at,
        state=command.state.value,
        when_exhausted=command.when_exhausted,
        vesting_seconds=command.vesting_seconds,
        targeting=targeting,
        funding_reference="CP" + reference(0, number)[2:],
        version=1,
        created_at=tx.now,
    )
    if await offers.insert_campaign(tx, wanted):
        await _tell(tx, wanted, "created")
        return CampaignView.of(wanted), True
    row = await offers.lock_campaign(tx, environment_id, command.external_id)
    if row is None:
        raise Broken("row-count", "A campaign vanished.")
    changed = _changed(row, wanted)
    if changed == row:
        return CampaignView.of(row), False
    await offers.update_campaign(tx, changed)
    changed = replace(changed, version=row.version + 1)
    await _tell(tx, changed, "changed")
    return CampaignView.of(changed), False


def _check(command: PutCampaign) -> dict[str, Any]:
    problems: list[Problem] = []
    check_name(command.external_id, "/external_id", 128, problems)
    check_name(command.name, "/name", 200, problems)
    if command.starts_at.tzinfo is None or (
        command.ends_at is not None and command.ends_at.tzinfo is None
    ):
        problems.append(Problem("/starts_at", "Write times with an offset, such as Z."))
    elif command.ends_at is not None and command.ends_at <= command.starts_at:
        problems.append(Problem("/ends_at", "A campaign ends after it starts."))
    if command.when_exhausted not in WHEN_EXHAUSTED:
        problems.append(Problem("/when_exhausted", "Write wait or refuse."))
    if not 0 <= command.vesting_seconds <= MAX_VESTING_SECONDS:
        problems.append(
            Problem("/vesting_seconds", f"Write seconds from 0 to {MAX_VESTING_SECONDS}.")
        )
    targeting = requirements.read(command.targeting, "/targeting", problems)
    if problems:
        raise Unprocessable("campaign-invalid", "The campaign has faults.", problems=problems)
    return targeting.stored()


def _changed(row: CampaignRow, wanted: CampaignRow) -> CampaignRow:
    """The row as it shall be. Raises when something would change that must not."""
    fixed = [
        name
        for name in ("sponsor_id", "currency", "starts_at")
        if getattr(row, name) != getattr(wanted, name)
    ]
    if fixed:
        raise Unprocessable(
            "campaign-immutable",
            "Sponsor, currency and start of a campaign stay as they were first given.",
            problems=[Problem(f"/{name.removesuffix('_id')}", "Cannot change.") for name in fixed],
        )
    if row.state != wanted.state and not CAMPAIGN.allows(
        row.state, TOWARDS[OfferState(wanted.state)]
    ):
        raise Unprocessable("campaign-ended", f"The campaign is {row.state} for good.")
    return replace(
        row,
        name=wanted.name,
        ends_at=wanted.ends_at,
        state=wanted.state,
        when_exhausted=wanted.when_exhausted,
        vesting_seconds=wanted.vesting_seconds,
        targeting=wanted.targeting,
    )


async def _tell(tx: ControlTx, row: CampaignRow, what: str) -> None:
    name = text_id("cp", row.home_cell, row.id)
    detail = {"version": row.version, "state": row.state}
    await audit.record(tx, [audit.Act(f"campaign.{what}", name, detail=detail)])
    payload = {"campaign": name, "state": row.state, "version": row.version}
    await outbox.put(tx, [outbox.Message(f"campaign.{what}", name, payload)])


async def get(tx: ControlRead, environment_id: int, external_id: str) -> CampaignView:
    """A campaign. Raises NotFound `campaign-unknown`."""
    row = await offers.campaign(tx, environment_id, external_id)
    if row is None:
        raise NotFound("campaign-unknown", "There is no campaign of this external id.")
    return CampaignView.of(row)


async def listing(
    tx: ControlRead, environment_id: int, after: int = 0, limit: int = 50
) -> list[CampaignView]:
    """A page of campaigns, oldest first; `after` is the number of the last one seen."""
    rows = await offers.campaigns(tx, environment_id, after, min(limit, 200))
    return [CampaignView.of(row) for row in rows]


async def by_id(
    tx: ControlRead, environment_id: int, numbers: list[int]
) -> dict[int, CampaignView]:
    """Campaigns of the environment by number; unknown ones are missing."""
    rows = await offers.campaigns_by_id(tx, numbers)
    return {r.id: CampaignView.of(r) for r in rows if r.environment_id == environment_id}


async def by_funding_reference(
    tx: ControlRead, environment_id: int, text: str
) -> CampaignView | None:
    """The campaign whose funding reference this is; None when there is none."""
    row = await offers.campaign_of_reference(tx, environment_id, text)
    return None if row is None else CampaignView.of(row)


async def funding_references(tx: ControlRead, environment_id: int) -> list[tuple[str, int, str]]:
    """`(funding reference, campaign's number, currency)` of every campaign, ended ones too."""
    return await offers.funding_references(tx, environment_id)


async def sponsors(
    tx: ControlRead, environment_id: int, home_cell: int, after: int = 0, limit: int = 50
) -> list[SponsorView]:
    """A page of sponsors, oldest first."""
    rows = await offers.sponsors(tx, environment_id, after, min(limit, 200))
    return [SponsorView.of(row, home_cell) for row in rows]


async def get_sponsor(
    tx: ControlRead, environment_id: int, home_cell: int, external_id: str
) -> SponsorView:
    """A sponsor. Raises NotFound `sponsor-unknown`."""
    row = await offers.sponsor(tx, environment_id, external_id)
    if row is None:
        raise NotFound("sponsor-unknown", "There is no sponsor of this external id.")
    return SponsorView.of(row, home_cell)


async def budget(tx: CellRead, campaign_id: int, currency: str) -> Money:
    """What of a campaign's budget lies in this cell; in the home cell, what is not leased out."""
    if currency not in EXPONENTS:
        raise Broken("currency-unknown", f"A campaign has the currency {currency!r}.")
    return Money(await account_balance(tx, Account("budget", campaign_id, currency)), currency)
