"""One run: the script is played, the processes work, and everything is checked all the time."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby

import httpx

from paymaster.compose import Deps
from paymaster.kernel.errors import PaymasterError, Unauthenticated
from paymaster.kernel.ids import new_trace_id
from paymaster.settle.webhook import receive
from paymaster_sim import cast, checks
from paymaster_sim.cast import Cast
from paymaster_sim.checks import Violation
from paymaster_sim.clients import Clients
from paymaster_sim.clock import START, moment, seconds
from paymaster_sim.ending import finish
from paymaster_sim.eye import Due, Eye, Seen
from paymaster_sim.ground import Ground, Process
from paymaster_sim.mixes import EURO, Mix
from paymaster_sim.outside import Outside
from paymaster_sim.payees import Payees
from paymaster_sim.place import CELLS, ENVIRONMENT, Place
from paymaster_sim.playing import play
from paymaster_sim.roles import Role
from paymaster_sim.runtime import ProcessDied
from paymaster_sim.script import Act, Script
from paymaster_sim.site import Site
from paymaster_sim.staff import Staff
from paymaster_sim.striking import Strikes

NAME = "sim/live"
KINDS = {
    "api": None, "hooks": None, "intake": "intake", "screen": "screen", "dispatch-1": "dispatch",
    "dispatch-2": "dispatch", "settle": "settle", "reconcile": "reconcile", "relay": "relay",
}  # fmt: skip
"""The processes by name, with the role of each."""

ROUNDS = 40
"""So often at most the roles are woken at one moment."""

_PAUSES = (0.3, 3.0, 25.0)
"""Seconds between two rounds: the longer, the more often the same lanes had nothing to do.

