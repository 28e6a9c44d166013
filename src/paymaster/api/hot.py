"""What many requests of this process share: their reads and writes are merged into batches.

A batch of requests costs one transaction in the directory (who calls, where the users live, which
limits are in force) and one in each cell concerned. Nothing is cached: a key that is revoked is
refused by the next request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from paymaster.compose import Deps
from paymaster.db import idempotency, inbox
from paymaster.db.coalesce import Coalescer, Failed, Run, UseCase, halved, in_cell
from paymaster.db.idempotency import Answer
from paymaster.db.idempotency import Key as StoredKey
from paymaster.db.inbox import Incoming
from paymaster.db.tx import Actor, ControlRead, ControlTx
from paymaster.dispatch import choosing
from paymaster.kernel.errors import Unauthenticated
from paymaster.kernel.ids import Ref
from paymaster.observe import trace_id_of
from paymaster.people import credentials
from paymaster.people.credentials import Caller, Credential
from paymaster.people.factors.policy import NONE, Policy
from paymaster.people.principal import Principal
from paymaster.screen import activate
from paymaster.screen.defaults import default_rule_set
from paymaster.settle import webhook
from paymaster.withdraw import fee_plans
from paymaster.withdraw.fee_plans import NO_PLANS, Plans
from paymaster.withdraw.request import Limits
from paymaster.withdraw.request_keyed import Keyed, render, request_many

C = TypeVar("C")
Out = TypeVar("Out")

ACTOR = Actor("role:api")
"""Whose the merged transactions are; acts in them are their callers'."""


@dataclass(slots=True)
class Look:
    """Asks who a key is and, where named, for a user, limits and fees of withdrawals."""

    key: str
    user: str | None = None


@dataclass(slots=True)
class Seen:
    """`ref` is None when the user was not asked for, or has no such name with the app.

    `steps` says which withdrawals need a second factor.
    """

    credential: Credential
    principal: Principal
    ref: Ref | None = None
    limits: Mapping[str, Limits] = field(default_factory=dict[str, Limits])
    steps: Policy = NONE
    plans: Plans = NO_PLANS


def _merging(deps: Deps, run: Run[C, Out], *, in_turns: bool = False) -> Coalescer[C, Out]:
    limits = deps.settings.database
    return Coalescer(
        run,
        batch_limit=limits.merge_batch_items,
        queue_limit=limits.merge_queue_items,
        in_turns=in_turns,
    )


class _PerCell(Generic[C, Out]):
    """A coalescer for each cell that is asked of."""

    def __init__(self, deps: Deps, actor: Actor, use_case: UseCase[C, Out]) -> None:
        self._deps = deps
        self._actor = actor
        self._use_case = use_case
        self._cells: dict[int, Coalescer[C, Out]] = {}

    async def submit(self, cell: int, command: C) -> Out:
        """The outcome of a command in a cell that exists."""
        found = self._cells.get(cell)
        if found is None:
            run = in_cell(self._deps.dbs.cell(cell), self._actor, self._use_case)
            found = self._cells[cell] = _merging(self._deps, run, in_turns=True)
        return await found.submit(command)

    async def close(self) -> None:
        """Answer what waits and take no more."""
        await asyncio.gather(*(one.close() for one in self._cells.values()))


class Inbox:
    """What the process that takes webhooks merges."""

    def __init__(self, deps: Deps) -> None:
        self._kept: _PerCell[Sequence[Incoming], int] = _PerCell(
            deps, webhook.ACTOR, inbox.receive_each
        )
        self.close = self._kept.close

    async def keep(self, cell: int, messages: Sequence[Incoming]) -> int:
        """Keep the messages of a webhook; how many were new. Raises Busy `queue-full`."""
        return await self._kept.submit(cell, messages)


