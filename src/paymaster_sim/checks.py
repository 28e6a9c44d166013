"""What must be true at any moment, and what at the end. Each check has a name.

The cheap ones are asked after every step: sums over all accounts, holds against withdrawals, and
the provider's own books against ours. The expensive ones at the end: the project's own proofs, the
hash chain, and whether everything has come to an end and agrees to the cent.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from paymaster.withdraw.machine import WITHDRAWAL, holds_money, posted
from paymaster_sim.eye import Eye, Order, Seen
from paymaster_sim.outside import Outside, Paid
from paymaster_sim.place import CELLS

ENDS = frozenset({"paid", "failed", "returned", "denied", "cancelled"})
OPEN = tuple(sorted(state for state in WITHDRAWAL.states() if holds_money(state)))
GIVEN_BACK = frozenset(s for s in WITHDRAWAL.states() if "release" in posted(s))
_LEGAL = tuple((m.source.value, m.event.value, m.target.value) for m in WITHDRAWAL.moves)
"""As the table was when this was loaded: a mutant changes it."""

WENT_OUT = frozenset({"pending", "paid", "returned"})
"""States of a payment out there that is, was, or will be with the payee."""


class Violation(Exception):
    """Something that must never be was found."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail


_SUMS = """
    SELECT {n}, 'sum-zero', asset || ' sums to ' || sum(balance) FROM {s}.account
        GROUP BY asset HAVING sum(balance) <> 0
    UNION ALL
    SELECT {n}, 'holds', 'held ' || a.owner_id || ' is ' || a.balance || ', holds say '
            || coalesce(h.remaining, 0)
        FROM {s}.account a LEFT JOIN (SELECT held_id, sum(remaining) AS remaining FROM {s}.hold
            WHERE state = 'open' GROUP BY held_id) h ON h.held_id = a.id
        WHERE a.kind = 'held' AND a.balance <> coalesce(h.remaining, 0)
    UNION ALL
    SELECT {n}, 'hold-withdrawal', 'withdrawal ' || w.id || ' is ' || w.state || ', its hold '
            || coalesce(h.state || ' ' || h.remaining, 'missing')
        FROM {s}.withdrawal w LEFT JOIN {s}.hold h ON h.id = w.hold_id
        WHERE h.id IS NULL OR (w.state = ANY(%(open)s)) <> (h.state = 'open')
            OR (h.state = 'open' AND h.remaining <> w.amount + w.fee)
    UNION ALL
    SELECT {n}, 'one-live-key', 'withdrawal ' || withdrawal_id || ' has ' || count(*)
            || ' attempts that are not proven dead'
        FROM {s}.attempt WHERE withdrawal_id IS NOT NULL AND state <> 'rejected'
        GROUP BY withdrawal_id HAVING count(*) > 1
"""
_BEGINS, _TELLING = "pkg", 20
"""How all begin that open a payment, and how many letters tell one from another."""

_MOVED = """
    SELECT {n}, 'balance-postings', a.kind || ' ' || a.owner_id || ' is ' || a.balance
            || ', its postings sum to ' || coalesce(p.moved, 0)
        FROM {s}.account a LEFT JOIN (
            SELECT id, sum(moved) AS moved FROM (
                SELECT destination_id AS id, amount AS moved FROM {s}.posting
                UNION ALL SELECT source_id, -amount FROM {s}.posting) AS one GROUP BY id
        ) p ON p.id = a.id WHERE a.balance <> coalesce(p.moved, 0)
    UNION ALL
    SELECT {n}, 'legal-moves', 'withdrawal ' || m.withdrawal_id || ' went ' || m.source || ' '
            || m.event || ' ' || m.target
        FROM {s}.withdrawal_move m WHERE NOT (m.source, m.event, m.target) IN (
            SELECT * FROM unnest(%(sources)s::text[], %(events)s::text[], %(targets)s::text[]))
    UNION ALL
    SELECT {n}, 'last-move', 'withdrawal ' || w.id || ' is ' || w.state || ', its last move led to '
            || m.target
        FROM {s}.withdrawal w JOIN {s}.withdrawal_move m
            ON m.withdrawal_id = w.id AND m.number = w.number WHERE m.target <> w.state
"""


