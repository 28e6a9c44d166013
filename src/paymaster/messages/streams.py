"""What one user's streams are told, read off the outbox once for all streams of a process.

For each cell in which somebody listens one task looks for what is new, twice a second: how far the
order of commits has come, and, if it has moved, what of it is about the users who listen. A client
that comes back says up to where it has read, and gets what was committed since, in the same order:
everything is in rows, so it does not matter which process it comes back to, or that one was killed.

A client that reads slower than it is told is let go; it comes back and goes on where it was. What
is more than may wait for it is told in parts, each once the one before it was taken.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from paymaster.db.cells import Databases
from paymaster.db.tx import CellRead
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Busy, RateLimited
from paymaster.kernel.ids import Ref, parse_text_id, text_id
from paymaster.kernel.money import Money
from paymaster.messages import catalogue
from paymaster.messages.place import Place
from paymaster.messages.store import events
from paymaster.messages.store import streams as store
from paymaster.messages.store.streams import Row
from paymaster.observe import Metrics, get_logger
from paymaster.settings import Streams as Settings

_log = get_logger(__name__)

GROUPS: Final = frozenset({"withdrawal", "reward", "reserve", "debt", "destination", "user_task"})
"""The groups of events that an earner is told of."""

TOPICS: Final = tuple(sorted(one.name for one in catalogue.TYPES.values() if one.group in GROUPS))
BALANCES, RESET, END = "balances", "reset", "end"
_SHOWN: Final = {"available": 1, "vesting": 1, "held": 1, "reserve": 1, "debt": -1}
_TOGETHER_SECONDS = 0.02
"""Who comes within so short a time is served by one look."""

_ENCODER = msgspec.json.Encoder()
MakeCursor = Callable[[Ref, int], str]


def frame(event: str, data: Any, cursor: str | None = None) -> bytes:
    """One event as `text/event-stream` writes it."""
    head = f"id: {cursor}\n" if cursor is not None else ""
    return f"{head}event: {event}\ndata: {_ENCODER.encode(data).decode()}\n\n".encode()


@dataclass(eq=False)
class Stream:
    """One client's. `position` is up to where it was told; None: it begins now."""

    user: Ref
    position: int | None
    room: int
    live: bool = False
    ended: str | None = None
    _waiting: deque[bytes] = field(default_factory=deque[bytes])
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> str:
        """The user's text id, under which the outbox has what is told of the user."""
        return text_id("us", self.user.cell, self.user.id)

    @property
    def reads(self) -> bool:
        """Whether it can be told now: what was missed goes on when what waits was taken."""
        return self.ended is None and (self.live or not self._waiting)

    def fitting(self, rows: list[Row]) -> list[Row]:
        """Of these what may wait, with a frame before and one behind it; all, if it is slow."""
        return rows if self._waiting else rows[: self.room - 2]

    def put(self, one: bytes) -> None:
        """Let the client be told. One that does not read is told no more."""
        if self.ended is not None:
            return
        if len(self._waiting) >= self.room:
            self._waiting.clear()
            self.end("slow")
            return
        self._waiting.append(one)
        self._news.set()

    def end(self, reason: str) -> None:
        """End it after what waits."""
        self.ended = self.ended or reason
        self._news.set()

    async def take(self, seconds: float) -> bytes:
        """What is to be sent now; nothing when nothing came in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await self._news.wait()
        self._news.clear()
        taken = b"".join(self._waiting)
        self._waiting.clear()
        return taken


class Hub:
    """All streams of a process."""

    def __init__(
        self, dbs: Databases, settings: Settings, cursor: MakeCursor, metrics: Metrics
    ) -> None:
        self.settings = settings
        self._metrics = metrics
        self._dbs = dbs
        self._cursor = cursor
        self._pollers: dict[int, _Poller] = {}
        self._by_user: Counter[Ref] = Counter()
        self._stopped = False

    @property
    def count(self) -> int:
        """How many there are."""
        return self._by_user.total()

    def join(self, user: Ref, position: int | None) -> Stream:
        """A new stream, from a position on. Raises RateLimited `too-many-streams`."""
        settings = self.settings
        if (
            self._stopped
            or self._by_user[user] >= settings.per_user
            or self.count >= settings.per_process
        ):
            raise RateLimited(
                "too-many-streams", "Too many streams are open; close one.", retry_after_seconds=5
            )
        self._by_user[user] += 1
        stream = Stream(user, position, settings.waiting_events)
        poller = self._pollers.get(user.cell)
        if poller is None or poller.done:
            place = Place(self._dbs, user.cell)
            poller = self._pollers[user.cell] = _Poller(place, settings, self._cursor)
        poller.add(stream)
        self._metrics.streams.set(self.count)
        return stream

    def leave(self, stream: Stream, reason: str) -> None:
        """The stream has ended, and why."""
        self._by_user[stream.user] -= 1
        if not self._by_user[stream.user]:
            del self._by_user[stream.user]
        self._pollers[stream.user.cell].remove(stream)
        self._metrics.streams.set(self.count)
        self._metrics.streams_ended.labels(reason).inc()

    def stop(self) -> None:
        """End all streams; the clients find another process, or this one's successor."""
        self._stopped = True
        for poller in self._pollers.values():
            poller.stop()

    async def close(self) -> None:
        """Wait until the pollers have ended."""
        self.stop()
        for poller in self._pollers.values():
            await poller.ended()


