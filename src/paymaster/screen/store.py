"""The SQL of screening. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from paymaster.db.tx import CellRead, CellTx, ControlRead, ControlTx, json
from paymaster.kernel.clock import milliseconds
from paymaster.kernel.ids import time_floor
from paymaster.screen.facts import Scope


@dataclass(frozen=True, slots=True)
class ClaimedRow:
    """A withdrawal under the claimer's lease."""

    id: int
    state: str
    destination_id: int
    tries: int


async def claim(
    tx: CellTx, state: str, limit: int, until: datetime, lease_token: int
) -> list[ClaimedRow]:
    """Take due withdrawals of one state until `until`, oldest first."""
    return await tx.fetch(
        """
        WITH due AS (
            SELECT id FROM withdrawal WHERE state = %s AND due_at <= %s
            ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
        )
        UPDATE withdrawal w SET due_at = %s, lease_token = %s, tries = w.tries + 1,
            version = w.version + 1
        FROM due WHERE w.id = due.id
        RETURNING w.id, w.state, w.destination_id, w.tries
        """,
        (state, tx.now, limit, until, lease_token),
        ClaimedRow,
    )


async def due_now(tx: CellTx, withdrawal_id: int, state: str) -> bool:
    """Make a withdrawal due at once if it is in this state."""
    return bool(
        await tx.execute(
            "UPDATE withdrawal SET due_at = %s, version = version + 1 WHERE id = %s AND state = %s",
            (tx.now, withdrawal_id, state),
        )
    )


@dataclass(frozen=True, slots=True)
class Subject:
    """A withdrawal with what is known of its user and destination."""

    id: int
    amount: int
    asset: str
    requested_at: datetime
    user_id: int
    user_status: str
    user_created_at: datetime
    destination_kind: str
    fingerprint: bytes
    destination_created_at: datetime
    challenge_passed: bool


async def subjects(tx: CellRead, ids: Sequence[int]) -> list[Subject]:
    """What the rules may look at, apart from figures. `amount` is without the fee."""
    return await tx.fetch(
        """
        SELECT w.id, w.amount, w.asset, w.requested_at, u.id AS user_id, u.status AS user_status,
            u.created_at AS user_created_at, d.kind AS destination_kind, d.fingerprint,
            d.created_at AS destination_created_at,
            EXISTS (
                SELECT FROM withdrawal_move m WHERE m.withdrawal_id = w.id
                AND m.source = 'challenged' AND m.event = 'screen'
            ) AS challenge_passed
        FROM withdrawal w JOIN app_user u ON u.id = w.user_id
            JOIN destination d ON d.id = w.destination_id
        WHERE w.id = ANY(%s) ORDER BY w.id
        """,
        (list(ids),),
        Subject,
    )


@dataclass(frozen=True, slots=True)
class Span:
    """One window of one withdrawal: other ones requested at or after `since` and before it."""

    withdrawal_id: int
    window: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Sum:
    """What happened in a span in one currency."""

    withdrawal_id: int
    window: int
    asset: str
    count: int
    amount: int


async def sums(tx: CellRead, scope: Scope, spans: Sequence[Span], void: Sequence[str]) -> list[Sum]:
    """Counts and sums over other withdrawals of the same user, or to the same fingerprint.

    Those in a `void` state do not count. "Before" is by time of request, then by id, so that of two
    in one batch the later one sees the earlier one, and never the other way round.
    """
    statement = _SUMS_OF_USER if scope is Scope.USER else _SUMS_OF_DESTINATION
    return await tx.fetch(
        statement,
        {
            "ids": [span.withdrawal_id for span in spans],
            "windows": [span.window for span in spans],
            "since": [span.since for span in spans],
            # Ids carry the time at which they were made, which is never before the request's.
            "floors": [time_floor(milliseconds(span.since)) for span in spans],
            "void": list(void),
        },
        Sum,
    )


_SUMS_OF_USER: LiteralString = """
    SELECT s.id AS withdrawal_id, s.w AS window, o.asset, count(*) AS count,
        sum(o.amount)::bigint AS amount
    FROM unnest(%(ids)s::bigint[], %(windows)s::int[], %(since)s::timestamptz[],
            %(floors)s::bigint[]) AS s (id, w, since, floor)
        JOIN withdrawal t ON t.id = s.id
        JOIN withdrawal o ON o.user_id = t.user_id AND o.id >= s.floor
    WHERE o.requested_at >= s.since AND (o.requested_at, o.id) < (t.requested_at, t.id)
        AND o.state <> ALL(%(void)s)
    GROUP BY s.id, s.w, o.asset
"""

_SUMS_OF_DESTINATION: LiteralString = """
    SELECT s.id AS withdrawal_id, s.w AS window, o.asset, count(*) AS count,
        sum(o.amount)::bigint AS amount
    FROM unnest(%(ids)s::bigint[], %(windows)s::int[], %(since)s::timestamptz[],
            %(floors)s::bigint[]) AS s (id, w, since, floor)
        JOIN withdrawal t ON t.id = s.id
        JOIN destination d ON d.id = t.destination_id
        JOIN destination same ON same.fingerprint = d.fingerprint
        JOIN withdrawal o ON o.destination_id = same.id AND o.id >= s.floor
    WHERE o.requested_at >= s.since AND (o.requested_at, o.id) < (t.requested_at, t.id)
        AND o.state <> ALL(%(void)s)
    GROUP BY s.id, s.w, o.asset
"""


