"""The reference page of the machine, in Markdown: made from the table, and compared with it."""

from __future__ import annotations

from typing import Final

from paymaster.kernel.machine import Move
from paymaster.withdraw.machine import (
    DUE_AT_ONCE,
    FACTS,
    LEASED,
    REASONED,
    WITHDRAWAL,
    Event,
    State,
    Who,
    holds_money,
    needs_reason,
)

STATES: Final[dict[State, str]] = {
    State.REQUESTED: "The money is set aside; nobody has looked at it yet, or it starts anew after "
    "a hold.",
    State.SCREENING: "A screening worker has it, under a lease.",
    State.IN_REVIEW: "A person must decide.",
    State.CHALLENGED: "The user must prove something first.",
    State.APPROVED: "It may be paid.",
    State.QUEUED: "A rail account is chosen; it waits for its window or for room.",
    State.SENDING: "The order is committed and may be on the wire.",
    State.UNKNOWN: "It may or may not have been executed; only the provider can tell.",
    State.SENT: "The provider took it in.",
    State.AWAITING_PAYEE: "The provider waits for the payee to accept it.",
    State.PAID: "The payee has it. No rail's success is final: it can still come back.",
    State.FAILED: "Definitely not paid; the money is available again.",
    State.RETURNED: "Came back after it was paid; the money is available again.",
    State.DENIED: "Refused by a rule or a person; the money is available again.",
    State.CANCELLED: "Taken back; the money is available again.",
    State.HELD: "Frozen by a person; nothing moves until it is released or denied.",
}
"""What each state means."""

EVENTS: Final[dict[Event, str]] = {
    Event.SCREEN: "A worker takes it up, to hold it against the rules.",
    Event.APPROVE: "It may go to the rail.",
    Event.REVIEW: "A person shall look at it.",
    Event.CHALLENGE: "The user shall prove who they are.",
    Event.DENY: "It is refused.",
    Event.QUEUE: "It waits for a rail account; after an order, for a further one.",
    Event.SEND: "Its order is written down, to be sent.",
    Event.ACCEPT: "The provider has taken it in.",
    Event.AWAIT: "The payee has to accept it.",
    Event.SETTLE: "The provider has paid it.",
    Event.REJECT: "It is certain that it is not paid.",
    Event.LOSE: "Nobody knows whether it was executed.",
    Event.RETURN: "It came back.",
    Event.CANCEL: "The user takes it back, or its destination was closed.",
    Event.HOLD: "An operator freezes it.",
    Event.RELEASE: "An operator lifts that.",
}
"""What each event means."""

WHOM: Final[dict[Who, str]] = {
    Who.USER: "The earner with a token, or the app's server for the earner (scope `withdrawals`).",
    Who.OPERATOR: "A person of the staff, or a key, with the scope `operate`; always with a "
    "reason or a proof, audited, and above a limit with a second person.",
    Who.WORKER: "Paymaster itself: screening, dispatch, expiry, a destination that was closed.",
    Who.PROVIDER: "What the rail says: its answer, a query, a webhook, a report, a statement.",
}
"""Who each of those who make moves is."""

MONEY: Final = {
    "request": ("available", "held", "amount and fee; with the request itself, before any move"),
    "release": ("held", "available", "amount and fee"),
    "paid": ("held", "clearing of the rail account, fee revenue", "the amount; the fee"),
    "returned": ("clearing of the rail account", "available", "the amount"),
}
"""What each recipe moves."""

_INTRO = """# The machine of a withdrawal

<!-- Generated from src/paymaster/withdraw/machine.py; do not edit. -->

Everything that may ever happen to a withdrawal. What is not in the table below is refused: by the
code, by a foreign key of the database, and by the proof of the books. What it is for is told in
[The life of a withdrawal](../concepts/withdrawal.md).
"""

_UNDER_ORDER = """While a [regulatory hold](../operate/holds.md) is open, only what the provider
says still happens: {facts},
and a `queue` that follows from an order that the provider refused. Every other move is answered
with `held-by-order`.
"""


def reference() -> str:
    """The page."""
    lines = [_INTRO, "## States", ""]
    lines += ["| State | Means | Money | A worker looks |", "|---|---|---|---|"]
    for state, means in STATES.items():
        money = "set aside" if holds_money(state) else "moved on"
        due = "at once" if state in DUE_AT_ONCE else ""
        lines.append(f"| `{state}` | {means} | {money} | {due} |")
    ends = ", ".join(f"`{state}`" for state in sorted(WITHDRAWAL.terminal()))
    begins = WITHDRAWAL.initial
    lines += ["", f"It begins in `{begins}` and ends in {ends} or, for good, in `paid`."]
    lines += ["", "## Events", "", "| Event | Means | With a reason |", "|---|---|---|"]
    lines += [
        f"| `{event}` | {means} | {'always' if event in REASONED else ''} |"
        for event, means in EVENTS.items()
    ]
    lines += ["", "## Who", "", "| Who | That is |", "|---|---|"]
    lines += [f"| {who} | {means} |" for who, means in WHOM.items()]
    lines += ["", "## Money", "", "| Recipe | From | To | What |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {a} | {b} | {what} |" for name, (a, b, what) in MONEY.items()]
    lines += ["", "## Moves", ""]
    lines += ["| From | Event | To | Who | Money | Told | Needs |", "|---|---|---|---|---|---|---|"]
    for state in STATES:
        lines += [_row(move) for move in WITHDRAWAL.moves if move.source.value == state.value]
    facts = ", ".join(f"`{event}`" for event in Event if event in FACTS)
    lines += ["", "## Under an order of an authority", "", _UNDER_ORDER.format(facts=facts)]
    lines += ["## As a picture", "", "```mermaid", WITHDRAWAL.mermaid(), "```"]
    return "\n".join(lines).rstrip() + "\n"


def _row(move: Move) -> str:
    who = ", ".join(one.value for one in Who if one in move.by)
    money = f"`{move.recipe}`" if move.recipe else ""
    told = f"`withdrawal.{move.target}`"
    return (
        f"| `{move.source}` | `{move.event}` | `{move.target}` | {who} | {money} | {told}"
        f" | {_needs(move)} |"
    )


def _needs(move: Move) -> str:
    """What the move must come with."""
    found: list[str] = []
    if (move.source, move.event) in LEASED:
        found.append("the lease")
    if needs_reason(move.source, move.event):
        found.append("a reason" if move.event in REASONED else "proof that the order is dead")
    if move.event.value == Event.SETTLE.value and Who.OPERATOR in move.by:
        found.append("of an operator, a proof")
    if move.event.value == Event.REJECT.value and Who.OPERATOR in move.by:
        found.append("of an operator, a proof about the whole order")
    return "; ".join(found)