class Hot:
    """What the process of the API merges."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._looks: Coalescer[Look, Seen] = _merging(deps, halved(self._look))
        self._claims: Coalescer[StoredKey, None] = _merging(deps, halved(self._claim))
        self._limits: dict[int, tuple[int | None, Mapping[str, Limits]]] = {}
        self._plans: dict[int, Plans] = {}
        worded = partial(render, errors_url=deps.settings.api.errors_url)
        self._requests: _PerCell[Keyed, Answer] = _PerCell(
            deps, ACTOR, partial(request_many, render=worded)
        )

    async def look(self, asked: Look) -> Seen:
        """Verify a key. Raises Unauthenticated, Busy `queue-full`."""
        return await self._looks.submit(asked)

    async def claim(self, key: StoredKey) -> None:
        """In an environment of several cells: one key belongs to one body, wherever its effect is.

        Raises Unprocessable `idempotency-key-reused`, Conflict `in-progress`, Busy `queue-full`.
        """
        await self._claims.submit(key)

    async def request(self, cell: int, asked: Keyed) -> Answer:
        """Ask for a withdrawal; the answer, made or replayed.

        Raises Unprocessable `idempotency-key-reused`, Conflict `in-progress`, Busy `queue-full`.
        """
        return await self._requests.submit(cell, asked)

    async def close(self) -> None:
        """Answer what waits and take no more."""
        await asyncio.gather(self._looks.close(), self._claims.close(), self._requests.close())

    async def limits(self, tx: ControlRead, environment_id: int) -> Mapping[str, Limits]:
        """What a request for a withdrawal is refused for at once, by currency.

        A version of the rules never changes, so that its limits are read once.
        """
        version = await activate.version(tx, environment_id)
        known = self._limits.get(environment_id)
        if known is None or known[0] != version:
            rules = await activate.current(tx, environment_id) or default_rule_set()
            known = self._limits[environment_id] = version, activate.limits(rules)
        return known[1]

    async def plans(self, tx: ControlRead, environment_id: int) -> Plans:
        """What withdrawals cost. A version of a plan never changes, so that it is read once.

        Which rails could pay changes at any time, and is read where a plan depends on it.
        """
        revision = await fee_plans.revision(tx, environment_id)
        known = self._plans.get(environment_id, NO_PLANS)
        if known.revision != revision:
            known = self._plans[environment_id] = await fee_plans.current(tx, environment_id)
        return await choosing.with_routes(tx, environment_id, known, self._deps.rails)

    async def _look(self, asked: Sequence[Look]) -> list[Seen | Failed]:
        named: dict[str, set[str]] = {}
        for one in asked:
            names = named.setdefault(one.key, set())
            if one.user is not None:
                names.add(one.user)
        control = self._deps.dbs.control
        known = await control.read(partial(credentials.callers, named=named), merged=True)
        callers = [caller for caller in known.values() if isinstance(caller, Caller)]
        for caller in callers:
            await credentials.note_use(self._deps.dbs, caller.credential)
        terms = {
            caller.credential.environment_id: (
                await self._limits_now(caller),
                await self._plans_now(caller),
            )
            for key, caller in known.items()
            if named[key] and isinstance(caller, Caller)
        }
        principals = {caller.credential.id: caller.credential.principal for caller in callers}
        found: list[Seen | Failed] = []
        for one in asked:
            caller = known[one.key]
            if isinstance(caller, Unauthenticated):
                found.append(Failed(caller))
                continue
            credential = caller.credential
            principal = principals[credential.id]
            if one.user is None:
                found.append(Seen(credential, principal))
            else:
                limits, plans = terms[credential.environment_id]
                ref = caller.refs.get(one.user)
                found.append(Seen(credential, principal, ref, limits, caller.steps, plans))
        return found

    async def _limits_now(self, caller: Caller) -> Mapping[str, Limits]:
        """The limits of the version that is in force where a caller asks."""
        environment_id = caller.credential.environment_id
        known = self._limits.get(environment_id)
        if known is not None and known[0] == caller.rules_version:
            return known[1]
        return await self._deps.dbs.control.read(lambda tx: self.limits(tx, environment_id))

    async def _plans_now(self, caller: Caller) -> Plans:
        """The plans of the revision that is in force where a caller asks."""
        environment_id = caller.credential.environment_id
        known = self._plans.get(environment_id, NO_PLANS)
        if known.revision == caller.plans_revision and not known.by_rail:
            return known
        return await self._deps.dbs.control.read(lambda tx: self.plans(tx, environment_id))

    async def _claim(self, keys: Sequence[StoredKey]) -> list[Failed | None]:
        async def work(tx: ControlTx) -> list[Failed | None]:
            refusals = await idempotency.claim(tx, keys)
            return [None if refusal is None else Failed(refusal) for refusal in refusals]

        return await self._deps.dbs.control.run(ACTOR, trace_id_of(None), work, merged=True)
