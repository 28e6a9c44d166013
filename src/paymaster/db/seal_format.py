"""What the hash chain covers: the formats, and the statements that read a block.

A *format* lists the covered tables and, for each, its columns in a fixed order. Formats are never
changed. A new column or table makes a new format that begins with the next block; blocks name
theirs, so that old ones are still verified as they were sealed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import LiteralString, cast

from paymaster.db.seal_table import (
    BOTH,
    CONTROL,
    MOVE,
    OF_ENTRY,
    Table,
    appended,
    columns_of,
    hanging,
    of_event,
    of_leg,
    shown,
)

MARK_BYTES, OFFSET_BYTES = 8, 3
"""What is kept of each record: its place in the block, and the beginning of its leaf."""

MAX_OFFSET = (1 << 8 * OFFSET_BYTES) - 1
"""Places that one block may have."""

_FIRST: tuple[Table, ...] = (
    Table(
        "commit",
        BOTH,
        columns_of(
            "id bigint, first_seq bigint, last_seq bigint, recorded_at timestamptz, actor text,"
            " trace_id text"
        ),
        ("id",),
        "commit t WHERE t.last_seq BETWEEN %(first)s AND %(last)s",
        "t.first_seq",
    ),
    appended(
        "outbox",
        "commit_id ordinal",
        "commit_id bigint, ordinal integer, message_id bigint, topic text, key text,"
        " target_cell integer?, payload jsonb, trace_id text, created_at timestamptz",
        BOTH,
    ),
    appended(
        "audit",
        "commit_id ordinal",
        "commit_id bigint, ordinal integer, actor text, action text, subject text, reason text?,"
        " detail jsonb, origin text?, trace_id text, acted_at timestamptz",
        BOTH,
    ),
    appended(
        "entry",
        "id",
        "id bigint, commit_id bigint, ordinal integer, kind text, recipe_version smallint,"
        " subject text, postings smallint, effective_at timestamptz, effective_day date,"
        " digest bytea, evidence jsonb, reverses_id bigint?, trace_id text,"
        " first_posting_id bigint?, last_posting_id bigint?",
    ),
    hanging(
        "posting",
        "id",
        "id bigint, entry_id bigint, source_id bigint, destination_id bigint, amount bigint,"
        " asset text, requested bigint, source_previous bigint?, source_number bigint,"
        " source_balance bigint, destination_previous bigint?, destination_number bigint,"
        " destination_balance bigint",
        OF_ENTRY.format("t"),
    ),
    of_leg("account_mark", "account_id bigint, number bigint, posting_id bigint"),
    of_leg(
        "late_leg",
        "account_id bigint, number bigint, posting_id bigint, effective_at timestamptz,"
        " amount bigint",
    ),
    appended(
        "event",
        "source event_id",
        "source text, event_id text, task_id bigint, user_id bigint, type text,"
        " occurred_at timestamptz, received_at timestamptz, digest bytea, payload jsonb,"
        " outcome text, trace_id text, commit_id bigint, ordinal integer",
        late=True,
    ),
    of_event(
        "answer",
        "task_id user_id item",
        "task_id bigint, user_id bigint, item text, source text, event_id text",
    ),
    of_event(
        "progress",
        "task_id user_id occurred_at source event_id",
        "task_id bigint, user_id bigint, occurred_at timestamptz, source text, event_id text,"
        " step text",
        " AND t.occurred_at = e.occurred_at",
    ),
    appended(
        "dead_letter",
        "id",
        "id bigint, source text, line integer, event_id text?, slug text, detail text,"
        " sealed bytea, received_at timestamptz, trace_id text, commit_id bigint, ordinal integer",
        late=True,
    ),
    appended(
        "task_move",
        "user_id task_id number",
        f"user_id bigint, task_id bigint, number integer, {MOVE}",
    ),
    appended("reward_move", "reward_id number", f"reward_id bigint, number integer, {MOVE}"),
    appended(
        "withdrawal_move",
        "withdrawal_id number",
        f"withdrawal_id bigint, number integer, {MOVE}",
    ),
    appended("transfer_move", "transfer_id number", f"transfer_id bigint, number integer, {MOVE}"),
    appended(
        "verdict",
        "id",
        "id bigint, withdrawal_id bigint, rule_set_version integer, outcome text, reasons jsonb,"
        " facts jsonb, digest bytea, commit_id bigint, ordinal integer, decided_at timestamptz",
    ),
    appended(
        "applied_rule_set",
        "version",
        "version integer, rules jsonb, commit_id bigint, ordinal integer",
        late=True,
    ),
    appended(
        "statement",
        "id",
        "id bigint, rail_account_id bigint, statement_id text, day date, opening bigint,"
        " closing bigint, asset text, lines integer, digest bytea, restates_id bigint?,"
        " file_id bigint, entry_opening bigint, received_at timestamptz, commit_id bigint,"
        " ordinal integer",
        late=True,
    ),
    appended(
        "recon_run",
        "id",
        "id bigint, rail_account_id bigint, day date, asset text, opening bigint, closing bigint,"
        " ledger bigint, outstanding bigint, difference bigint, lines integer, matched integer,"
        " breaks integer, as_of_seq bigint, started_at timestamptz, actor text,"
        " commit_id bigint, ordinal integer",
        late=True,
    ),
    appended(
        "day_close",
        "day",
        "day date, closed_seq bigint, totals jsonb, digest bytea, signature bytea, key_id text,"
        " actor text, commit_id bigint, ordinal integer, closed_at timestamptz",
    ),
    appended(
        "archive",
        "month",
        "month date, low_id bigint, high_id bigint, entries bigint, postings bigint,"
        " last_seq bigint, recorded_through timestamptz, chain_sum numeric,"
        " link_sum numeric, file text, sha256 bytea, actor text, archived_at timestamptz,"
        " commit_id bigint, ordinal integer",
    ),
    appended(
        "environment",
        "id",
        "id bigint, tenant text, mode text, time_zone text, created_at timestamptz,"
        " commit_id bigint, ordinal integer",
        CONTROL,
        late=True,
    ),
    appended(
        "cell",
        "number",
        "number integer, environment_id bigint, server text, schema_name text, treasury boolean,"
        " open_for_users boolean, created_at timestamptz, commit_id bigint, ordinal integer",
        CONTROL,
        late=True,
    ),
    appended(
        "rule_set",
        "environment_id version",
        "environment_id bigint, version integer, rules jsonb, created_at timestamptz,"
        " commit_id bigint, ordinal integer",
        CONTROL,
        late=True,
    ),
    appended(
        "registry",
        "environment_id kind fingerprint cell user_id",
        "environment_id bigint, kind text, fingerprint bytea, cell integer, user_id bigint,"
        " claimed_at timestamptz, commit_id bigint, ordinal integer",
        CONTROL,
        late=True,
    ),
    appended(
        "directory",
        "environment_id external_id",
        "environment_id bigint, external_id text, cell integer, user_id bigint,"
        " created_at timestamptz, commit_id bigint, ordinal integer",
        CONTROL,
        late=True,
    ),
)

_SECOND: tuple[Table, ...] = (
    *_FIRST,
    appended(
        "kyc_record",
        "user_id number",
        "user_id bigint, number integer, level text, jurisdiction text?, provider text,"
        " evidence text, reason text?, expires_at timestamptz?, recorded_at timestamptz,"
        " commit_id bigint, ordinal integer",
    ),
    appended(
        "environment_removal",
        "environment_id",
        "environment_id bigint, certificate bytea, reason text, removed_at timestamptz,"
        " commit_id bigint, ordinal integer",
        CONTROL,
    ),
)

_THIRD: tuple[Table, ...] = (
    *_SECOND,
    appended(
        "attempt_proof",
        "attempt_id",
        "attempt_id bigint, withdrawal_id bigint?, number integer, rail_account_id bigint,"
        " kind text, code text?, evidence text, proven_at timestamptz, commit_id bigint,"
        " ordinal integer",
    ),
    appended(
        "automatic_run",
        "key",
        "key text, withdrawal_id bigint, commit_id bigint, ordinal integer",
    ),
    appended(
        "earning_policy",
        "id",
        "id bigint, environment_id bigint, source text, version integer, subject_id bigint?,"
        " terms jsonb, reason text, actor text, created_at timestamptz, commit_id bigint,"
        " ordinal integer",
        CONTROL,
    ),
    appended(
        "applied_policy",
        "id",
        "id bigint, source text, version integer, terms jsonb, commit_id bigint, ordinal integer",
    ),
    appended(
        "reward_reversal",
        "reward_id number",
        "reward_id bigint, number integer, reference text?, user_id bigint, campaign_id bigint,"
        " asset text, amount bigint, from_vesting bigint, from_available bigint,"
        " from_reserve bigint, owed bigint, bearer text, entry_id bigint, reason text, actor text,"
        " reversed_at timestamptz, commit_id bigint, ordinal integer",
    ),
    appended(
        "fee_plan",
        "environment_id name version",
        "environment_id bigint, name text, version integer, revision integer, plan jsonb,"
        " created_at timestamptz, commit_id bigint, ordinal integer",
        CONTROL,
    ),
    appended(
        "fx_rate",
        "id",
        "id bigint, environment_id bigint, source text, base text, counter text, rate text,"
        " observed_at timestamptz, valid_seconds integer, reference text, actor text,"
        " recorded_at timestamptz, commit_id bigint, ordinal integer",
        CONTROL,
    ),
)

FORMATS: Mapping[int, tuple[Table, ...]] = {1: _FIRST, 2: _SECOND, 3: _THIRD}
"""Every format that blocks were ever sealed in; records of one place are in the tables' order."""

