"""The SQL of screening. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, NamedTuple, cast

from paymaster.db import copying
from paymaster.db.tx import CellRead, CellTx, ControlRead, ControlTx, json
from paymaster.kernel.clock import milliseconds
from paymaster.kernel.ids import time_floor
from paymaster.kernel.money import Money
from paymaster.screen.facts import Scope


async def claim_again(
    tx: CellTx, state: str, limit: int, until: datetime, lease_token: int
) -> list[tuple[int, int, int]]:
    """Take withdrawals whose lease in `state` is over: their ids, destinations and tries."""
    return cast(
        "list[tuple[int, int, int]]",
        await tx.tuples(
            """
            WITH due AS (
                SELECT id FROM withdrawal WHERE state = %s AND due_at <= %s
                ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
            )
            UPDATE withdrawal w SET due_at = %s, lease_token = %s, tries = w.tries + 1,
                version = w.version + 1
            FROM due WHERE w.id = due.id
            RETURNING w.id, w.destination_id, w.tries
            """,
            (state, tx.now, limit, until, lease_token),
        ),
    )


async def due_now(tx: CellTx, withdrawal_id: int, state: str) -> bool:
    """Make a withdrawal due at once if it is in this state."""
    return bool(
        await tx.execute(
            "UPDATE withdrawal SET due_at = %s, version = version + 1 WHERE id = %s AND state = %s",
            (tx.now, withdrawal_id, state),
        )
    )


async def take_unanswered(
    tx: CellTx, state: str, since: datetime, tries: int, limit: int
) -> list[int]:
    """Lock withdrawals in a state that was entered by then and asks for something, oldest first.

    Only those with at most so many tries; not what is under a regulatory hold: it can neither be
    answered nor ended.
    """
    rows = await tx.tuples(
        """
        SELECT w.id FROM withdrawal w JOIN withdrawal_move m
            ON m.withdrawal_id = w.id AND m.number = w.number
        WHERE w.state = %s AND w.due_at IS NULL AND w.tries <= %s AND m.moved_at <= %s
            AND NOT EXISTS (SELECT FROM legal_hold h WHERE h.lifted_at IS NULL
                AND h.subject_id IN (w.id, w.user_id))
            AND NOT EXISTS (SELECT FROM destination t
                JOIN destination s ON s.fingerprint = t.fingerprint
                JOIN legal_hold h ON h.subject_id = s.id AND h.lifted_at IS NULL
                WHERE t.id = w.destination_id)
        ORDER BY w.id LIMIT %s FOR UPDATE OF w SKIP LOCKED
        """,
        (state, tries, since, limit),
    )
    return [row[0] for row in rows]


async def count_try(tx: CellTx, ids: Sequence[int]) -> None:
    """Note that locked withdrawals were reminded of."""
    await tx.execute(
        "UPDATE withdrawal SET tries = tries + 1, version = version + 1 WHERE id = ANY(%s)",
        (list(ids),),
    )


class Asked(NamedTuple):
    """A withdrawal that asks for a proof. `passed`: it was given, the rules judge again soon.

    Amounts are minor units of `asset`; `asked_at` is when it came to its state.
    """

    id: int
    user_id: int
    destination_id: int
    amount: int
    fee: int
    asset: str
    state: str
    number: int
    passed: bool
    asked_at: datetime | None
    trace_id: str

    @property
    def money(self) -> Money:
        """What the proof is bound to: the withdrawal's amount, as it is shown everywhere."""
        return Money(self.amount, self.asset)


async def asked(tx: CellRead, ids: Sequence[int]) -> list[Asked]:
    """Withdrawals by id, in order of id."""
    rows = await tx.tuples(
        """
        SELECT w.id, w.user_id, w.destination_id, w.amount, w.fee, w.asset, w.state, w.number,
            w.due_at IS NOT NULL, m.moved_at, w.trace_id
        FROM withdrawal w LEFT JOIN withdrawal_move m
            ON m.withdrawal_id = w.id AND m.number = w.number
        WHERE w.id = ANY(%s) ORDER BY w.id
        """,
        (list(ids),),
    )
    return [Asked._make(row) for row in rows]


class Subject(NamedTuple):
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
    """What the rules may look at, apart from figures. `amount` is what was asked for."""
    rows = await tx.tuples(
        """
        SELECT w.id, w.amount + CASE w.fee_payer WHEN 'receiver' THEN w.fee ELSE 0 END, w.asset,
            w.requested_at, u.id, u.status, u.created_at, d.kind, d.fingerprint, d.created_at,
            w.number > 1 AND EXISTS (
                SELECT FROM withdrawal_move m WHERE m.withdrawal_id = w.id
                AND m.source = 'challenged' AND m.event = 'screen'
            )
        FROM withdrawal w JOIN app_user u ON u.id = w.user_id
            JOIN destination d ON d.id = w.destination_id
        WHERE w.id = ANY(%s) ORDER BY w.id
        """,
        (list(ids),),
    )
    return [Subject._make(row) for row in rows]


class Span(NamedTuple):
    """One window of one withdrawal: other ones requested at or after `since` and before it.

    `of` is whose: the user, or one fingerprint of the destination.
    """

    subject: Subject
    window: int
    since: datetime
    of: int | bytes


class Sum(NamedTuple):
    """What happened in a span in one currency."""

    withdrawal_id: int
    window: int
    asset: str
    requests: int
    amount: int


