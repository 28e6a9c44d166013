"""The error taxonomy: a class says what its reader must do.

    PaymasterError
      Refusal      the caller's business: correct the request (4xx)
        Unauthenticated / Forbidden / NotFound / Unprocessable
      Conflict     somebody was there first: read again, or use another key (409)
      Busy         nothing happened: come again after `retry_after_seconds` (503)
        RateLimited  too many requests of this caller (429)
      RailError    from a provider; never reaches a client
        NeverSent    proof that nothing left this machine
        RailRefused  the provider said no, definitely
        RailUnknown  no proof either way
          RailDoubted  it said no, which a query has to bear out
            RailPutOff  it said "not now"
      Broken       an invariant does not hold: stop this lane and call a person

Every error carries a `slug`: the stable, documented name (docs/reference/errors.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

LEASE_LOST: Final = "lease-lost"
"""The slug of a Conflict that is no fault: the work went to another process, which does it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in an input: where (a JSON pointer, or `line:N`) and what to do about it."""

    pointer: str
    detail: str


class PaymasterError(Exception):
    """Root of all errors that Paymaster raises on purpose."""

    status: int = 500
    title: str = "Internal error"
    retryable: bool = False

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        problems: Sequence[Problem] = (),
        extra: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.detail = detail
        self.problems = tuple(problems)
        self.extra = dict(extra or {})

    def __str__(self) -> str:
        return f"{self.slug}: {self.detail}"


class Refusal(PaymasterError):
    """The request cannot be done as it stands; nothing was changed."""

    status = 400
    title = "Refused"


class Unauthenticated(Refusal):
    """No valid credential came with the request."""

    status = 401
    title = "Not authenticated"


class Forbidden(Refusal):
    """The credential is valid but lacks the scope."""

    status = 403
    title = "Not allowed"


class NotFound(Refusal):
    """There is no such thing for this credential."""

    status = 404
    title = "Not found"


class Unprocessable(Refusal):
    """Well formed, but the business rules say no."""

    status = 422
    title = "Cannot be done"


class Conflict(PaymasterError):
    """Another state or request stands in the way; read again before you retry."""

    status = 409
    title = "Conflict"


class Busy(PaymasterError):
    """Nothing happened; the same request may be sent again after a while."""

    status = 503
    title = "Busy"
    retryable = True

    def __init__(self, slug: str, detail: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(slug, detail)
        self.retry_after_seconds = retry_after_seconds


class RateLimited(Busy):
    """This caller asked too often; nothing happened."""

    status = 429
    title = "Too many requests"


class RailError(PaymasterError):
    """Something about a provider. Caught by dispatch and settle, never shown to a client."""

    status = 502
    title = "Provider error"


class NeverSent(RailError):
    """Proof that no byte of the payment order left this machine: sending again is safe."""


class RailRefused(RailError):
    """The provider's definite no."""


class RailUnknown(RailError):
    """The order may or may not have been executed: only a query or a report can tell."""


class RailDoubted(RailUnknown):
    """The provider said no, which by itself proves nothing: a query has to say so as well."""


class RailPutOff(RailDoubted):
    """It said "not now": the same order goes again, once a query says that it is not there."""


class Broken(PaymasterError):
    """An invariant does not hold. The lane stops and a person is called."""

    status = 500
    title = "Invariant broken"
