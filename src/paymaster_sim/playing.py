"""What each act of a script does to the world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from paymaster_sim import cast
from paymaster_sim.clock import moment
from paymaster_sim.merchants import CONSENT, WECHAT
from paymaster_sim.script import Act
from paymaster_sim.yuan import Yuan

if TYPE_CHECKING:
    from paymaster_sim.world import World

Data = dict[str, Any]


async def play(world: World, act: Act) -> None:
    """Let it happen."""
    if act.fault is not None:
        world.counts["faults"] += 1
    await _PLAYERS[act.kind](world, act, dict(act.data))


async def _open(world: World, _: Act, data: Data) -> None:
    world.outside.open(data["bank"], data["float"], world.cast.people)


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
    plan = data.pop("payee", None)
    if plan is not None:
        person = world.cast.people[int(data["person"])]
        world.payees.expect(person.payees[str(data["rail"])], plan)
    world.clients.want(data)


async def _plan(world: World, _: Act, data: Data) -> None:
    """Before what was planned for the same person: this is what comes of the next transfer."""
    openid = world.cast.people[int(data["person"])].payees[WECHAT]
    world.payees.expect(openid, data["plan"], first=True)


async def _cancel(world: World, _: Act, data: Data) -> None:
    await world.clients.cancel(data["key"])


async def _take_back(world: World, _: Act, data: Data) -> None:
    await world.clients.take_back(data["key"])


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


async def _race(world: World, _: Act, data: Data) -> None:
    await world.staff.race(data["first"], data["second"], data["pick"])


async def _freeze(world: World, _: Act, data: Data) -> None:
    await world.staff.freeze(data["what"], data["pick"], data["reference"])


async def _thaw(world: World, _: Act, data: Data) -> None:
    await world.staff.thaw(data["pick"])


async def _reprice(world: World, _: Act, data: Data) -> None:
    await world.staff.reprice(world.mix, data["prices"])


async def _leave(world: World, _: Act, data: Data) -> None:
    await world.clients.leave(data["person"], data["rail"])


async def _sweep(world: World, _: Act, data: Data) -> None:
    await world.sweep(both=bool(data["both"]))


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


def _yuan(world: World) -> Yuan:
    found = world.outside.yuan
    if found is None:
        raise AssertionError("this run knows nobody at WeChat Pay or Alipay")
    return found


async def _mishap(world: World, _: Act, data: Data) -> None:
    _yuan(world).mishap(**data)


async def _alipay(world: World, _: Act, data: Data) -> None:
    _yuan(world).knobs(data)


async def _setting(world: World, _: Act, data: Data) -> None:
    for name, value in data.items():
        _yuan(world).setting(name, value)


async def _rotate(world: World, _: Act, data: Data) -> None:
    _yuan(world).rotate(data["key"])


async def _learn(world: World, _: Act, __: Data) -> None:
    _yuan(world).learn()


async def _consent(world: World, _: Act, data: Data) -> None:
    openid = world.cast.people[int(data["person"])].payees[CONSENT]
    _yuan(world).consent(openid, given=bool(data["given"]))


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
    "plan": _plan,
    "cancel": _cancel,
    "take-back": _take_back,
    "close": _close,
    **{kind: _office(kind) for kind in ("approve", "deny", "hold", "release")},
    "race": _race,
    "freeze": _freeze,
    "thaw": _thaw,
    "reprice": _reprice,
    "leave": _leave,
    "sweep": _sweep,
    "find-out": _find_out,
    "reverse-reward": _reverse_reward,
    "reverse-payment": _reverse_payment,
    "top-up": _top_up,
    "knob": _knob,
    "fate": _fate,
    "mishap": _mishap,
    "alipay": _alipay,
    "setting": _setting,
    "rotate": _rotate,
    "learn": _learn,
    "consent": _consent,
    "slow": _slow,
    "unreachable": _unreachable,
    "skew": _skew,
    "stall": _stall,
    "crash": _strike(ends=True),
    "connection": _strike(ends=False),
}
