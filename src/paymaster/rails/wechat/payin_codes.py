"""What the provider's answers to a charge or a refund prove: by themselves, nothing.

An order that was refused may be known under its number all the same, from a try before; of a refund
the provider says itself that 429 leaves open whether it is made. So whatever is not a success is
unknown, and the number is asked about. Only an answer to that question says that a number is not
there, and only in words of this list.
"""

from __future__ import annotations

from typing import Final

from paymaster.kernel.errors import RailError
from paymaster.rails import meaning
from paymaster.rails.meaning import Kind
from paymaster.rails.wechat.calls import Said
from paymaster.rails.yuan import extra_of, no_error

NO_CHARGE: Final = frozenset({"ORDER_NOT_EXIST", "ORDERNOTEXIST", "RESOURCE_NOT_EXISTS"})
NO_REFUND: Final = frozenset({"REFUNDNOTEXIST", "RESOURCE_NOT_EXISTS"})

_LONGEST: Final = 64


def absent(said: Said, codes: frozenset[str]) -> bool:
    """Whether the provider itself says that there is no such number."""
    return said.genuine and said.status == 404 and said.code in codes


def failure(said: Said) -> RailError:
    """What an answer of APIv3 other than success means."""
    code = said.code
    extra = extra_of((code or str(said.status))[:_LONGEST], said.retry_after)
    if (answer := no_error(said.status, extra)) is not None:
        return answer
    if said.status < 400:
        return meaning.error(Kind.REDIRECTED, f"The provider answered {said.status}.", extra)
    kind = Kind.SERVER_FAULT if said.status >= 500 else Kind.UNEXPLAINED
    return meaning.error(kind, f"The provider answered {extra['code']}.", extra)


def failure_old(code: str | None) -> RailError:
    """What `result_code` FAIL means in APIv2."""
    extra = {"code": (code or "FAIL")[:_LONGEST]}
    return meaning.error(Kind.UNEXPLAINED, f"The provider answered {extra['code']}.", extra)
