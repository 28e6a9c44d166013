"""How a table is covered by the hash chain: its columns as bytes, and where its records are.

A record's leaf is the SHA-256 over its columns, each written so that no two different records give
the same bytes: numbers and times with their fixed width (PostgreSQL's binary form), everything else
behind its length, and a byte before each column that may be NULL. Nothing depends on a session's
settings.
"""

from __future__ import annotations

from dataclasses import dataclass

_WRITTEN = {
    "bigint": "int8send(t.{0})",
    "integer": "int4send(t.{0})",
    "smallint": "int2send(t.{0})",
    "boolean": "boolsend(t.{0})",
    "date": "date_send(t.{0})",
    "timestamptz": "timestamptz_send(t.{0})",
    "bytea": "int4send(octet_length(t.{0})) || t.{0}",
    "text": "int4send(octet_length(t.{0})) || convert_to(t.{0}, 'UTF8')",
    "numeric": "int4send(octet_length(t.{0}::text)) || convert_to(t.{0}::text, 'UTF8')",
    "jsonb": "int4send(octet_length(t.{0}::text)) || convert_to(t.{0}::text, 'UTF8')",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column as it is hashed."""

    name: str
    type: str
    nullable: bool

    @property
    def written(self) -> str:
        """SQL for its bytes; `t` is the record."""
        written = _WRITTEN[self.type].format(self.name)
        if self.nullable:
            return f"coalesce('\\x01'::bytea || {written}, '\\x00'::bytea)"
        return written


@dataclass(frozen=True, slots=True)
class Table:
    """A covered table.

    `source` is what stands behind FROM: `c` is the commit, `t` the record. `seq` is the record's
    place in the order of commits; records of one place are in the order of their keys. A table
    that got its commits with the chain has its older records in block 0: those of `legacy`.
    """

    name: str
    kinds: frozenset[str]
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    source: str
    seq: str
    legacy: str | None = None

    @property
    def leaf(self) -> str:
        """SQL for the hash of one record."""
        tag = f"'\\x{self.name.encode().hex()}00'::bytea"
        return f"sha256({' || '.join([tag, *(column.written for column in self.columns)])})"

    @property
    def order(self) -> str:
        """SQL that orders the records of one place, whatever the server's collation."""
        first = ["t.ordinal"] if any(c.name == "ordinal" for c in self.columns) else []
        text = {column.name for column in self.columns if column.type == "text"}
        keys = [f't.{name} COLLATE "C"' if name in text else f"t.{name}" for name in self.key]
        return ", ".join(first + keys)

    @property
    def hangs(self) -> bool:
        """Whether the record has no commit of its own but that of another record."""
        return self.name != "commit" and not any(c.name == "commit_id" for c in self.columns)


BOTH, CELL, CONTROL = frozenset({"control", "cell"}), frozenset({"cell"}), frozenset({"control"})

_IN_BLOCK = "c.last_seq BETWEEN %(first)s AND %(last)s"
_OF_COMMIT = (
    "commit c JOIN {} t ON t.commit_id = c.id"
    f" WHERE {_IN_BLOCK} AND t.commit_id BETWEEN %(low)s AND %(high)s"
)
OF_ENTRY = (
    "commit c JOIN entry e ON e.commit_id = c.id JOIN posting {0} ON {0}.entry_id = e.id"
    " AND {0}.id BETWEEN e.first_posting_id AND e.last_posting_id"
    " AND {0}.id BETWEEN %(first_posting)s AND %(last_posting)s"
)
_OF_LEG = OF_ENTRY.format("p") + (
    " JOIN {} t ON t.posting_id = p.id"
    " AND t.posting_id BETWEEN %(first_posting)s AND %(last_posting)s"
)
_OF_EVENT = (
    "event e JOIN {} t ON t.task_id = e.task_id AND t.user_id = e.user_id"
    " AND t.source = e.source AND t.event_id = e.event_id{}"
)
_BOUNDS = f" WHERE {_IN_BLOCK} AND e.commit_id BETWEEN %(low)s AND %(high)s"
MOVE = (
    "machine text, source text, event text, target text, actor text, reason text?,"
    " commit_id bigint, ordinal integer, moved_at timestamptz"
)


def columns_of(text: str) -> tuple[Column, ...]:
    """Columns from `name type, name type?, ...`; a question mark says that it may be NULL."""
    columns: list[Column] = []
    for part in text.split(","):
        name, kind = part.split()
        columns.append(Column(name, kind.removesuffix("?"), kind.endswith("?")))
    return tuple(columns)


def appended(
    name: str, key: str, columns: str, kinds: frozenset[str] = CELL, *, late: bool = False
) -> Table:
    """A table whose records carry `(commit_id, ordinal)`."""
    source, seq = _OF_COMMIT.format(name), "c.first_seq + t.ordinal"
    legacy = f"{name} t WHERE t.commit_id = 0" if late else None
    return Table(name, kinds, columns_of(columns), tuple(key.split()), source, seq, legacy)


def hanging(name: str, key: str, columns: str, source: str, legacy: str | None = None) -> Table:
    """A table whose records belong to an entry or an event, `e`."""
    keys, seq = tuple(key.split()), "c.first_seq + e.ordinal"
    return Table(name, CELL, columns_of(columns), keys, source + _BOUNDS, seq, legacy)


def of_leg(name: str, columns: str) -> Table:
    """A table with a record for some legs of postings, which it names."""
    return hanging(name, "account_id number", columns, _OF_LEG.format(name))


def of_event(name: str, key: str, columns: str, also: str = "") -> Table:
    """A table whose records belong to an event and name it."""
    joined = _OF_EVENT.format(name, also)
    source = f"commit c JOIN {joined.replace('event e JOIN', 'event e ON e.commit_id = c.id JOIN')}"
    return hanging(name, key, columns, source, f"{joined} WHERE e.commit_id = 0")


def shown(table: Table, name: str) -> str:
    """SQL for a column of the record `t` as text that people can read."""
    kind = next(column.type for column in table.columns if column.name == name)
    return f"encode(t.{name}, 'hex')" if kind == "bytea" else f"t.{name}::text"
