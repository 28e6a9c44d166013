"""Durable notices to the outside: sent until acknowledged, through restarts, with every fault.

An event is stored with its exact bytes; each copy of it is a delivery with its own schedule. A
copy counts as delivered once the receiver acknowledged it; if the sandbox dies before it could
write that down it sends again, as real providers do.

A provider with rules of its own registers a family: where its notices go, when they are tried
again, and what counts as heard. The channels of its notices begin with the family's name and a
slash.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import httpx

from paymaster_sandbox.chassis import faults, journal
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS notice (
    id TEXT PRIMARY KEY, channel TEXT NOT NULL, body BLOB NOT NULL, created INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS delivery (
    id INTEGER PRIMARY KEY, notice TEXT NOT NULL, genuine INTEGER NOT NULL,
    attempts INTEGER NOT NULL, due INTEGER NOT NULL, state TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS delivery_due ON delivery (due) WHERE state = 'pending';
"""

_TOGETHER = 32
_MANY_BYTES = 64 * 1024
_MAX_ATTEMPTS = 40
_MAX_BACKOFF = 600 * SECOND
_SHUFFLE_SPREAD = SECOND // 2


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One copy of a notice that is due. `genuine` is False for a planted forgery."""

    delivery: int
    notice: str
    channel: str
    body: bytes
    genuine: bool
    attempts: int


@dataclass(frozen=True, slots=True)
class Addressed:
    """Where a copy goes and under which headers."""

    url: str
    headers: Mapping[str, str]
    body: bytes | None = None
    """Instead of the stored body, for a provider that seals anew at every try."""


Address = Callable[[Tx, Outgoing], Addressed | None]


@cache
def _trust() -> ssl.SSLContext:
    """Whom everybody trusts: to read that list takes 25 ms, once for a process."""
    return httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True, slots=True)
class Heard:
    """What the receiver said."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Family:
    """One provider's rules. `delays` are the waits between tries; after the last, no more."""

    address: Address
    delays: Sequence[int]
    acknowledges: Callable[[Heard], bool]


