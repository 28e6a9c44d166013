"""What each error of the provider means when money is asked for or given back.

    turned away   said at the door, or about our contract and our rate: nothing was made of it
    unknown       everything else: the number is looked up before anything is concluded

That a refund was refused is believed after a look-up only, whatever the code. The gateway writes
`ACQ.` before the codes of trades; here they stand without it. Sentences decide nothing.
"""

from __future__ import annotations

from typing import Final

from paymaster.kernel.errors import RailError
from paymaster.rails import meaning
from paymaster.rails.alipay.calls import Said
from paymaster.rails.alipay.codes import DOOR
from paymaster.rails.meaning import Kind
from paymaster.rails.yuan import extra_of, no_error

NOT_FOUND: Final = frozenset({"TRADE_NOT_EXIST"})
"""Nobody opened the page or scanned the code yet, or there is no such number."""

NOT_WAITING: Final = frozenset({
    "REASON_ILLEGAL_STATUS", "REASON_TRADE_STATUS_INVALID", "TRADE_HAS_CLOSE",
    "TRADE_HAS_FINISHED", "TRADE_HAS_SUCCESS", "TRADE_STATUS_ERROR",
})  # fmt: skip
"""It cannot be closed, because it is paid or closed: a look-up tells which."""

TURNED_AWAY: Final = DOOR | {
    "ACCESS_FORBIDDEN", "APP_CALL_LIMITED", "ISV_AUTH_ERROR", "RESOURCE_LIMIT_EXCEED",
}  # fmt: skip
"""Our keys, our contract, our rate: a person has to see to it, or it is to be tried later."""


def code_of(said: Said) -> str:
    """The error's code in one spelling for both interfaces; without one, the status."""
    if said.code is None:
        return str(said.status)
    head, dot, tail = said.code.partition(".")
    return tail if dot and head in {"ACQ", "AQC"} else said.code


def failure(said: Said) -> RailError:
    """What an answer other than success means for a charge or a refund."""
    code = code_of(said)
    extra = extra_of(code, said.retry_after)
    if (answer := no_error(said.status, extra)) is not None:
        return answer
    if code in DOOR or (said.genuine and code in TURNED_AWAY):
        return meaning.error(Kind.TURNED_AWAY, f"The provider turned us away: {code}.", extra)
    kind = Kind.SERVER_FAULT if said.status >= 500 else Kind.UNEXPLAINED
    return meaning.error(kind, f"The provider answered {code}.", extra)