@dataclass(frozen=True)
class _Seen:
    """What one look found: up to where, and what of it is whose."""

    head: int
    rows: list[Row]
    balances: Mapping[int, Mapping[str, dict[str, int]]]


class _Poller:
    """Looks into one cell for all who listen to it; ends when nobody does."""

    def __init__(self, place: Place, settings: Settings, cursor: MakeCursor) -> None:
        self._place = place
        self._settings = settings
        self._cursor = cursor
        self._streams: set[Stream] = set()
        self._position: int | None = None
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def done(self) -> bool:
        """Whether it has ended, and another one is needed."""
        return self._task.done()

    def add(self, stream: Stream) -> None:
        """Somebody listens."""
        self._streams.add(stream)
        self._wake.set()

    def remove(self, stream: Stream) -> None:
        """Somebody listens no more."""
        self._streams.discard(stream)
        self._wake.set()

    def stop(self) -> None:
        """End all streams."""
        for stream in self._streams:
            stream.end("restart")
        self._streams.clear()
        self._wake.set()

    async def ended(self) -> None:
        """Return when it does nothing more."""
        await self._task

    async def _run(self) -> None:
        while self._streams or not self._wake.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.poll_seconds):
                    await self._wake.wait()
            if self._wake.is_set():
                await asyncio.sleep(_TOGETHER_SECONDS)
                self._wake.clear()
                if not self._streams:
                    return
            try:
                await self._look()
            except Busy:
                _log.info("stream_waits_for_database", cell=self._place.name)
            except Exception as error:  # noqa: BLE001 - the streams end, and their clients come back
                _log.exception("stream_failed", error=type(error).__name__)
                for stream in self._streams:
                    stream.end("fault")

    async def _look(self) -> None:
        """Tell everybody what is new to them, from one snapshot."""
        streams = [one for one in self._streams if one.reads]
        if not streams:
            return
        starts = [one.position for one in streams if not one.live and one.position is not None]
        far = self._settings.resume_places

        async def read(tx: CellRead) -> _Seen:
            head = await events.head(tx)
            known = head if self._position is None else self._position
            near = [one for one in starts if head - far <= one <= head]
            after = min([known, *near])
            keys = {one.key for one in streams}
            rows = (
                await store.of_users(tx, after, head, sorted(keys), TOPICS) if after < head else []
            )
            told = {row.key for row in rows}
            asked = [one.user.id for one in streams if not one.live or one.key in told]
            return _Seen(head, rows, _by_currency(await store.balances(tx, asked) if asked else []))

        seen = await self._place.dbs.cell(self._place.cell or 0).read(read)
        frames = {row.seq: self._frame(row) for row in seen.rows}
        by_key: dict[str, list[Row]] = {}
        for row in seen.rows:
            by_key.setdefault(row.key, []).append(row)
        for stream in streams:
            self._tell(stream, seen, by_key.get(stream.key, []), frames)
        self._position = seen.head

    def _tell(
        self, stream: Stream, seen: _Seen, rows: list[Row], frames: Mapping[int, bytes]
    ) -> None:
        begins, position = not stream.live, stream.position
        if begins and position is not None and self._is_far(position, seen.head):
            stream.put(frame(RESET, {"reason": "too-far-back"}))
            position = None
        if position is None:
            position = seen.head
        missed = [row for row in rows if row.seq > position]
        fresh = stream.fitting(missed)
        for row in fresh:
            stream.put(frames[row.seq])
        if len(fresh) < len(missed):
            stream.position, stream.live = fresh[-1].seq, False
            return
        stream.position, stream.live = seen.head, True
        if begins or fresh:
            cursor = self._cursor(stream.user, seen.head)
            stream.put(frame(BALANCES, self._balances(stream.user, seen), cursor))

    def _is_far(self, position: int, head: int) -> bool:
        return not head - self._settings.resume_places <= position <= head

    def _frame(self, row: Row) -> bytes:
        """The event as webhooks have it, and as the catalogue documents it."""
        dbs, cell = self._place.dbs, self._place.cell or 0
        environment = dbs.environment_of(cell)
        told = {
            "id": self._place.event_id(environment.id, row.seq),
            "type": row.topic,
            "timestamp": rfc3339(row.created_at),
            "data": catalogue.TYPES[row.topic].data(row.payload),
        }
        return frame(row.topic, told, self._cursor(parse_text_id("us", row.key), row.seq))

    def _balances(self, user: Ref, seen: _Seen) -> dict[str, Any]:
        return {
            "as_of_seq": seen.head,
            "data": [
                {
                    kind: {"amount": Money(sign * kinds.get(kind, 0), asset).text(),
                           "currency": asset}
                    for kind, sign in _SHOWN.items()
                }
                for asset, kinds in seen.balances.get(user.id, {}).items()
            ],
        }  # fmt: skip


def _by_currency(
    rows: Iterable[tuple[int, str, str, int]],
) -> Mapping[int, Mapping[str, dict[str, int]]]:
    found: dict[int, dict[str, dict[str, int]]] = {}
    for user, asset, kind, balance in rows:
        found.setdefault(user, {}).setdefault(asset, {})[kind] = balance
    return found