NEWEST = max(FORMATS)

EXEMPT: Mapping[str, str] = {
    "proof": "how far the books were proven: it shortens the next proof and records no fact",
    "seal": "the chain itself: each block holds the hash of the one before",
    "legal_move": "written from the code by migrations; every move repeats its row and is covered",
    "trace_commit": "an index: the records of the commit carry the same traces and are covered",
    "slice_wait": "a queue: rows go when served; asks and grants are messages and covered",
    "login_used": "for a day, so that an answer to a login is taken once; logins are in the audit",
    "issuer_audience": "an index: rows go with their issuer; adding and removing is in the audit",
}
"""Append-only tables that are not covered, and why."""


@dataclass(frozen=True, slots=True)
class Span:
    """Which records are a block's: seq, ids of its commits, ids of its postings (all inclusive)."""

    first: int
    last: int
    low: int
    high: int
    first_posting: int
    last_posting: int

    def parameters(self) -> dict[str, int]:
        """For `records` and `nth_record`."""
        return asdict(self)


@cache
def tables(number: int, kind: str) -> tuple[Table, ...]:
    """The tables of a format in a `control` or `cell` schema."""
    return tuple(table for table in FORMATS[number] if kind in table.kinds)


@cache
def named(name: str) -> Table:
    """A table of the newest format."""
    return next(table for table in FORMATS[NEWEST] if table.name == name)


