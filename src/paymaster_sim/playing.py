"""What each act of a script does to the world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from paymaster_sim import cast
from paymaster_sim.clock import moment
from paymaster_sim.script import Act

if TYPE_CHECKING:
    from paymaster_sim.world import World

Data = dict[str, Any]


async def play(world: World, act: Act) -> None:
    """Let it happen."""
    if act.fault is not None:
        world.counts["faults"] += 1
    await _PLAYERS[act.kind](world, act, dict(act.data))


async def _open(world: World, _: Act, data: Data) -> None:
    world.outside.open(data["bank"], data["float"])


async def _fund(world: World, _: Act, data: Data) -> None:
    reference = world.cast.funding[data["campaign"]]
    world.outside.sponsor_pays(reference, data["minor"], data["key"])


async def _earn(world: World, act: Act, data: Data) -> None:
    lines = [
        cast.event(
            f"{act.at}/{place}", world.cast.people[int(person)].name, cast.JOBS[int(job)], item,
            moment(act.at),
        )
        for place, (person, job, item) in enumerate(data["events"])
    ]  # fmt: skip
    for _ in range(1 + bool(data["twice"])):
        await world.clients.earn(lines)


async def _want(world: World, _: Act, data: Data) -> None:
    world.clients.want(data)


async def _cancel(world: World, _: Act, data: Data) -> None:
    await world.clients.cancel(data["key"])


async def _close(world: World, _: Act, data: Data) -> None:
    world.outside.close_day(world.ground.clock)
    await world.work()
    if data.get("prove"):
        await world.seal()
        await world.roles["reconcile"].lanes(["runs:sim/live"])


def _office(kind: str) -> Callable[[World, Act, Data], Awaitable[None]]:
    async def player(world: World, _: Act, data: Data) -> None:
        await world.staff.act(kind, data["pick"])

    return player


async def _find_out(world: World, _: Act, data: Data) -> None:
    await world.staff.find_out(data["pick"])


async def _reverse_reward(world: World, _: Act, data: Data) -> None:
    await world.staff.reverse_reward(data["pick"])


async def _reverse_payment(world: World, _: Act, data: Data) -> None:
    await world.staff.reverse_payment(data["pick"])


async def _top_up(world: World, _: Act, data: Data) -> None:
    await world.staff.top_up(data["minor"])


async def _knob(world: World, _: Act, data: Data) -> None:
    world.outside.arm(**data)


async def _fate(world: World, _: Act, data: Data) -> None:
    payee = world.cast.people[int(data["person"])].payees[str(data["rail"])]
    world.outside.foretell(payee, data["outcome"], data["code"], data["after"])


async def _slow(world: World, _: Act, data: Data) -> None:
    world.site.wire.delays += data["count"]


async def _unreachable(world: World, _: Act, data: Data) -> None:
    world.site.wire.refusals += data["count"]


async def _skew(world: World, _: Act, data: Data) -> None:
    world.roles[data["process"]].skew(timedelta(seconds=data["seconds"]))


def _strike(*, ends: bool) -> Callable[[World, Act, Data], Awaitable[None]]:
    async def player(world: World, _: Act, data: Data) -> None:
        committed = bool(data["committed"])
        world.strikes.arm(data["process"], data["after"], committed=committed, ends=ends)

    return player


async def _stall(world: World, _: Act, data: Data) -> None:
    world.strikes.pause(data["process"], data["seconds"], before=bool(data["before"]))


_PLAYERS: dict[str, Callable[[World, Act, Data], Awaitable[None]]] = {
    "open": _open,
    "fund": _fund,
    "earn": _earn,
    "want": _want,
    "cancel": _cancel,
    "close": _close,
    **{kind: _office(kind) for kind in ("approve", "deny", "hold", "release")},
    "find-out": _find_out,
    "reverse-reward": _reverse_reward,
    "reverse-payment": _reverse_payment,
    "top-up": _top_up,
    "knob": _knob,
    "fate": _fate,
    "slow": _slow,
    "unreachable": _unreachable,
    "skew": _skew,
    "stall": _stall,
    "crash": _strike(ends=True),
    "connection": _strike(ends=False),
}
