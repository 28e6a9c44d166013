"""How an environment stands, as operators see it: figures, floats, forecasts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from paymaster.db.cells import Databases
from paymaster.funding import outflow
from paymaster.funding.alert import wire
from paymaster.funding.figures import Float, Position
from paymaster.funding.forecast import Forecast, forecast
from paymaster.funding.guard import MINIMUM
from paymaster.funding.look import Picture, look, split
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import text_id
from paymaster.settings import Funding

_AMOUNTS = tuple(one.name for one in fields(Position) if one.name != "asset")


async def report(
    dbs: Databases, environment_id: int, settings: Funding, *, by_kind: bool = False
) -> dict[str, Any]:
    """All of it, as the API answers. `by_kind` splits what users have, and reads all of them."""
    environment = dbs.environment(environment_id)
    picture = await look(dbs, environment_id)
    parts = await split(dbs, environment_id) if by_kind else None
    today, left = await outflow.histories(dbs, environment_id, settings.history_days)
    treasury = dbs.treasury(environment_id).number
    shown: list[dict[str, Any]] = []
    for one in picture.floats.values():
        account = picture.accounts[one.rail_account_id]
        minimum = account.number(MINIMUM, 0)
        found = forecast(
            left.get((account.id, one.asset), {}),
            today,
            one.free,
            one.queued,
            minimum,
            settings.cover_days,
        )
        shown.append({
            "rail_account": account.rail.name,
            "id": text_id("ra", treasury, account.id),
            **_float(one, minimum),
            "forecast": _forecast(found, one.asset),
        })  # fmt: skip
    return {
        "mode": settings.mode_of(environment.tenant, environment.mode),
        "as_of_seqs": {str(cell): seq for cell, seq in picture.seqs.items()},
        "currencies": [_position(one, parts) for one in picture.positions.values()],
        "rail_accounts": shown,
        "waiting": _waiting(picture),
    }


def _position(one: Position, parts: dict[tuple[str, str], int] | None) -> dict[str, Any]:
    amounts = {name: wire(getattr(one, name), one.asset) for name in (*_AMOUNTS, "cover")}
    kinds = {
        kind: wire(amount, one.asset)
        for (asset, kind), amount in sorted((parts or {}).items())
        if asset == one.asset
    }
    return {
        "currency": one.asset,
        "short": one.missing > 0,
        "missing": wire(one.missing, one.asset),
        **amounts,
        "owed_by_kind": kinds if parts is not None else None,
    }


def _float(one: Float, minimum: int) -> dict[str, Any]:
    names = ("settled", "leaving", "under_way", "unanswered", "free", "queued")
    since = one.queued_since
    return {
        "currency": one.asset,
        **{name: wire(getattr(one, name), one.asset) for name in names},
        "minimum": wire(minimum, one.asset),
        "queued_payments": one.queued_payments,
        "queued_since": None if since is None else rfc3339(since),
    }


def _forecast(one: Forecast, asset: str) -> dict[str, Any]:
    return {
        "history_days": one.history_days,
        "per_day": None if one.per_day is None else wire(one.per_day, asset),
        "runs_dry_on": None if one.runs_dry_on is None else one.runs_dry_on.isoformat(),
        "cover_days": one.cover_days,
        "top_up": wire(one.top_up, asset),
    }


def _waiting(picture: Picture) -> int:
    """How many withdrawals stand in queues that their account's float does not cover."""
    return sum(
        one.queued_payments for one in picture.floats.values() if one.queued > max(0, one.free)
    )