_STORY = """
    SELECT 'withdrawal ' || w.id || ' ' || w.state || ' ' || coalesce(w.reason, '') || ', due '
        || coalesce(w.due_at::text, 'never') || coalesce((
            SELECT string_agg('; attempt ' || a.key || ' ' || a.state || ' '
                || coalesce(a.code, '') || ' ' || coalesce(a.detail, '') || ', due '
                || coalesce(a.due_at::text, 'never') || ', its order ' || b.state || ' '
                || coalesce(b.detail, '') || ', due ' || coalesce(b.due_at::text, 'never'), ''
                ORDER BY a.number)
            FROM {s}.attempt a JOIN {s}.batch b ON b.id = a.batch_id
            WHERE a.withdrawal_id = w.id), '')
    FROM {s}.withdrawal w WHERE w.id = %(id)s
"""


def everywhere(statement: str) -> str:
    """A statement for every cell: `{s}` is the schema, `{n}` the number."""
    return " UNION ALL ".join(statement.format(n=n, s=f"cell_{n}") for n in CELLS)


_EACH_STEP, _AT_LEISURE = everywhere(_SUMS), everywhere(_MOVED)


def books(eye: Eye) -> None:
    """The books of every cell in themselves, cheaply. Raises Violation."""
    _first(eye.rows(_EACH_STEP, open=list(OPEN)))


def history(eye: Eye) -> None:
    """Balances against all postings, states against all moves. Raises Violation."""
    sources, events, targets = (list(part) for part in zip(*_LEGAL, strict=True))
    _first(eye.rows(_AT_LEISURE, sources=sources, events=events, targets=targets))


def _first(rows: Sequence[tuple[int, str, str]]) -> None:
    for cell, name, detail in rows:
        raise Violation(name, f"cell {cell}: {detail}")


def payments(seen: Sequence[Seen], orders: Sequence[Order], paid: Sequence[Paid]) -> None:
    """What really went out against what the books say, at any moment. Raises Violation."""
    by_key = {order.key: order for order in orders}
    states = {(one.cell, one.id): one for one in seen}
    went: dict[tuple[int, int], list[Paid]] = defaultdict(list)
    for one in paid:
        order = by_key.get(one.reference)
        if order is None:
            raise Violation("paid-without-order", f"{one.reference}: {one.minor} to {one.payee}")
        if one.minor != order.amount:
            raise Violation(
                "paid-other-amount", f"{one.reference}: {one.minor}, ordered was {order.amount}"
            )
        if one.state not in WENT_OUT:
            continue
        if order.state == "rejected":
            raise Violation("paid-though-dead", f"{one.reference} is {one.state} out there")
        if order.withdrawal_id is not None:
            went[order.cell, order.withdrawal_id].append(one)
    for name, found in went.items():
        if len(found) > 1:
            keys = ", ".join(one.reference for one in found)
            raise Violation("paid-twice", f"withdrawal {name[1]} of cell {name[0]}: {keys}")
        if states[name].state in GIVEN_BACK:
            raise Violation(
                "paid-and-given-back",
                f"withdrawal {name[1]} of cell {name[0]} is {states[name].state}, and"
                f" {found[0].reference} is {found[0].state} out there",
            )


def agreed(seen: Sequence[Seen], orders: Sequence[Order], paid: Sequence[Paid]) -> None:
    """At the end: state by state the same on both sides. Raises Violation."""
    out_there = {one.reference: one for one in paid}
    keys: dict[tuple[int, int], list[Order]] = defaultdict(list)
    for order in orders:
        if order.withdrawal_id is not None:
            keys[order.cell, order.withdrawal_id].append(order)
    for one in seen:
        real = [
            out_there[order.key].state
            for order in keys[one.cell, one.id]
            if order.key in out_there and out_there[order.key].state in WENT_OUT
        ]
        expected = [one.state] if one.state in {"paid", "returned"} else []
        if real != expected:
            raise Violation(
                "books-differ",
                f"withdrawal {one.id} of cell {one.cell} is {one.state} here,"
                f" {real or 'never paid'} out there",
            )


