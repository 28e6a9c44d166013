"""What each error of the provider proves about an order that has just been sent.

    refused    listed, and about this order alone: dead once a query does not find it
    later      funds, rates, or our set-up: once a query does not find it the same number goes again
    full       the payee's day is full: the same, and nothing is wrong with the rail
    unknown    everything else, and everything that is not in a list

A query and a signed notice of the end are the only proof that something was paid. Sentences in an
answer (`message`, `err_code_des`) decide nothing: they change.
"""

from __future__ import annotations

from typing import Final

from paymaster.kernel.errors import RailError
from paymaster.rails import meaning
from paymaster.rails.meaning import Kind
from paymaster.rails.wechat.calls import Said
from paymaster.rails.yuan import extra_of, no_error

REFUSED: Final = frozenset({"PARAM_ERROR"})
"""Read, and refused before anything was made of it."""

LATER: Final = frozenset({
    "NOT_ENOUGH", "FREQUENCY_LIMITED", "RATELIMIT_EXCEEDED", "FREQUENCY_LIMIT_EXCEED",
    "NO_AUTH", "SIGN_ERROR", "MCH_NOT_EXISTS", "APPID_MCHID_NOT_MATCH",
})  # fmt: skip
"""Our balance, our rate, our keys and permissions: the rail stops until they are in order."""

_DOOR: Final = frozenset({"SIGN_ERROR"})
"""Said before the provider knows who asks, so possibly without a signature."""

REFUSED_V2: Final = frozenset({
    "AMOUNT_LIMIT", "NAME_MISMATCH", "OPENID_ERROR", "PARAM_ERROR", "PARAM_IS_NOT_UTF8",
    "RECV_ACCOUNT_NOT_ALLOWED", "V2_ACCOUNT_SIMPLE_BAN", "XML_ERROR",
})  # fmt: skip
LATER_V2: Final = frozenset({
    "CA_ERROR", "FREQ_LIMIT", "MONEY_LIMIT", "NOTENOUGH", "NO_AUTH", "PAY_CHANNEL_NOT_ALLOWED",
    "SEND_MONEY_LIMIT", "SIGN_ERROR",
})  # fmt: skip
FULL_V2: Final = frozenset({"RECEIVED_MONEY_LIMIT", "SENDNUM_LIMIT"})
"""The payee's day is full: nothing is wrong with the rail, and the number stays good."""

NOT_FOUND: Final = frozenset({"NOT_FOUND", "RESOURCE_NOT_EXISTS"})


def failure(said: Said) -> RailError:
    """What an answer other than success means for an order."""
    code = said.code
    extra = extra_of(code or str(said.status), said.retry_after)
    believed = said.genuine or (code in _DOOR and said.status == 401)
    if (answer := no_error(said.status, extra)) is not None:
        return answer
    if not believed or said.status >= 500 or code is None:
        kind = meaning.of_status(said.status, explained=False)
        if kind is Kind.TURNED_AWAY:
            kind = Kind.UNEXPLAINED
        return meaning.error(kind, f"The provider answered {said.status}.", extra)
    if code in LATER:
        return meaning.error(Kind.NOT_NOW, f"The provider turned us away: {code}.", extra)
    if code in REFUSED:
        return meaning.error(Kind.SAYS_NO, f"The provider refused: {code}.", extra)
    return meaning.error(Kind.UNEXPLAINED, f"The provider answered {code}.", extra)


def failure_v2(code: str | None) -> RailError:
    """What `result_code` FAIL means for an order of APIv2."""
    extra = {"code": code or "FAIL"}
    if code in LATER_V2 | FULL_V2:
        return meaning.error(Kind.NOT_NOW, f"The provider turned us away: {code}.", extra)
    if code in REFUSED_V2:
        return meaning.error(Kind.SAYS_NO, f"The provider refused: {code}.", extra)
    return meaning.error(Kind.UNEXPLAINED, f"The provider answered {code or 'FAIL'}.", extra)
