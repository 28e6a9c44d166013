"""What ends by itself: break-glass, acts nobody approved in time; and old logins are forgotten."""

from __future__ import annotations

from paymaster.compose import Deps
from paymaster.db.tx import Actor
from paymaster.kernel.ids import new_trace_id
from paymaster.people import break_glass, four_eyes, sessions, staff_login
from paymaster.roles.lanes import Lane

ACTOR = Actor("role:relay")
END_SECONDS, FORGET_SECONDS = 5.0, 3600.0
TOGETHER = 200


def lanes(deps: Deps) -> list[Lane]:
    """The lanes of the staff, over the directory and all cells."""

    async def end() -> int:
        return await end_due(deps)

    async def forget() -> int:
        return await forget_old(deps)

    return [Lane("staff-ends", end, END_SECONDS), Lane("staff-forget", forget, FORGET_SECONDS)]


async def end_due(deps: Deps) -> int:
    """End what is over; how many."""
    control = deps.dbs.control
    ended = await control.run(ACTOR, new_trace_id(), lambda tx: break_glass.end_due(tx, TOGETHER))
    places = [control, *(deps.dbs.cell(cell.number) for cell in deps.dbs.cells())]
    for place in places:
        ended += await place.run(
            ACTOR, new_trace_id(), lambda tx: four_eyes.expire_due(tx, TOGETHER)
        )
    return ended


async def forget_old(deps: Deps) -> int:
    """Forget logins that can no longer be answered, and sessions that ended long ago."""
    gone = await deps.dbs.control.run(
        ACTOR, new_trace_id(), lambda tx: staff_login.forget(tx, TOGETHER)
    )
    return gone + await deps.dbs.control.run(
        ACTOR, new_trace_id(), lambda tx: sessions.forget(tx, TOGETHER)
    )


async def measure(deps: Deps) -> None:
    """How many roles are lent in each environment."""
    found = await deps.dbs.control.read(break_glass.count)
    for environment in deps.dbs.environments():
        name = f"{environment.tenant}/{environment.mode}"
        deps.metrics.break_glass_active.labels(name).set(found.get(environment.id, 0))
