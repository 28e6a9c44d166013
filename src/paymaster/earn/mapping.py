"""Files of rows into events: which column becomes which field, as data.

    {"fields": {"event_id": "{annotation}:{item}", "user": "{worker}", "campaign": "labels",
                "task": "senses", "type": "answer", "occurred_at": "2026-11-20T09:00:00Z",
                "payload.item": "{item}", "payload.answer": "{response}"}}

A template is text with columns in braces; without braces it is a constant. `{{` and `}}` stand for
braces. Payload values that come from files are text.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from paymaster.earn.event import Event, Fault
from paymaster.earn.intake import Limits, Parsed, read_line
from paymaster.kernel.errors import Problem, Refusal, Unprocessable

REQUIRED = ("event_id", "user", "task", "type", "occurred_at")
OPTIONAL = ("campaign",)
PAYLOAD = "payload."
_PART = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]|[^{}]+")


@dataclass(frozen=True, slots=True)
class Template:
    """Literal parts and columns, in turn: `(text, column)`, one of them None."""

    parts: tuple[tuple[str | None, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read a template. Raises ValueError for a brace that stands alone."""
        parts: list[tuple[str | None, str | None]] = []
        for match in _PART.finditer(text):
            part, column = match[0], match[1]
            if part in ("{", "}"):
                raise ValueError("a brace stands alone; write it twice to mean itself")
            if column is not None:
                parts.append((None, column))
            else:
                parts.append((part[0] if part in ("{{", "}}") else part, None))
        return cls(tuple(parts))

    @property
    def columns(self) -> frozenset[str]:
        """The columns it needs."""
        return frozenset(column for _, column in self.parts if column is not None)

    def fill(self, row: Mapping[str, str]) -> str:
        """The text for one row."""
        return "".join(
            text if text is not None else row[column or ""] for text, column in self.parts
        )


@dataclass(frozen=True, slots=True)
class FieldMap:
    """Which template makes which field."""

    fields: Mapping[str, Template]

    def check_header(self, header: Sequence[str]) -> None:
        """Raises Unprocessable `mapping-column` when the file lacks a column or names one twice."""
        missing = {
            column
            for template in self.fields.values()
            for column in template.columns
            if column not in header
        }
        twice = {column for column in header if header.count(column) > 1}
        if missing or twice:
            raise Unprocessable(
                "mapping-column",
                "The file's first line does not fit the mapping.",
                problems=[
                    *(Problem("line:1", f"There is no column {one!r}.") for one in sorted(missing)),
                    *(
                        Problem("line:1", f"Column {one!r} is there twice.")
                        for one in sorted(twice)
                    ),
                ],
            )

    def object(self, row: Mapping[str, str]) -> dict[str, Any]:
        """The event on the wire for one row."""
        made: dict[str, Any] = {}
        payload: dict[str, str] = {}
        for name, template in self.fields.items():
            value = template.fill(row)
            if name.startswith(PAYLOAD):
                payload[name.removeprefix(PAYLOAD)] = value
            else:
                made[name] = value
        if payload:
            made["payload"] = payload
        return made


def parse(fields: Mapping[str, Any]) -> FieldMap:
    """Read a mapping. Raises Unprocessable `mapping-invalid` with a problem for each fault."""
    problems = [
        Problem(f"/fields/{name}", "This field is required.")
        for name in REQUIRED
        if name not in fields
    ]
    templates: dict[str, Template] = {}
    for name, text in fields.items():
        at = "/fields/" + name.replace("~", "~0").replace("/", "~1")
        if name not in (*REQUIRED, *OPTIONAL) and not name.startswith(PAYLOAD):
            problems.append(Problem(at, "There is no such field; amounts are the task's."))
        elif not isinstance(text, str):
            problems.append(Problem(at, "Write text, with columns in braces."))
        else:
            try:
                templates[name] = Template.parse(text)
            except ValueError as error:
                problems.append(Problem(at, f"{error}."))
    if problems:
        raise Unprocessable("mapping-invalid", "The mapping has faults.", problems=problems)
    return FieldMap(templates)


def rows(
    lines: Iterable[str], *, delimiter: str = ","
) -> Iterator[tuple[int, list[str] | None, str]]:
    """`(line number, cells, fault)`; the header comes first. Comma files may quote, others not.

    A row that the csv reader cannot take has cells None and the reason.
    """
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, None, str(error)
            continue
        if cells:
            yield reader.line_num, cells, ""


def read_rows(
    lines: Iterable[str],
    mapping: FieldMap,
    source: str,
    now: datetime,
    *,
    delimiter: str = ",",
    limits: Limits | None = None,
    batch: int = 1000,
) -> Iterator[Parsed]:
    """Read a file of rows as a stream, in batches of events.

    Raises Refusal `batch-empty` for a file without a header, Unprocessable `mapping-column`.
    """
    limits = limits or Limits()
    found = rows(lines, delimiter=delimiter)
    header = next(found, None)
    if header is None or header[1] is None:
        raise Refusal("batch-empty", "The file has no header line.")
    columns = [header[1][0].removeprefix("\ufeff"), *header[1][1:]]
    mapping.check_header(columns)
    parsed = Parsed([], [])
    for number, cells, fault in found:
        read = _read(number, cells, fault, columns, mapping, source, now, limits)
        if isinstance(read, Fault):
            parsed.faults.append(read)
        else:
            parsed.events.append(read)
        if len(parsed.events) + len(parsed.faults) >= batch:
            yield parsed
            parsed = Parsed([], [])
    if parsed.events or parsed.faults:
        yield parsed


def _read(
    number: int,
    cells: list[str] | None,
    fault: str,
    columns: Sequence[str],
    mapping: FieldMap,
    source: str,
    now: datetime,
    limits: Limits,
) -> Event | Fault:
    if cells is None:
        return Fault(number, "event-malformed", f"The row cannot be read: {fault}.", b"")
    raw = "\t".join(cells).encode("utf-8", "surrogatepass")
    if len(cells) != len(columns):
        detail = f"The row has {len(cells)} cells, the header {len(columns)}."
        return Fault(number, "event-malformed", detail, raw)
    try:
        line = msgspec.json.encode(mapping.object(dict(zip(columns, cells, strict=True))))
    except (UnicodeEncodeError, msgspec.MsgspecError) as error:
        return Fault(number, "event-malformed", f"The row cannot be read: {error}.", raw)
    return read_line(line, number, source, now, limits)