class Courier:
    """Keeps notices and delivers them. `address` says where one goes; None if nobody listens."""

    def __init__(self, chassis: Chassis, address: Address) -> None:
        self._chassis = chassis
        self._address = address
        self._families: dict[str, Family] = {}
        self._woken = asyncio.Event()

    def family(self, name: str, rules: Family) -> None:
        """Take on a provider whose notices follow rules of their own."""
        self._families[name] = rules

    def send(self, tx: Tx, notice: str, channel: str, body: bytes, copies: int = 1) -> None:
        """Queue a notice in `copies` or as many as the knobs say, late or not at all."""
        self._store(tx, notice, channel, body)
        if faults.strikes(tx, "webhook_lose"):
            journal.note(tx, "webhook.lost", event=notice)
            return
        late = faults.setting(tx, "late_seconds") if faults.strikes(tx, "webhook_late") else 0
        for _ in range(max(copies, faults.setting(tx, "webhook_copies"))):
            self._queue(tx, notice, genuine=True, after=late + self._spread(tx))

    def plant(self, tx: Tx, notice: str, channel: str, body: bytes) -> None:
        """Queue a forged notice: sent once, with a signature that cannot be right."""
        self._store(tx, notice, channel, body)
        self._queue(tx, notice, genuine=False, after=0)

    def queue(
        self, tx: Tx, notice: str, channel: str, body: bytes, *, after: Sequence[int] = (0,),
        genuine: bool = True,
    ) -> None:  # fmt: skip
        """Queue one copy for every entry of `after`, in microseconds from now; none: it is lost.

        The wallet's knobs do not touch it. A copy that is not genuine is tried once.
        """
        self._store(tx, notice, channel, body)
        for wait in after:
            self._queue(tx, notice, genuine=genuine, after=wait)
        self._woken.set()
        if not after:
            journal.note(tx, "webhook.lost", event=notice)

    def shift(self, tx: Tx, by: int) -> None:
        """Keep every delivery's distance from now when the clock moved backwards."""
        tx.run("UPDATE delivery SET due = due + ? WHERE state = 'pending'", by)

    def wake(self) -> None:
        """Look at the queue again."""
        self._woken.set()

    async def run(self) -> None:
        """Deliver as notices fall due, until cancelled."""
        limits = httpx.Limits(max_connections=_TOGETHER, max_keepalive_connections=_TOGETHER)
        async with httpx.AsyncClient(
            timeout=5.0, limits=limits, trust_env=False, verify=_trust()
        ) as client:
            while True:
                self._woken.clear()
                while await self._round(client):
                    pass
                await self._pause()

    async def deliver(self, client: httpx.AsyncClient) -> int:
        """Try once what is due now; how many were tried. For whoever does not use `run`."""
        return await self._round(client)

    def next_due(self, tx: Tx) -> int | None:
        """When the next delivery falls due; None when none waits."""
        due: int | None = tx.value("SELECT min(due) FROM delivery WHERE state = 'pending'")
        return due

    async def _round(self, client: httpx.AsyncClient) -> int:
        """One batch of deliveries at the same time; how many were tried."""
        with self._chassis.tx() as tx:
            due = [
                Outgoing(row[0], row[1], row[2], row[3], bool(row[4]), row[5])
                for row in tx.all(
                    "SELECT d.id, n.id, channel, body, genuine, attempts"
                    " FROM delivery d JOIN notice n ON n.id = d.notice"
                    " WHERE state = 'pending' AND due <= ? ORDER BY due, d.id LIMIT ?",
                    tx.now, _TOGETHER,
                )
            ]  # fmt: skip
            addressed = [(out, self._addressed(tx, out)) for out in due]
        answers = await asyncio.gather(*(_post(client, out, to) for out, to in addressed))
        if due:
            with self._chassis.tx() as tx:
                for out, answer in zip(due, answers, strict=True):
                    self._record(tx, out, answer)
        return len(due)

    def _addressed(self, tx: Tx, out: Outgoing) -> Addressed | None:
        family = self._family(out)
        return (self._address if family is None else family.address)(tx, out)

    def _family(self, out: Outgoing) -> Family | None:
        name, slash, _ = out.channel.partition("/")
        return self._families[name] if slash else None

    def _record(self, tx: Tx, out: Outgoing, answer: Heard | str) -> None:
        family = self._family(out)
        delivered = isinstance(answer, Heard) and (
            200 <= answer.status < 300 if family is None else family.acknowledges(answer)
        )
        wait = _wallet_wait(out) if family is None else _next(family.delays, out.attempts)
        if delivered or not out.genuine:
            state = "delivered" if delivered else "refused"
        else:
            state = "dead" if wait is None else "pending"
        tx.run(
            "UPDATE delivery SET attempts = attempts + 1, state = ?, due = ? WHERE id = ?",
            state, tx.now + (wait or 0), out.delivery,
        )  # fmt: skip
        journal.note(
            tx, "webhook.sent", event=out.notice, attempt=out.attempts + 1,
            answer=answer.status if isinstance(answer, Heard) else answer, genuine=out.genuine,
        )  # fmt: skip

    async def _pause(self) -> None:
        with self._chassis.tx() as tx:
            due = self.next_due(tx)
            wait = None if due is None else max(0, due - tx.now) / SECOND
        try:
            async with asyncio.timeout(wait):
                await self._woken.wait()
        except TimeoutError:
            return

    def _store(self, tx: Tx, notice: str, channel: str, body: bytes) -> None:
        tx.run(
            "INSERT INTO notice (id, channel, body, created) VALUES (?, ?, ?, ?)",
            notice, channel, body, tx.now,
        )  # fmt: skip

    def _queue(self, tx: Tx, notice: str, *, genuine: bool, after: int) -> None:
        tx.run(
            "INSERT INTO delivery (notice, genuine, attempts, due, state)"
            " VALUES (?, ?, 0, ?, 'pending')",
            notice, genuine, tx.now + after,
        )  # fmt: skip

    def _spread(self, tx: Tx) -> int:
        if not faults.setting(tx, "webhook_shuffle"):
            return 0
        return self._chassis.seed.below(tx, "shuffle", _SHUFFLE_SPREAD)


async def _post(client: httpx.AsyncClient, out: Outgoing, to: Addressed | None) -> Heard | str:
    """What the receiver answered, or the name of what went wrong."""
    if to is None:
        return "no receiver"
    body = out.body if to.body is None else to.body
    try:
        answer = await client.post(to.url, content=body, headers=to.headers)
    except httpx.HTTPError as error:
        return type(error).__name__
    return Heard(answer.status_code, answer.content[:_MANY_BYTES])


def _wallet_wait(out: Outgoing) -> int | None:
    if out.attempts + 1 >= _MAX_ATTEMPTS:
        return None
    return min(_MAX_BACKOFF, SECOND // 2 << min(out.attempts, 20))


def _next(delays: Sequence[int], attempts: int) -> int | None:
    return delays[attempts] if attempts < len(delays) else None
