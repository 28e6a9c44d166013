"""The provider's payout object and error body, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast

from paymaster.kernel.clock import parse_rfc3339
from paymaster.kernel.errors import PaymasterError
from paymaster.kernel.money import Money
from paymaster.rails.base import Outcome, Verdict
from paymaster.rails.http import Answer

_STATUS: dict[str, Verdict] = {
    "pending": Verdict.ACCEPTED,
    "paid": Verdict.PAID,
    "failed": Verdict.REJECTED,
    "returned": Verdict.RETURNED,
}
_WEIGHT = (
    Verdict.REJECTED,
    Verdict.NOT_FOUND,
    Verdict.UNKNOWN,
    Verdict.RETURNED,
    Verdict.ACCEPTED,
    Verdict.PAID,
)


class UnreadableError(Exception):
    """The provider's words do not have the shape they should."""


def canonical(payout: Mapping[str, str]) -> bytes:
    """The one way to write a request body: sorted names, no blanks, ASCII."""
    return json.dumps(payout, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def text(found: Mapping[str, object], name: str) -> str:
    """A member that must be a non-empty string. Raises UnreadableError."""
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise UnreadableError(f"{name} is missing or not a text")
    return value


def outcome(payout: object) -> Outcome:
    """What one payout object says. Raises UnreadableError.

    A status that is not in the provider's list proves nothing, so it is UNKNOWN.
    """
    if not isinstance(payout, dict):
        raise UnreadableError("a payout is not an object")
    found = cast("Mapping[str, object]", payout)
    failure = found.get("failure_code")
    if failure is not None and not isinstance(failure, str):
        raise UnreadableError("failure_code is not a text")
    try:
        amount = Money.parse(text(found, "amount"), text(found, "currency"))
    except PaymasterError as error:
        raise UnreadableError(f"the amount cannot be read: {error.slug}") from None
    return Outcome(
        key=text(found, "reference"),
        verdict=_STATUS.get(text(found, "status"), Verdict.UNKNOWN),
        provider_id=text(found, "id"),
        code=failure,
        amount=amount,
        occurred_at=_moment(found.get("created_at")),
    )


def outcomes(answer: Answer, key: str) -> list[Outcome]:
    """The payouts of a look-up by our reference, none of another. Raises UnreadableError."""
    try:
        found = answer.json_object().get("data")
    except ValueError:
        raise UnreadableError("the answer is not JSON") from None
    if not isinstance(found, list):
        raise UnreadableError("data is not a list")
    read = [outcome(each) for each in cast("Sequence[object]", found)]
    if any(each.key != key for each in read):
        raise UnreadableError("the answer is about another reference")
    return read


def strongest(found: Sequence[Outcome]) -> Outcome:
    """Of several payouts under one reference, the one that says most: paid beats failed."""
    return max(found, key=lambda each: _WEIGHT.index(each.verdict))


def error_code(answer: Answer) -> str | None:
    """The provider's own error code; None when the body is not one of its errors.

    A proxy's or web server's 404 has no such body and proves nothing about a payment.
    """
    try:
        found = answer.json_object()
        return text(found, "code") if isinstance(found.get("message"), str) else None
    except (ValueError, UnreadableError):
        return None


def _moment(written: object) -> datetime | None:
    if not isinstance(written, str):
        return None
    try:
        return parse_rfc3339(written)
    except ValueError:
        return None
