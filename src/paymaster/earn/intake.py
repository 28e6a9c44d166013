"""From bytes to events: NDJSON, a JSON array, or `{"events": [...]}`, plain or gzip.

Pure: nothing is looked up here. One bad line never stops the others; it becomes a `Fault` with its
line number and a reason. What comes out can be stored as it is: no text holds what PostgreSQL
refuses, no number is out of its range.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec

from paymaster.earn.event import Event, Fault
from paymaster.kernel.errors import Refusal

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_PIECE_BYTES = 4096
"""zlib copies what lies behind a member: whole bodies would make many tiny members quadratic."""

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]


class TooLarge(Refusal):
    """The body is larger than is taken at once."""

    status = 413
    title = "Too large"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken at once. `future` is how far `occurred_at` may lie ahead of our clock."""

    body_bytes: int = 16 * 1024 * 1024
    line_bytes: int = 32 * 1024
    events: int = 10_000
    future: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a batch held, in order of lines."""

    events: list[Event]
    faults: list[Fault]


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """An event on the wire. `campaign` is left out when `task` is a text id (`tk_...`)."""

    event_id: _Id
    user: _Id
    task: _Id
    type: _Name
    occurred_at: Annotated[datetime, msgspec.Meta(tz=True)]
    campaign: _Id | None = None
    payload: Annotated[
        dict[_Name, _Text | int | float | bool | None], msgspec.Meta(max_length=64)
    ] = {}


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


_LINE = msgspec.json.Decoder(Line)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_ENVELOPE = msgspec.json.Decoder(_Envelope)
_canonical = msgspec.json.Encoder(order="deterministic").encode
_DIGEST = hashlib.blake2b(digest_size=16)
"""Of nothing; a copy is made in less time than a new one."""

_BACKSLASH, _DELETE = b"\\\x7f"
_IN_64_BITS = range(-(2**63), 2**63)
_SMALL = 2**63


def parse(
    body: bytes, source: str, now: datetime, *, gzip: bool = False, limits: Limits | None = None
) -> Parsed:
    """Read a batch.

    NDJSON has an event on each line; empty lines are skipped. A body that starts with `[`, or one
    object with the only field `events`, is read as a whole. Raises TooLarge `body-too-large` or
    `batch-too-large`, Refusal `gzip-malformed`, `batch-malformed` or `batch-empty`.
    """
    limits = limits or Limits()
    if gzip:
        body = inflate(body, limits.body_bytes)
    if len(body) > limits.body_bytes:
        raise TooLarge("body-too-large", f"Send at most {limits.body_bytes} bytes at once.")
    body = body.removeprefix(b"\xef\xbb\xbf")
    found = list(_split(body, limits))
    if not found:
        raise Refusal("batch-empty", "The body holds no event.")
    return read_lines(found, source, now, limits)


def read_lines(
    lines: list[tuple[int, bytes]], source: str, now: datetime, limits: Limits
) -> Parsed:
    """Read numbered lines, each one JSON object."""
    parsed = Parsed([], [])
    for number, raw in lines:
        read = read_line(raw, number, source, now, limits)
        if isinstance(read, Fault):
            parsed.faults.append(read)
        else:
            parsed.events.append(read)
    return parsed


def inflate(body: bytes, limit: int) -> bytes:
    """Unpack gzip, also of several members, stopping at `limit` bytes.

    Raises TooLarge `body-too-large`, Refusal `gzip-malformed`.
    """
    parts: list[bytes] = []
    room, at = limit + 1, 0
    while at < len(body):
        member = zlib.decompressobj(_GZIP_WINDOW)
        while not member.eof:
            piece = body[at : at + _PIECE_BYTES]
            if not piece:
                raise Refusal("gzip-malformed", "The gzip body is cut off.")
            try:
                part = member.decompress(piece, room)
            except zlib.error as error:
                raise Refusal("gzip-malformed", f"The body is not gzip: {error}.") from None
            parts.append(part)
            room -= len(part)
            if room <= 0:
                raise TooLarge("body-too-large", f"Unpacked, send at most {limit} bytes at once.")
            at += len(piece) - len(member.unused_data)
        while body.startswith(b"\0", at):
            at += 1
    return b"".join(parts)


def _split(body: bytes, limits: Limits) -> Iterator[tuple[int, bytes]]:
    head = body.lstrip()[:1]
    if head == b"[" or (head == b"{" and _is_envelope(body)):
        try:
            items = _ARRAY.decode(body) if head == b"[" else _ENVELOPE.decode(body).events
        except (msgspec.DecodeError, RecursionError) as error:
            raise Refusal("batch-malformed", f"The body is not readable JSON: {error}.") from None
        if len(items) > limits.events:
            raise TooLarge("batch-too-large", f"Send at most {limits.events} events at once.")
        for index, item in enumerate(items, start=1):
            yield index, bytes(item)
        return
    count = 0
    for number, line in enumerate(body.split(b"\n"), start=1):
        text = line.strip()
        if not text:
            continue
        count += 1
        if count > limits.events:
            raise TooLarge("batch-too-large", f"Send at most {limits.events} events at once.")
        yield number, text


def _is_envelope(body: bytes) -> bool:
    """One JSON object over the whole body whose first field is `events`."""
    return body.lstrip()[1:].lstrip().startswith(b'"events"')


def read_line(raw: bytes, number: int, source: str, now: datetime, limits: Limits) -> Event | Fault:
    """Read one event, or say what is wrong with it."""
    if len(raw) > limits.line_bytes:
        detail = f"An event has at most {limits.line_bytes} bytes; this one has {len(raw)}."
        return Fault(number, "event-too-large", detail, raw[: limits.line_bytes])
    try:
        line = _LINE.decode(raw)
    except msgspec.ValidationError as error:
        return Fault(number, "event-malformed", f"{error}.", raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Fault(number, "event-malformed", f"Not one JSON object: {error}.", raw)
    return checked(line, number, source, now, limits, raw)


def checked(
    line: Line, number: int, source: str, now: datetime, limits: Limits, raw: bytes
) -> Event | Fault:
    """The rules that go beyond types."""
    if not _plain(line, raw):
        fault = _fault(line)
        if fault is not None:
            return Fault(number, "event-malformed", fault, raw)
    occurred_at = line.occurred_at
    if occurred_at.tzinfo is not UTC:
        try:
            occurred_at = occurred_at.astimezone(UTC)
        except OverflowError:
            return Fault(number, "event-malformed", "`occurred_at` is out of range.", raw)
    if occurred_at < EARLIEST:
        detail = f"`occurred_at` lies before {EARLIEST.year}."
        return Fault(number, "event-malformed", detail, raw, line.event_id)
    if occurred_at > now and occurred_at > now + limits.future:
        ahead = int(limits.future.total_seconds())
        detail = f"`occurred_at` lies more than {ahead} seconds ahead of our clock."
        return Fault(number, "event-in-future", detail, raw, line.event_id)
    return Event(
        source,
        line.event_id,
        line.user,
        line.campaign,
        line.task,
        line.type,
        occurred_at,
        line.payload,
        _canonical(line.payload),
        number,
        raw,
        _digest(line, occurred_at),
    )


def _digest(line: Line, occurred_at: datetime) -> bytes:
    """What makes two events of one id the same: everything but their spelling."""
    found = _DIGEST.copy()
    found.update(
        _canonical((line.user, line.campaign, line.task, line.type, occurred_at, line.payload))
    )
    return found.digest()


def _plain(line: Line, raw: bytes) -> bool:
    """Nothing that needs a closer look: ASCII as it is, which prints, and small numbers.

    (A JSON text holds no control characters but DEL, unless they are escaped.)
    """
    if not raw.isascii() or _BACKSLASH in raw or _DELETE in raw:
        return False
    for value in line.payload.values():
        if isinstance(value, int) and not -_SMALL < value < _SMALL:
            return False
    return True


def _fault(line: Line) -> str | None:
    for name in ("event_id", "user", "task", "type", "campaign"):
        text: str | None = getattr(line, name)
        if text is not None and not text.isprintable():
            return f"`{name}` holds a character that does not print."
    for key, value in line.payload.items():
        if not key.isprintable():
            return "A field of `payload` has a name with a character that does not print."
        if isinstance(value, str) and not _storable(value):
            return f"`payload.{key}` holds a character that cannot be stored."
        if isinstance(value, int) and value not in _IN_64_BITS:
            return f"`payload.{key}` does not fit into 64 bits."
    return None


def _storable(text: str) -> bool:
    """PostgreSQL takes every character but NUL and halves of surrogate pairs."""
    if text.isprintable():
        return True
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)