@cache
def records(number: int, kind: str, *, legacy: bool = False) -> LiteralString:
    """For each table its name and all records of a block in order: 4 bytes of offset, 32 of leaf.

    Takes the fields of a `Span`. `legacy` is for block 0.
    """
    parts: list[str] = []
    for table in tables(number, kind):
        place, source = _placed(table, legacy=legacy)
        parts.append(
            f"SELECT '{table.name}', string_agg(int4send({place}::int) || {table.leaf}, ''::bytea"
            f" ORDER BY {place}, {table.order}) FROM {source}"
        )
    return cast("LiteralString", " UNION ALL ".join(parts))


@cache
def nth_record(table: Table, *, legacy: bool = False) -> LiteralString:
    """The key columns, as text, of the record at place `skip` of the same order."""
    place, source = _placed(table, legacy=legacy)
    columns = ", ".join(shown(table, column) for column in table.key)
    return cast(
        "LiteralString",
        f"SELECT {columns} FROM {source} ORDER BY {place}, {table.order} LIMIT 1 OFFSET %(skip)s",
    )


def _placed(table: Table, *, legacy: bool) -> tuple[str, str]:
    """A record's offset in its block, and where it comes from."""
    if not legacy:
        return f"least(greatest({table.seq} - %(first)s, 0), {MAX_OFFSET})", table.source
    return "0::bigint", table.legacy or f"{table.name} t WHERE false"
