"""The lives of a charge and of a refund, as tables.

A charge is one payment that a payer is asked for. Nothing but the provider's word that it was paid
credits anybody, and that word is taken whenever it comes: after the charge was closed too, because
the money is there then. What was paid otherwise than asked for, or cannot be credited, is
`disputed`: it is asked about from time to time, and waits for a person.

A refund sets money aside before the provider is asked to give it back. Only its definite word frees
it again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from paymaster.kernel.machine import Machine, Move


class ChargeState(StrEnum):
    """What is known about a charge."""

    REQUESTED = "requested"
    OPENING = "opening"
    UNKNOWN = "unknown"
    OPEN = "open"
    PAID = "paid"
    CLOSED = "closed"
    DISPUTED = "disputed"


class ChargeEvent(StrEnum):
    """What can happen to it."""

    SEND = "send"
    """The provider is being told of it."""
    QUEUE = "queue"
    """Nothing left this machine."""
    LOSE = "lose"
    """The provider may or may not know it."""
    OPEN = "open"
    """The provider gave what the payer needs."""
    PAY = "pay"
    CLOSE = "close"
    DISPUTE = "dispute"
    """It was paid otherwise than asked for, or the books refuse it."""


_UNPAID: Final = tuple(state for state in ChargeState if state is not ChargeState.PAID)

CHARGE: Final = Machine(
    "charge",
    ChargeState.REQUESTED,
    (
        Move(ChargeState.REQUESTED, ChargeEvent.SEND, ChargeState.OPENING),
        Move(ChargeState.UNKNOWN, ChargeEvent.SEND, ChargeState.OPENING),
        Move(ChargeState.OPENING, ChargeEvent.QUEUE, ChargeState.REQUESTED),
        Move(ChargeState.OPENING, ChargeEvent.LOSE, ChargeState.UNKNOWN),
        Move(ChargeState.OPENING, ChargeEvent.OPEN, ChargeState.OPEN),
        Move(ChargeState.REQUESTED, ChargeEvent.CLOSE, ChargeState.CLOSED),
        Move(ChargeState.OPENING, ChargeEvent.CLOSE, ChargeState.CLOSED),
        Move(ChargeState.UNKNOWN, ChargeEvent.CLOSE, ChargeState.CLOSED),
        Move(ChargeState.OPEN, ChargeEvent.CLOSE, ChargeState.CLOSED),
        *(Move(state, ChargeEvent.PAY, ChargeState.PAID, "paid_in") for state in _UNPAID),
        *(
            Move(state, ChargeEvent.DISPUTE, ChargeState.DISPUTED)
            for state in _UNPAID
            if state is not ChargeState.DISPUTED
        ),
    ),
)
"""The table of charges."""


class RefundState(StrEnum):
    """What is known about a refund."""

    REQUESTED = "requested"
    SENDING = "sending"
    UNKNOWN = "unknown"
    PROCESSING = "processing"
    STUCK = "stuck"
    DONE = "done"
    FAILED = "failed"


class RefundEvent(StrEnum):
    """What can happen to it."""

    SEND = "send"
    QUEUE = "queue"
    LOSE = "lose"
    ACCEPT = "accept"
    STICK = "stick"
    """The provider cannot reach the payer's account: somebody has to see to it there."""
    FINISH = "finish"
    FAIL = "fail"
    DROP = "drop"
    """A person wants it no more, and nothing has left this machine."""


_UNDER_WAY: Final = (
    RefundState.REQUESTED,
    RefundState.SENDING,
    RefundState.UNKNOWN,
    RefundState.PROCESSING,
    RefundState.STUCK,
)
_ASKED: Final = _UNDER_WAY[1:]


def _refunds() -> tuple[Move, ...]:
    accepting = (RefundState.SENDING, RefundState.UNKNOWN, RefundState.STUCK)
    sticking = (RefundState.SENDING, RefundState.UNKNOWN, RefundState.PROCESSING)
    return (
        Move(RefundState.REQUESTED, RefundEvent.SEND, RefundState.SENDING),
        Move(RefundState.UNKNOWN, RefundEvent.SEND, RefundState.SENDING),
        Move(RefundState.REQUESTED, RefundEvent.DROP, RefundState.FAILED, "payin_refund_failed"),
        Move(RefundState.SENDING, RefundEvent.QUEUE, RefundState.REQUESTED),
        Move(RefundState.SENDING, RefundEvent.LOSE, RefundState.UNKNOWN),
        *(Move(s, RefundEvent.ACCEPT, RefundState.PROCESSING) for s in accepting),
        *(Move(s, RefundEvent.STICK, RefundState.STUCK) for s in sticking),
        *(Move(s, RefundEvent.FINISH, RefundState.DONE, "payin_refund_done") for s in _UNDER_WAY),
        *(Move(s, RefundEvent.FAIL, RefundState.FAILED, "payin_refund_failed") for s in _ASKED),
    )


REFUND: Final = Machine("charge_refund", RefundState.REQUESTED, _refunds())
"""The table of refunds. The money is set aside (`payin_refund_request`) when it is asked for."""

MACHINES: Final = (CHARGE, REFUND)
"""For the table of legal moves."""