def ended(eye: Eye, seen: Sequence[Seen]) -> None:
    """Everything has come to an end. Raises Violation."""
    left = [one for one in seen if one.state not in ENDS]
    if left:
        first = left[0]
        story = eye.rows(_STORY.format(s=f"cell_{first.cell}"), id=first.id)
        counts = dict(Counter(one.state for one in left))
        raise Violation("no-end", f"{counts}, for example in cell {first.cell}: {story[0][0]}")


def acknowledged(
    seen: Sequence[Seen],
    told: Mapping[str, tuple[int, int, int, int]],
    accepted: Callable[[int], int],
) -> None:
    """What clients were promised is there once, with its amount and fee. Raises Violation.

    `told` has cell, id, amount and fee by caller's key; `accepted` says how many a cell may have,
    apart from what was paid out without being asked for.
    """
    there = {(one.cell, one.id): one for one in seen}
    for key, (cell, number, *charged) in told.items():
        found = there.get((cell, number))
        if found is None:
            raise Violation("acknowledged-lost", f"{key}: withdrawal {number} of cell {cell}")
        if [found.amount, found.fee] != charged:
            raise Violation(
                "acknowledged-altered", f"{key}: {found.amount} and {found.fee}, told was {charged}"
            )
    per_cell = Counter(one.cell for one in seen if not one.automatic)
    for cell, count in per_cell.items():
        if count > accepted(cell):
            raise Violation(
                "asked-once-made-twice",
                f"cell {cell} has {count} withdrawals, clients asked for {accepted(cell)}",
            )


def cash(eye: Eye, outside: Outside, accounts: Mapping[str, int]) -> None:
    """At the end, when all statements are booked: our cash is what lies out there."""
    real = outside.balances()
    for name, number in accounts.items():
        one = (
            "SELECT coalesce(sum(CASE kind WHEN 'cash' THEN -balance ELSE 0 END), 0),"
            " coalesce(sum(CASE kind WHEN 'clearing' THEN balance ELSE 0 END), 0),"
            " coalesce(sum(CASE kind WHEN 'suspense' THEN balance ELSE 0 END), 0)"
            " FROM {s}.account WHERE owner_id = %(number)s"
        )
        rows = eye.rows(everywhere(one), number=number)
        ours, clearing, suspense = (int(sum(part)) for part in zip(*rows, strict=True))
        if (ours, clearing) != (real[name], 0):
            raise Violation(
                "cash-differs",
                f"{name}: {ours} here and {clearing} in clearing ({suspense} in suspense),"
                f" {real[name]} out there",
            )


def matched(eye: Eye) -> None:
    """At the end: no line about a payment of ours is in doubt. Raises Violation."""
    found = eye.rows(
        f"SELECT count(*), min(line_id) FROM cell_{CELLS[0]}.statement_line"  # noqa: S608 - a name of ours
        " WHERE state <> 'matched' AND kind IN ('set-apart', 'given-back')"
    )
    if found[0][0]:
        raise Violation("line-in-doubt", f"{found[0][0]} lines, for example {found[0][1]}")


def sealed(eye: Eye, packages: Sequence[str]) -> None:
    """At the end: what opens a payment in its payee's app is written nowhere in the clear.

    Whatever of it was sealed is forgotten with the end of its payment; every column of every table
    is looked at, whatever its type. Raises Violation.
    """
    if not packages:
        return
    begin = [package[:_TELLING] for package in packages]
    if not all(one.startswith(_BEGINS) for one in begin):
        raise AssertionError("the sandbox names them otherwise now")
    # As it stands there, and as PostgreSQL writes bytes.
    needles = [*begin, *(one.encode().hex() for one in begin)]
    tables = eye.rows(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition"
        " AND (n.nspname = 'control' OR n.nspname = ANY(%(cells)s)) ORDER BY 1",
        cells=[f"cell_{n}" for n in CELLS],
    )
    for (table,) in tables:
        found = eye.rows(
            f"SELECT t::text FROM {table} AS t WHERE t::text ~ %(starts)s",  # noqa: S608 - PostgreSQL wrote the name
            starts=f"{_BEGINS}|{_BEGINS.encode().hex()}",
        )
        if any(needle in row for (row,) in found for needle in needles):
            raise Violation("package-readable", f"{table} holds what opens a payment")
