"""Transfers as the provider describes them, into our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from paymaster.kernel.money import Money
from paymaster.rails.base import Outcome, Verdict
from paymaster.rails.yuan import UnreadableError, from_beijing, some_text, text, yuan

_STATUS: Final[Mapping[str, Verdict]] = {
    "SUCCESS": Verdict.PAID,
    "FAIL": Verdict.REJECTED,
    "CLOSED": Verdict.REJECTED,
    "DEALING": Verdict.ACCEPTED,
    "WAIT_PAY": Verdict.ACCEPTED,
    "REFUND": Verdict.RETURNED,
}


def transfer(found: Mapping[str, object]) -> Outcome:
    """A transfer, from a query or a message. Raises UnreadableError.

    A status that is not in the provider's list proves nothing.
    """
    status = text(found, "status")
    verdict = _STATUS.get(status, Verdict.UNKNOWN)
    code = some_text(found, "error_code") or some_text(found, "sub_order_error_code")
    if verdict in {Verdict.REJECTED, Verdict.RETURNED}:
        code = code or status
    return Outcome(
        key=text(found, "out_biz_no"),
        verdict=verdict,
        provider_id=some_text(found, "order_id"),
        code=code,
        amount=_amount(some_text(found, "trans_amount")),
        occurred_at=from_beijing(some_text(found, "pay_date") or some_text(found, "trans_date")),
    )


def _amount(written: str | None) -> Money | None:
    if written is None:
        return None
    found = yuan(written)
    if found.minor < 0:
        raise UnreadableError("the amount is negative")
    return found
