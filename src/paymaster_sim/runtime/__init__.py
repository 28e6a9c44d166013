"""Real code on a real PostgreSQL, with time, order, ids and faults from a seed.

Everything runs in one thread on one event loop. Tasks meet at a turnstile: each round trip to the
database (a statement, or a pipeline of them) and each `outside` action is one passage. When every
task waits there, sleeps or is done, the seed chooses who goes next; exactly one passes, and is
answered before the next is chosen. When nobody waits there, time jumps to the next timer.

    with Simulation(seed, owner_dsn, start=START) as sim:      # a superuser's, any database
        report = sim.run(main(sim))                            # main is a coroutine of the world

    async def main(sim: Simulation) -> Report:
        role = sim.process("dispatch-1")
        dbs = role.databases({"main": app_dsn})                # paymaster.db.cells.Databases
        await role.call(dbs.open())                            # in the process, awaited outside
        task = role.start(run_lanes(lanes, stop), "lanes")     # in the process, not awaited
        await asyncio.sleep(86400)                             # costs nothing
        role.crash()                                           # as kill -9: see below
        await role.died.wait()
        role = sim.process("dispatch-1")                       # a new process of the same name

What the world gets:

- `sim.clock`, a `paymaster.kernel.clock.Clock` that is the loop's time; `process.clock` is the same
  plus `process.skew` (a timedelta that may be changed at any time).
- `sim.random(name)`, a `Random` of the seed for one purpose: as many streams as there are names, so
  that one more draw for one purpose moves no other. Inside a process the code's own jitter and
  trace ids come from the seed too (`paymaster.kernel.sources`).
- `await sim.outside(what, action)`: a passage that is no statement, for rails and sandboxes. When
  its turn has come `action()` (plain function) is called and its result returned; `what` (a short
  text) goes into the trace. Crashes strike before and after it as with statements. Raises
  CancelledError in a process that is dead: a dead process pays nobody.
- `await process.call(coroutine)`: raises ProcessDied when the process dies first.
- `sim.trace.digest`: SHA-256 over all steps so far; `sim.trace.steps`: how many; with `keep=True`
  `sim.trace.lines` holds them as text.
- `sim.counts`: a Counter of passages, parkings, deadlocks, deaths, orphans, each fault, ... .

Faults: `Simulation(..., faults=F)`, where `F.at(step: Step) -> Fault | None` is asked at each
passage that has been chosen (never for the processes in `sim.spared`, nor for tasks of the world).
`RandomFaults(random, rates)` draws them; it stops when its `quiet` is set to True, and its
`struck: list[Struck]` says which fault struck at which step. `ScriptedFaults({number: Fault})`
strikes exactly there: for replays and shrinking.

    CRASH_BEFORE  the process dies, nothing was sent            (caller: ProcessDied; no effect)
    CRASH_AFTER   the process dies, all of it took effect       (caller: ProcessDied; effect)
    LOST_BEFORE   the connection breaks before it is sent       (code: OperationalError; no effect)
    LOST_AFTER    the connection breaks before the answer comes (code: OperationalError; effect)
    STALL         the process reaches no database and nothing outside for `stall_seconds()`

`step.commits` says that the passage contains COMMIT, `step.text` what it is, `step.outside` that it
is no statement (LOST_* are not meant for those: the world's own rails fail in richer ways).

Crash: all tasks of the process are cancelled and its connections dropped without rollback; nothing
of it reaches a database or the outside any more, whatever its cleanup tries. The crash is over when
PostgreSQL's own processes for it are gone, so that its locks are released. Of the statements that
waited for a lock then, the seed lets half go on: a server notices that its client is gone when it
answers, and what was sent with a COMMIT is committed long after its process has died.
`sim.on_death` is a list of functions that are called with each process that has died.

Locks: a statement that waits for one is parked; its server process is stopped meanwhile (SIGSTOP),
so that however many are woken by one COMMIT only one goes on at a time, chosen by the seed. A cycle
is found at once: the last to come gets DeadlockDetected. Who waits longer than two seconds of the
simulation's time gets LockNotAvailable. Neither is ever decided by the machine's time.

A set of texts has an order of its own in every interpreter, so PYTHONHASHSEED must be fixed for a
seed to be the same run everywhere. `fixed_hash_seed()` starts the program anew with 0 unless it
runs so already; a command calls it first. `on_one_core()` before the server is started halves the
time of a run.
"""

from paymaster_sim.runtime.errors import ProcessDied, SimulationError
from paymaster_sim.runtime.faults import (
    Fault,
    Faults,
    NoFaults,
    RandomFaults,
    Rates,
    ScriptedFaults,
    Step,
    Struck,
)
from paymaster_sim.runtime.process import Process
from paymaster_sim.runtime.simulation import (
    SERVER_SETTINGS,
    Simulation,
    fixed_hash_seed,
    on_one_core,
)
from paymaster_sim.runtime.trace import Trace

__all__ = [
    "SERVER_SETTINGS",
    "Fault",
    "Faults",
    "NoFaults",
    "Process",
    "ProcessDied",
    "RandomFaults",
    "Rates",
    "ScriptedFaults",
    "Simulation",
    "SimulationError",
    "Step",
    "Struck",
    "Trace",
    "fixed_hash_seed",
    "on_one_core",
]
