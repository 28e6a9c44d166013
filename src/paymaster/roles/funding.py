"""The funding guard's loops in the role `relay`: figures, alerts, and what left each day."""

from __future__ import annotations

from dataclasses import fields

from paymaster.compose import Deps
from paymaster.db.cells import Environment
from paymaster.dispatch import accounts
from paymaster.funding import alert, outflow
from paymaster.funding.figures import Position
from paymaster.funding.look import look
from paymaster.roles.lanes import Lane

LOOK_SECONDS, COUNT_SECONDS = 10.0, 600.0


def lanes(deps: Deps) -> list[Lane]:
    """For each environment, how it stands; for each cell, what left it."""
    found: list[Lane] = []
    for environment in deps.dbs.environments():
        name = f"{environment.tenant}/{environment.mode}"
        found += [
            Lane(f"funding:{name}", lambda e=environment: _look(deps, e), LOOK_SECONDS),
            Lane(f"outflow:{name}", lambda e=environment: _count(deps, e), COUNT_SECONDS),
        ]
    return found


async def _look(deps: Deps, environment: Environment) -> int:
    picture = await look(deps.dbs, environment.id)
    name = f"{environment.tenant}/{environment.mode}"
    shown = [one.name for one in fields(Position) if one.name != "asset"]
    for position in picture.positions.values():
        for kind in (*shown, "cover", "missing"):
            gauge = deps.metrics.funding_minor_units.labels(name, position.asset, kind)
            gauge.set(getattr(position, kind))
    for one in picture.floats.values():
        account = picture.accounts[one.rail_account_id].rail.name
        for kind in ("free", "queued"):
            gauge = deps.metrics.float_minor_units.labels(f"{name}/{account}", one.asset, kind)
            gauge.set(getattr(one, kind))
    if deps.settings.funding.mode_of(environment.tenant, environment.mode) != "off":
        await alert.tell(deps.dbs, environment.id, picture)
    return 0


async def _count(deps: Deps, environment: Environment) -> int:
    known = await accounts.load(deps.dbs, environment.id)
    assets = {number: account.rail.currency for number, account in known.items()}
    days = deps.settings.funding.history_days
    counted = 0
    for cell in deps.dbs.cells(environment.id):
        db = deps.dbs.cell(cell.number)
        counted += await outflow.count(db, environment.time_zone, assets, days)
    return counted