async def users_of_fingerprint(tx: CellRead, ids: Sequence[int]) -> dict[int, int]:
    """For each withdrawal: how many users of this cell have its destination."""
    rows = await tx.tuples(
        """
        SELECT w.id, count(DISTINCT same.user_id)
        FROM withdrawal w JOIN destination d ON d.id = w.destination_id
            JOIN destination same ON same.fingerprint = d.fingerprint
        WHERE w.id = ANY(%s) GROUP BY w.id
        """,
        (list(ids),),
    )
    return dict(rows)


@dataclass(frozen=True, slots=True)
class NewVerdict:
    """A verdict to store. `facts` and `reasons` are JSON documents."""

    withdrawal_id: int
    outcome: str
    reasons: Any
    facts: Any
    digest: bytes


async def insert_verdicts(
    tx: CellTx, rule_set_version: int, verdicts: Sequence[NewVerdict]
) -> None:
    """Store verdicts under a rule set that is stored already."""
    first = tx.append(len(verdicts))
    await tx.execute(
        """
        INSERT INTO verdict (id, withdrawal_id, rule_set_version, outcome, reasons, facts, digest,
            commit_id, ordinal, decided_at)
        SELECT u.id, u.w, %s, u.outcome, u.reasons, u.facts, u.digest, %s, u.ordinal, %s
        FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::jsonb[], %s::jsonb[], %s::bytea[],
            %s::int[]) AS u (id, w, outcome, reasons, facts, digest, ordinal)
        """,
        (
            rule_set_version,
            tx.commit_id,
            tx.now,
            tx.ids(len(verdicts)),
            [verdict.withdrawal_id for verdict in verdicts],
            [verdict.outcome for verdict in verdicts],
            [json(verdict.reasons) for verdict in verdicts],
            [json(verdict.facts) for verdict in verdicts],
            [verdict.digest for verdict in verdicts],
            list(range(first, first + len(verdicts))),
        ),
    )


async def keep_rule_set(tx: CellTx, version: int, rules: Mapping[str, Any]) -> bool:
    """Keep a rule set beside the verdicts; False when another one is kept under its version."""
    await tx.execute(
        "INSERT INTO applied_rule_set (version, rules) VALUES (%s, %s)"
        " ON CONFLICT (version) DO NOTHING",
        (version, json(dict(rules))),
    )
    return bool(
        await tx.value(
            "SELECT rules = %s FROM applied_rule_set WHERE version = %s",
            (json(dict(rules)), version),
        )
    )


@dataclass(frozen=True, slots=True)
class Stored:
    """A verdict with everything that is needed to reach it again."""

    withdrawal_id: int
    outcome: str
    reasons: list[dict[str, Any]]
    facts: dict[str, Any]
    digest: bytes
    rules: dict[str, Any]


async def stored_verdicts(tx: CellRead, withdrawal_id: int) -> list[Stored]:
    """The verdicts on a withdrawal, oldest first."""
    return await tx.fetch(
        """
        SELECT v.withdrawal_id, v.outcome, v.reasons, v.facts, v.digest, r.rules
        FROM verdict v JOIN applied_rule_set r ON r.version = v.rule_set_version
        WHERE v.withdrawal_id = %s ORDER BY v.id
        """,
        (withdrawal_id,),
        Stored,
    )


@dataclass(frozen=True, slots=True)
class RuleSetRow:
    """A rule set of an environment."""

    version: int
    rules: dict[str, Any]
    created_at: datetime


async def newest_rule_set(tx: ControlRead, environment_id: int) -> RuleSetRow | None:
    """The rule set in force."""
    return await tx.maybe(
        "SELECT version, rules, created_at FROM rule_set WHERE environment_id = %s"
        " ORDER BY version DESC LIMIT 1",
        (environment_id,),
        RuleSetRow,
    )


async def rule_sets(tx: ControlRead, environment_id: int) -> list[RuleSetRow]:
    """All rule sets of an environment, newest first."""
    return await tx.fetch(
        "SELECT version, rules, created_at FROM rule_set WHERE environment_id = %s"
        " ORDER BY version DESC",
        (environment_id,),
        RuleSetRow,
    )


async def insert_rule_set(
    tx: ControlTx, environment_id: int, version: int, rules: Mapping[str, Any]
) -> bool:
    """Store a version; False when it exists."""
    return bool(
        await tx.execute(
            "INSERT INTO rule_set (environment_id, version, rules, created_at)"
            " VALUES (%s, %s, %s, %s) ON CONFLICT (environment_id, version) DO NOTHING",
            (environment_id, version, json(dict(rules)), tx.now),
        )
    )
