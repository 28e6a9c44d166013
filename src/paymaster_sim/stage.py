"""Running scripts: one place, one site and one cast serve as many runs as are wanted."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from paymaster.observe import configure_logs
from paymaster_sim import cast, site
from paymaster_sim.cast import Cast
from paymaster_sim.checks import Violation
from paymaster_sim.clock import DAY_SECONDS, START
from paymaster_sim.mixes import Mix, mix_of
from paymaster_sim.place import Place, place
from paymaster_sim.runtime import Simulation, SimulationError
from paymaster_sim.script import Script
from paymaster_sim.site import Site
from paymaster_sim.striking import Strikes
from paymaster_sim.world import World


@dataclass(frozen=True, slots=True)
class Found:
    """A violation: which invariant, at which virtual time, in which step of the run."""

    seed: int
    name: str
    detail: str
    day: float
    step: int

    def wire(self) -> dict[str, object]:
        """For JSON."""
        return {
            "seed": self.seed,
            "invariant": self.name,
            "detail": self.detail,
            "day": self.day,
            "step": self.step,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to. `digest` is the same whenever the script is the same."""

    seed: int
    digest: str
    steps: int
    withdrawals: int
    faults: int
    crashes: int
    violation: Found | None
    states: Counter[str] = field(default_factory=Counter[str])
    by_rail: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    counts: Counter[str] = field(default_factory=Counter[str])
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Played:
    """A cast, and the database that runs with it are copied from."""

    cast: Cast
    template: str


@dataclass(frozen=True, slots=True)
class Stage:
    """Where runs are played. Only one at a time: the world outside has one folder."""

    place: Place
    site: Site
    users: int
    _casts: dict[str, Played] = field(default_factory=dict[str, Played])

    def cast(self, mix: Mix) -> Played:
        """Everybody who plays with this money, made when they are first needed."""
        if mix.name not in self._casts:
            self._casts[mix.name] = _cast(self.place, self.site, mix, self.users)
            gc.collect()
            gc.freeze()
        return self._casts[mix.name]

    def play(
        self,
        script: Script,
        *,
        keep: bool = False,
        meddle: Callable[[World], None] | None = None,
    ) -> Result:
        """Play a script to its end, or to its first violation. With `keep` the trace is kept."""
        mix = mix_of(script.rails)
        played = self.cast(mix)
        with _no_collection(), self.place.database(played.template) as database:
            strikes = Strikes()
            owner = self.place.owner_dsn(database)
            with Simulation(script.seed, owner, start=START, faults=strikes, keep=keep) as sim:
                world = World(
                    sim, self.site, self.place, mix, played.cast, script, database, strikes, meddle
                )
                try:
                    violation = _judged(sim, world)
                    seen = world.eye.withdrawals()
                    states = Counter(one.state for one in seen)
                    by_rail = world.by_rail(seen)
                finally:
                    world.close()
                return Result(
                    script.seed,
                    sim.trace.digest,
                    sim.trace.steps,
                    states.total(),
                    world.counts["faults"],
                    strikes.struck["crash"],
                    violation,
                    states,
                    by_rail,
                    world.counts + sim.counts + strikes.struck,
                    tuple(sim.trace.lines),
                )


@contextmanager
def _no_collection() -> Generator[None]:
    """Garbage in cycles is looked for between runs: within one it costs more than it frees."""
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.enable()


def _judged(sim: Simulation, world: World) -> Found | None:
    try:
        sim.run(world.run())
    except Violation as found:
        name, detail = found.name, found.detail
    except SimulationError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the code let out is a finding
        name, detail = "unexpected-error", f"{type(error).__name__}: {error}"
    else:
        return None
    day = round(sim.seconds / DAY_SECONDS, 4)
    return Found(world.script.seed, name, detail[:2000], day, sim.trace.steps)


@contextmanager
def stage(users: int) -> Generator[Stage]:
    """A place with a server, for casts of so many users; all of it is removed afterwards."""
    with _hushed(), place() as where:
        try:
            yield Stage(where, site.make(where.root), users)
        finally:
            gc.unfreeze()


def _cast(where: Place, made: Site, mix: Mix, users: int) -> Played:
    template = where.template(mix.name)
    with Simulation("cast", where.owner_dsn(template), start=START) as sim:

        async def main() -> Cast:
            process = sim.process("cast", mortal=False)
            dbs = process.databases({"main": where.app_dsn(template)})
            await process.call(dbs.open())
            deps = made.deps(dbs, process.clock, lambda _: "none")
            wanted = mix.accounts(where, made)
            try:
                return await process.call(cast.make(deps, mix, wanted, users))
            finally:
                await process.call(dbs.close())

        people = sim.run(main())
    where.go_live(template)
    return Played(people, template)


@contextmanager
def _hushed() -> Generator[None]:
    """What the code says about faults that were made on purpose is of no use to anybody."""
    configure_logs("error", "json")
    ours = logging.getLogger("paymaster")
    before = ours.level
    ours.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        ours.setLevel(before)
