"""Messages about trades: a signed form, sent again for a day until it hears `success`.

A message tells a trade's state, and of a refund also its number. What a refund's message adds up is
all that was given back of the trade, so it proves the refund and not its amount.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from paymaster.kernel.errors import Refusal, Unauthenticated
from paymaster.rails.alipay import payin_wire
from paymaster.rails.alipay.calls import MAX_AGE
from paymaster.rails.alipay.notices import TRIED_FOR, signed_form
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps
from paymaster.rails.payin import PayInNotice, RefundOutcome, RefundVerdict
from paymaster.rails.yuan import UnreadableError, from_beijing

_TYPE: Final = "trade_status_sync"


def read(deps: RailDeps, account: RailAccount, body: bytes, now: datetime) -> Sequence[PayInNotice]:
    """See TakesPayments."""
    params = signed_form(deps, account, body)
    sent_at = from_beijing(params.get("notify_time"))
    if sent_at is None or not -MAX_AGE < now - sent_at < TRIED_FOR:
        raise Unauthenticated("webhook-stale", "The message was not made within the last day.")
    try:
        return _notices(account, params)
    except UnreadableError as error:
        raise Refusal("webhook-malformed", f"The message cannot be read: {error}.") from None


def _notices(account: RailAccount, params: Mapping[str, str]) -> list[PayInNotice]:
    for name in ("app_id", "seller_id"):
        ours = account.settings.get(name, "").strip()
        if not ours or params.get(name) != ours:
            raise UnreadableError(f"it is about another {name}")
    if params.get("notify_type") != _TYPE:
        return []
    number = params.get("notify_id", "")
    if not number:
        raise UnreadableError("it has no number")
    charge = payin_wire.charge(params)
    told = [PayInNotice(number, charge)]
    at = params.get("gmt_refund", "")
    if at:
        refund = RefundOutcome(
            params.get("out_biz_no") or charge.key,
            RefundVerdict.DONE,
            provider_id=charge.provider_id,
            occurred_at=from_beijing(at),
        )
        told.append(PayInNotice(f"{number}-refund", refund))
    return told