A process whose clock is behind finds nothing due where something is."""

DISPATCH = ("dispatch-1", "dispatch-2")
_BOTH = 0.2
"""How often both copies of dispatch look for work in the same moment without a reason."""

_FETCHED = (
    f"SELECT count(*) FROM cell_{CELLS[0]}.rail_file"  # noqa: S608 - a name of ours
    " WHERE name LIKE 'wechat-%%' OR name LIKE 'alipay-%%'"
)
_AGAIN = timedelta(hours=1)
SEAL_EVERY = 60
_GAPS = (2.0, 95.0, 900.0, 4 * 3600.0, 12 * 3600.0)
"""How long what falls due by itself is left to gather, the longer ago the last act was."""


@dataclass
class World:
    """Everything of one run."""

    ground: Ground
    site: Site
    place: Place
    mix: Mix
    cast: Cast
    script: Script
    database: str
    strikes: Strikes
    meddle: Callable[[World], None] | None = None
    """For tests: called after every step, before it is checked."""
    counts: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        place, ground = self.place, self.ground
        merchants = None if self.mix is EURO else self.site.safe.merchants
        self.outside = Outside(place.outside, ground, self.script.seed, self.site.wire, merchants)
        self.bell = self.outside.bell(self._rings)
        self.eye = Eye(place.owner_dsn(self.database), self.cast.accounts[cast.BANK])
        self.roles = {name: Role(ground, name, kind, self._build) for name, kind in KINDS.items()}
        self.clients = Clients(self.roles["api"], self.cast)
        self.staff = Staff(self.clients, self.eye, self.outside)
        self.payees = Payees(self.outside.yuan, self.clients, self.eye, ground.clock)
        self.skews: dict[str, timedelta] = {}
        self._random = ground.random("wake")
        self._files: Sequence[str] = ()
        self._settlements = 0
        self._late: datetime | None = None
        """When bills are fetched again that could not be had."""
        self._steps = 0
        self._checked: dict[int, int] = {}

    def _build(self, process: Process) -> Deps:
        dbs = process.databases({"main": self.place.app_dsn(self.database)}, connections=2)
        return self.site.deps(dbs, process.clock, self.outside.secret)

    def close(self) -> None:
        """Let go of what was opened."""
        self.eye.close()
        self.outside.close()

    async def run(self) -> None:
        """Play the script, then let everything come to its end. Raises Violation."""
        for at, acts in groupby(self.script.acts, key=lambda act: act.at):
            await self.wait(at)
            await self.step(list(acts))
        await finish(self)

    async def wait(self, at: float) -> None:
        """Let time pass until then; on the way, what falls due by itself is done."""
        for gap in (*_GAPS, *[_GAPS[-1]] * 1000):
            now = self.ground.clock.now()
            due = [self.eye.next_due(), self.outside.next_due(), self._late]
            known = [one for one in due if one is not None]
            target = max(min(known, default=moment(at)), now + timedelta(seconds=gap))
            # What people do is not left to gather: others do something at that very moment.
            target = min(target, self.payees.next_due() or target)
            if target >= moment(at):
                break
            await self.pass_until((target - START).total_seconds())
            await self.step([])
        await self.pass_until(at)

    async def pass_until(self, at: float) -> None:
        """Nothing happens until then."""
        left = at - seconds(self.ground.clock)
        if left > 0:
            await asyncio.sleep(left)

    async def step(self, acts: Sequence[Act]) -> None:
        """Acts of one moment, and all work that follows from them; then the cheap checks."""
        self._steps += 1
        for act in acts:
            await play(self, act)
        await self.clients.ask()
        await self.clients.earn()
        await self.work()
        if self.meddle is not None:
            self.meddle(self)
        self.check()

    def check(self) -> None:
        """What is asked after every step in which something was written. Raises Violation."""
        for odd in self.site.wire.odd:
            raise Violation("same-order", odd)
        seqs = self.eye.seqs()
        if seqs == self._checked:
            return
        self._checked = seqs
        checks.books(self.eye)
        seen = self.eye.withdrawals()
        checks.payments(seen, self.eye.orders(), self.outside.paid())
        checks.acknowledged(seen, self.clients.promised(), self.clients.possible)

    # ---------------------------------------------------------------------- the background roles

    async def work(self) -> None:
        """Wake the roles that have something to do, until nobody has."""
        before, again = list[Due](), 0
        for role in self.roles.values():
            role.collect()
        for _ in range(ROUNDS):
            rung = await self.payees.act() + await self.outside.turn(self.bell)
            due = self.eye.due(self.ground.clock.now())
            due = self._worth_waking(due + self._letters(), before)
            again = again + 1 if due == before else 0
            if (not due and not rung) or again == len(_PAUSES):
                break
            await self._wake(due)
            await asyncio.sleep(_PAUSES[again])
            before = due
        if self._steps % SEAL_EVERY == 0:
            await self.seal()

    async def seal(self) -> None:
        """What was committed goes into the chain, one block of each schema."""
        await self.roles["relay"].lanes([f"seal:cell:{n}" for n in CELLS] + ["seal:control"])

    async def sweep(self, *, both: bool) -> None:
        """Dispatch looks whose balance has reached what they want to be paid at."""
        lanes = [f"automatic-thresholds:{n}" for n in CELLS]
        names = DISPATCH if both else (self._random.choice(DISPATCH),)
        await asyncio.gather(*(self.roles[name].lanes(lanes) for name in names))

    def _worth_waking(self, due: Sequence[Due], before: Sequence[Due]) -> list[Due]:
        """Without what is busy; and relay waits until the others have nothing new for it."""
        able = [one for one in due if any(not role.busy for role in self._copies(one.role))]
        others = [one for one in able if one.role != "relay"]
        return able if others in ([], before) else others

    def _copies(self, role: str) -> list[Role]:
        names = DISPATCH if role == "dispatch" else (role,)
        return [self.roles[name] for name in names]

    def _chosen(self, role: str) -> list[Role]:
        """Who of the copies of a role is woken: both where one of them is about to be struck."""
        free = [one for one in self._copies(role) if not one.busy]
        struck = any(self.strikes.awaits(one.name) for one in free)
        if len(free) < 2 or struck or self._random.random() < _BOTH:
            return free
        return [self._random.choice(free)]

    def _letters(self) -> list[Due]:
        """Something new lies at a provider for us."""
        files, settlements = self.outside.files(), self.outside.settlements()
        if (files, settlements) == (self._files, self._settlements) and not self._bills():
            return []
        self._files, self._settlements = files, settlements
        return [Due("settle", "files", 0)]

    def _bills(self) -> bool:
        """Whether days' bills are there that we do not have; what failed is tried every hour."""
        now = self.ground.clock.now()
        missing = self.outside.bills() - self.eye.rows(_FETCHED)[0][0] if self.outside.yuan else 0
        if not missing or (self._late is not None and now < self._late):
            self._late = self._late if missing else None
            return False
        self._late = now + _AGAIN
        return True

    async def _wake(self, due: Sequence[Due]) -> None:
        """All of them at the same time."""
        lanes: dict[str, list[str]] = {}
        chosen = {one.role: self._chosen(one.role) for one in due}
        for role, lane, cell in due:
            for copy in chosen[role]:
                lanes.setdefault(copy.name, []).append(f"{lane}:{cell or NAME}")
        if "relay" in lanes or "reconcile" in lanes:
            for cell in self.eye.awaiting():
                lanes.setdefault("intake", []).append(f"awaiting:{cell}")
        for role in lanes:
            self.counts[role] += 1
        await asyncio.gather(*(self.roles[role].lanes(names) for role, names in lanes.items()))

    async def _rings(self, request: httpx.Request) -> tuple[int, bytes]:
        """A provider calls: the status and the words that it is answered with."""
        hooks = self.roles["hooks"]
        try:
            await hooks.up()
            return await hooks.call(self._receive(hooks.deps, request))
        except ProcessDied:
            raise httpx.ReadError("the process ended", request=request) from None

    async def _receive(self, deps: Deps, request: httpx.Request) -> tuple[int, bytes]:
        account = request.url.path.strip("/") or cast.WALLET
        try:
            received = await receive(
                deps.dbs, deps.rails, deps.secrets.sealer, ENVIRONMENT, account,
                dict(request.headers), request.content, new_trace_id(),
            )  # fmt: skip
        except Unauthenticated:
            self.counts["forged"] += 1
            return 401, b""
        except PaymasterError as error:
            self.clients.refused[error.slug] += 1
            return error.status, b""
        answer = received.answer
        return (204, b"") if answer is None else (answer.status, answer.body)

    def by_rail(self, seen: Sequence[Seen]) -> dict[str, Counter[str]]:
        """The states of withdrawals by the account that they were last sent to, if to any."""
        names = {number: name for name, number in self.cast.accounts.items()}
        found: dict[str, Counter[str]] = defaultdict(Counter[str])
        for one in seen:
            if one.rail_account_id is not None:
                found[names[one.rail_account_id]][one.state] += 1
        return {name: found[name] for name in sorted(found)}
