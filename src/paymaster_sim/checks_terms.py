"""What is true at the end of what was charged, of what nobody asked for, and of what was held."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from itertools import pairwise

from paymaster.withdraw.machine import WITHDRAWAL, Who
from paymaster_sim import terms
from paymaster_sim.cast import Cast
from paymaster_sim.checks import Violation, everywhere
from paymaster_sim.eye import Eye

_OURS = [m for m in WITHDRAWAL.moves if Who.PROVIDER not in m.by]
"""What people and workers do. What a provider says has happened, whatever is held."""

_WEEK = timedelta(days=6)
"""At least so much lies between two payouts of a weekly schedule: it can be late, clocks fast."""

_REVENUE = "SELECT sum(balance)::bigint FROM {s}.account WHERE kind = 'fee_revenue'"
_AUTOMATIC = """
    SELECT {n}, w.user_id, p.mode, w.amount + w.fee, p.minimum, w.requested_at
    FROM {s}.automatic_run r JOIN {s}.withdrawal w ON w.id = r.withdrawal_id
        JOIN {s}.automatic_payout p ON p.user_id = w.user_id AND p.asset = w.asset
"""
_HELD = """
    SELECT {n}, m.withdrawal_id, m.source || ' ' || m.event || ' ' || m.target, h.reference
    FROM {s}.legal_hold h
        JOIN {s}.audit p ON p.action = 'hold.placed' AND p.detail->>'reference' = h.reference
        JOIN {s}.commit since ON since.id = p.commit_id
        LEFT JOIN {s}.audit l ON l.action = 'hold.lifted' AND l.detail->>'reference' = h.reference
        LEFT JOIN {s}.commit until ON until.id = l.commit_id
        JOIN {s}.withdrawal w ON h.subject_id IN (w.id, w.user_id, w.destination_id)
        JOIN {s}.withdrawal_move m ON m.withdrawal_id = w.id AND (m.source, m.event) IN (
            SELECT * FROM unnest(%(sources)s::text[], %(events)s::text[]))
        JOIN {s}.commit c ON c.id = m.commit_id
    WHERE c.last_seq > since.last_seq AND (until.id IS NULL OR c.last_seq < until.last_seq)
"""


def charged(eye: Eye, cast: Cast) -> None:
    """Each withdrawal has the fee of a plan; what the house has is what was paid. Raises Violation.

    A fee is the house's with the payment, and goes back with one that comes back where the plan
    says so.
    """
    ways = {
        (person.ref.cell, number): way
        for person in cast.people
        for way, number in enumerate(person.destinations.values())
    }
    due = 0
    for one in eye.withdrawals():
        way = ways[one.cell, one.destination_id]
        if not terms.priced(way, one.amount, one.fee):
            raise Violation(
                "priced-otherwise",
                f"withdrawal {one.id} of cell {one.cell}: {one.amount} and a fee of {one.fee}",
            )
        if one.state == "paid" or (one.state == "returned" and not terms.gives_back(way)):
            due += one.fee
    revenue = sum(row[0] or 0 for row in eye.rows(everywhere(_REVENUE)))
    if revenue != due:
        raise Violation("fees-differ", f"the house has {revenue}, and {due} was charged")


def automatic(eye: Eye) -> None:
    """Nobody was paid twice in a period, or less than was wanted. Raises Violation."""
    moments: dict[tuple[int, int, str], list[datetime]] = defaultdict(list)
    for cell, user, mode, taken, minimum, at in eye.rows(everywhere(_AUTOMATIC)):
        if taken < minimum:
            raise Violation("automatic-small", f"user {user} of cell {cell}: {taken} of {minimum}")
        moments[cell, user, mode].append(at)
    for (cell, user, mode), found in moments.items():
        found.sort()
        for before, after in pairwise(found):
            same_day = before.date() == after.date()
            if same_day or (mode == "schedule" and after - before < _WEEK):
                raise Violation(
                    "automatic-twice", f"user {user} of cell {cell}: at {before} and at {after}"
                )


def held(eye: Eye) -> None:
    """Nothing under an authority's hold was moved while it stood. Raises Violation."""
    sources, events = [m.source.value for m in _OURS], [m.event.value for m in _OURS]
    found = eye.rows(everywhere(_HELD), sources=sources, events=events)
    for cell, number, move, reference in found:
        raise Violation(
            "moved-though-held", f"withdrawal {number} of cell {cell}, under {reference}: {move}"
        )
