"""The reference page of charges and refunds, in Markdown: made from the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from paymaster.kernel.machine import Machine
from paymaster.payin.machine import (
    CHARGE,
    REFUND,
    ChargeEvent,
    ChargeState,
    RefundEvent,
    RefundState,
)

STATES: Final[Mapping[str, str]] = {
    ChargeState.REQUESTED: "Nobody but us knows it.",
    ChargeState.OPENING: "The provider is being told of it, under a lease.",
    ChargeState.UNKNOWN: "The provider may or may not know it: it is asked, then told again under "
    "the same number.",
    ChargeState.OPEN: "The payer can pay.",
    ChargeState.PAID: "The provider says that it was paid; credited in the same transaction.",
    ChargeState.CLOSED: "Nobody can pay it any more, as the provider says. Who has paid after all "
    "is credited.",
    ChargeState.DISPUTED: "Told of as paid otherwise than asked for, or the books refuse the "
    "credit: nobody is credited, and a person has to look.",
}
"""What each state of a charge means."""

EVENTS: Final[Mapping[str, str]] = {
    ChargeEvent.SEND: "The provider is being told of it.",
    ChargeEvent.QUEUE: "It is certain that nothing has left.",
    ChargeEvent.LOSE: "No answer that proves anything.",
    ChargeEvent.OPEN: "The provider gave what the payer needs.",
    ChargeEvent.PAY: "A look-up, a notice or a statement says that it was paid, in full.",
    ChargeEvent.CLOSE: "The provider says that it is closed, or it never knew of it.",
    ChargeEvent.DISPUTE: "What was told does not fit what was asked for.",
}
"""What each event of a charge means."""

REFUND_STATES: Final[Mapping[str, str]] = {
    RefundState.REQUESTED: "The money is set aside; nothing has left.",
    RefundState.SENDING: "It is being ordered, under a lease.",
    RefundState.UNKNOWN: "It may or may not have been ordered: the provider is asked first.",
    RefundState.PROCESSING: "The provider has taken it in.",
    RefundState.STUCK: "It does not reach the payer's account: a person sees to it there.",
    RefundState.DONE: "The provider has given it back.",
    RefundState.FAILED: "It was not given back; the money is where it was.",
}
"""What each state of a refund means."""

REFUND_EVENTS: Final[Mapping[str, str]] = {
    RefundEvent.SEND: "It is being ordered.",
    RefundEvent.QUEUE: "It is certain that nothing has left.",
    RefundEvent.LOSE: "No answer that proves anything.",
    RefundEvent.ACCEPT: "The provider works on it.",
    RefundEvent.STICK: "The provider cannot reach the payer's account.",
    RefundEvent.FINISH: "A look-up, a notice, a statement or a person says: it was given back.",
    RefundEvent.FAIL: "A look-up, a notice or a person says that it will not be given back.",
    RefundEvent.DROP: "Nothing has left, and a person wants it no more.",
}
"""What each event of a refund means."""

_INTRO = """# The machines of charges and refunds

<!-- Generated from src/paymaster/payin/machine.py; do not edit. -->

Everything that may ever happen to money that comes in. What is not in the tables is refused. What
it is for is told in [Taking money in](../concepts/payin.md).
"""


def reference() -> str:
    """The page."""
    lines = [_INTRO, "## A charge", ""]
    lines += _tables(CHARGE, STATES, EVENTS)
    lines += ["## A refund", ""]
    lines += _tables(REFUND, REFUND_STATES, REFUND_EVENTS)
    return "\n".join(lines).rstrip() + "\n"


def _tables(machine: Machine, states: Mapping[str, str], events: Mapping[str, str]) -> list[str]:
    lines = ["| State | Means |", "|---|---|"]
    lines += [f"| `{state}` | {means} |" for state, means in states.items()]
    lines += ["", "| Event | Means |", "|---|---|"]
    lines += [f"| `{event}` | {means} |" for event, means in events.items()]
    lines += ["", "| From | Event | To | Money |", "|---|---|---|---|"]
    for state in states:
        for move in machine.moves:
            if move.source.value == state:
                money = f"`{move.recipe}`" if move.recipe else ""
                lines.append(f"| `{move.source}` | `{move.event}` | `{move.target}` | {money} |")
    return [*lines, "", "```mermaid", machine.mermaid(), "```", ""]
