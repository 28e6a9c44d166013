"""Guards taken out of the real code, one at a time: the simulation must notice each.

Every mutant replaces the real function at the place where the guard is. What is not caught by a
check here would not be caught in earnest either.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from paymaster.db.idempotency import Key
from paymaster.db.tx import CellTx
from paymaster.dispatch import batch, batch_store, send
from paymaster.dispatch.desk import Order, Pace
from paymaster.dispatch.machine import ATTEMPT
from paymaster.dispatch.send import Answer, Sent
from paymaster.kernel.clock import Clock
from paymaster.kernel.errors import Refusal
from paymaster.kernel.machine import Machine, Move
from paymaster.rails import directory, http
from paymaster.rails.base import Rail
from paymaster.rails.sandbox_wallet.rail import SandboxWalletRail
from paymaster.withdraw.machine import WITHDRAWAL

_CALL, _WRITE = "_call", "_write"
"""What is replaced although it is private: that is where the guard is."""

SEEDS = 50
"""Within so many seeds each must be found."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`guard` says what is missing; `apply` takes it out while its context lasts."""

    guard: str
    apply: Callable[[ExitStack], None]


def _callers_key(stack: ExitStack) -> None:
    """Every request is taken for a new one, whatever its Idempotency-Key."""
    numbers = itertools.count()

    def of(_: type[Key], credential_id: int, route: str, key: str, body: bytes) -> Key:
        fresh = f"{key}/{next(numbers)}".encode()
        return Key(
            credential_id, route, hashlib.sha256(fresh).digest()[:16], hashlib.sha256(body).digest()
        )

    stack.enter_context(patch.object(Key, "of", classmethod(of)))


def _provider_key(stack: ExitStack) -> None:
    """Each try tells the provider another key."""
    real, numbers = getattr(SandboxWalletRail, _CALL), itertools.count()

    async def call(
        self: SandboxWalletRail, account: Any, method: str, path: str,
        headers: Mapping[str, str] | None = None, *rest: Any, **more: Any,
    ) -> Any:  # fmt: skip
        if headers and "idempotency-key" in headers:
            fresh = f"{headers['idempotency-key']}-{next(numbers)}"
            headers = {**headers, "idempotency-key": fresh}
        return await real(self, account, method, path, headers, *rest, **more)

    stack.enter_context(patch.object(SandboxWalletRail, _CALL, call))


def _terminal_state(stack: ExitStack) -> None:
    """What can happen to something that is open can happen to it when it is over, too."""
    for machine in (WITHDRAWAL, ATTEMPT):
        over = {state for state in machine.states() if _is_end(machine, state)}
        states = {
            state.value: state for move in machine.moves for state in (move.source, move.target)
        }
        latest = {move.event: move for move in machine.moves}
        more = tuple(
            Move(states[source], event, move.target, move.recipe, move.by)
            for source in sorted(over)
            for event, move in sorted(latest.items())
            if not machine.allows(source, event)
        )
        before = machine.moves
        stack.callback(_set_moves, machine, before)
        _set_moves(machine, before + more)


def _is_end(machine: Machine, state: str) -> bool:
    return state in machine.terminal() or state == "paid"


def _set_moves(machine: Machine, moves: tuple[Move, ...]) -> None:
    object.__setattr__(machine, "moves", moves)
    machine.__post_init__()


def _intent_first(stack: ExitStack) -> None:
    """The order is sent while the transaction that stores it is still open."""
    real_write, real_call = getattr(batch, _WRITE), send.call
    early: dict[str, Sent] = {}

    async def write(tx: CellTx, desk: Any, account: Any, found: Any) -> None:
        await real_write(tx, desk, account, found)
        rail: Rail = desk.rail(account)
        for batch_id, prepared, _ in found.orders:
            order = Order(batch_id, account, prepared, tx.commit_id, tx.now + desk.pace.lease, 1)
            early[prepared.batch_key] = await real_call(rail, order, desk.pace, _At(tx))

    async def call(rail: Rail, order: Order, pace: Pace, clock: Clock) -> Sent:
        sent = early.pop(order.prepared.batch_key, None)
        if sent is None:
            return await real_call(rail, order, pace, clock)
        return Sent(order, sent.answer, sent.outcomes, sent.code, sent.detail)

    stack.enter_context(patch.object(batch, _WRITE, write))
    stack.enter_context(patch.object(send, "call", call))
    stack.enter_context(patch.object(http, "forbid_network", lambda: None))
    stack.enter_context(patch.object(directory, "forbid_network", lambda: None))


@dataclass(frozen=True, slots=True)
class _At:
    tx: CellTx

    def now(self) -> Any:
        """The transaction's moment."""
        return self.tx.now


def _unknown_state(stack: ExitStack) -> None:
    """No answer is taken for a no."""
    real = send.call

    async def call(rail: Rail, order: Order, pace: Pace, clock: Clock) -> Sent:
        sent = await real(rail, order, pace, clock)
        if sent.answer is Answer.UNKNOWN:
            return Sent(order, Answer.REFUSED, (), sent.code, sent.detail)
        return sent

    stack.enter_context(patch.object(send, "call", call))


def _lease(stack: ExitStack) -> None:
    """Whoever once held an order may write what became of it, however long ago that was."""

    async def lock_held(tx: CellTx, claims: Sequence[tuple[int, int]]) -> set[int]:
        ids = [batch_id for batch_id, _ in claims]
        await tx.tuples("SELECT id FROM batch WHERE id = ANY(%s) ORDER BY id FOR UPDATE", (ids,))
        return set(ids)

    async def lock_asked(tx: CellTx, claims: Sequence[tuple[int, int]]) -> set[int]:
        ids = [attempt_id for attempt_id, _ in claims]
        await tx.tuples("SELECT id FROM attempt WHERE id = ANY(%s) ORDER BY id FOR UPDATE", (ids,))
        return set(ids)

    stack.enter_context(patch.object(batch_store, "lock_held", lock_held))
    stack.enter_context(patch.object(batch_store, "lock_asked", lock_asked))


MUTANTS: Mapping[str, Mutant] = {
    "callers-key": Mutant("a caller's Idempotency-Key is looked up", _callers_key),
    "provider-key": Mutant("every try carries the same key to the provider", _provider_key),
    "terminal-state": Mutant("what is over stays over", _terminal_state),
    "intent-first": Mutant("an order is committed before it is sent", _intent_first),
    "unknown-state": Mutant("no answer is unknown, not a no", _unknown_state),
    "lease": Mutant("only the holder of a lease that has not run out may write", _lease),
}
"""Every mutant by name."""


def check(name: str | None) -> None:
    """Raises Refusal `mutant-unknown`."""
    if name is not None and name not in MUTANTS:
        raise Refusal("mutant-unknown", f"{name!r} is no mutant; there are {', '.join(MUTANTS)}.")


@contextmanager
def applied(name: str) -> Generator[None]:
    """The code without this guard; as it was afterwards. Raises Refusal `mutant-unknown`."""
    check(name)
    with ExitStack() as stack:
        MUTANTS[name].apply(stack)
        yield