async def sums(tx: CellRead, scope: Scope, spans: Sequence[Span], void: Sequence[str]) -> list[Sum]:
    """Counts and sums over other withdrawals of the same user, or to the same fingerprint.

    Sums are of what was asked for: where the payee bears the fee, that is amount and fee.
    Those in a `void` state do not count. "Before" is by time of request, then by id, so that of two
    in one batch the later one sees the earlier one, and never the other way round. What was
    committed before counts too: it may have been judged without one that began earlier, or by a
    clock that is behind, and ended later.
    """
    statement = _SUMS_OF_USER if scope is Scope.USER else _SUMS_OF_DESTINATION
    # Ids carry the time at which they were made, which is never before the request's.
    floors = {since: time_floor(milliseconds(since)) for since in {span.since for span in spans}}
    subjects = [span.subject for span in spans]
    rows = await tx.tuples(
        statement,
        {
            "ids": [subject.id for subject in subjects],
            "ats": [subject.requested_at for subject in subjects],
            "of": [span.of for span in spans],
            "windows": [span.window for span in spans],
            "since": [span.since for span in spans],
            "floors": [floors[span.since] for span in spans],
            "void": list(void),
        },
    )
    return [Sum._make(row) for row in rows]


_BEFORE: LiteralString = """
    WHERE o.requested_at >= s.since AND o.state <> ALL(%(void)s)
        AND ((o.requested_at, o.id) < (s.at, s.id) OR o.id <> s.id AND (
            SELECT c.last_seq FROM entry e JOIN commit c ON c.id = e.commit_id
            WHERE e.id = o.entry_request
        ) < (
            SELECT c.last_seq FROM withdrawal w
                JOIN entry e ON e.id = w.entry_request JOIN commit c ON c.id = e.commit_id
            WHERE w.id = s.id
        ))
    GROUP BY s.id, s.w, o.asset
"""

_SUMS_OF_USER: LiteralString = (
    """
    SELECT s.id, s.w, o.asset, count(*), least(
        sum(o.amount + CASE o.fee_payer WHEN 'receiver' THEN o.fee ELSE 0 END), 9223372036854775807
    )::bigint
    FROM unnest(%(ids)s::bigint[], %(ats)s::timestamptz[], %(of)s::bigint[], %(windows)s::int[],
            %(since)s::timestamptz[], %(floors)s::bigint[]) AS s (id, at, of, w, since, floor)
        JOIN withdrawal o ON o.user_id = s.of AND o.id >= s.floor
"""
    + _BEFORE
)

_SUMS_OF_DESTINATION: LiteralString = (
    """
    SELECT s.id, s.w, o.asset, count(*), least(
        sum(o.amount + CASE o.fee_payer WHEN 'receiver' THEN o.fee ELSE 0 END), 9223372036854775807
    )::bigint
    FROM unnest(%(ids)s::bigint[], %(ats)s::timestamptz[], %(of)s::bytea[], %(windows)s::int[],
            %(since)s::timestamptz[], %(floors)s::bigint[]) AS s (id, at, of, w, since, floor)
        JOIN destination same ON same.fingerprint = s.of
        JOIN withdrawal o ON o.destination_id = same.id AND o.id >= s.floor
"""
    + _BEFORE
)


async def users_of_fingerprints(tx: CellRead, fingerprints: Sequence[bytes]) -> dict[bytes, int]:
    """For each fingerprint: how many users of this cell have such a destination."""
    rows = await tx.tuples(
        """
        SELECT fingerprint, count(DISTINCT user_id) FROM destination
        WHERE fingerprint = ANY(%s) GROUP BY fingerprint
        """,
        (list(fingerprints),),
    )
    return dict(rows)


class NewVerdict(NamedTuple):
    """A verdict to store. `facts` and `reasons` are JSON documents, written out."""

    withdrawal_id: int
    outcome: str
    reasons: bytes
    facts: bytes
    digest: bytes


async def insert_verdicts(
    tx: CellTx, rule_set_version: int, verdicts: Sequence[NewVerdict]
) -> None:
    """Store verdicts under a rule set that is stored already."""
    if not verdicts:
        return
    first, ids = tx.append(len(verdicts)), tx.ids(len(verdicts))
    same = f"{rule_set_version}\t{tx.commit_id}\t{tx.now.isoformat()}\n"
    await tx.copy(
        "COPY verdict (id, withdrawal_id, outcome, reasons, facts, digest, ordinal,"
        " rule_set_version, commit_id, decided_at) FROM STDIN",
        [
            f"{ids[index]}\t{one.withdrawal_id}\t{one.outcome}\t"
            f"{copying.text(one.reasons.decode())}\t{copying.text(one.facts.decode())}\t"
            f"{copying.hexadecimal(one.digest)}\t{first + index}\t{same}"
            for index, one in enumerate(verdicts)
        ],
    )


async def keep_rule_set(tx: CellTx, version: int, rules: Mapping[str, Any]) -> bool:
    """Keep a rule set beside the verdicts; False when another one is kept under its version."""
    await tx.execute(
        "INSERT INTO applied_rule_set (version, rules, commit_id, ordinal) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (version) DO NOTHING",
        (version, json(dict(rules)), tx.commit_id, tx.append()),
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


async def newest_version(tx: ControlRead, environment_id: int) -> int | None:
    """The number of the rule set in force."""
    return await tx.value(
        "SELECT max(version) FROM rule_set WHERE environment_id = %s", (environment_id,)
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
            "INSERT INTO rule_set (environment_id, version, rules, created_at, commit_id, ordinal)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (environment_id, version) DO NOTHING",
            (environment_id, version, json(dict(rules)), tx.now, tx.commit_id, tx.append()),
        )
    )
