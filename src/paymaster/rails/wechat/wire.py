"""Bills, batches and old payments as the provider describes them, into our words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, cast

from paymaster.kernel.money import Money
from paymaster.rails.base import Confirmation, Outcome, RailAccount, Verdict
from paymaster.rails.yuan import (
    CNY,
    UnreadableError,
    fen,
    from_beijing,
    members,
    some_text,
    text,
)

ACCEPTANCE: Final = timedelta(hours=24)
"""How long a payee has to accept a transfer, from when it was made."""

_BILL: Final[Mapping[str, Verdict]] = {
    "PROCESSING": Verdict.ACCEPTED,
    "WAIT_USER_CONFIRM": Verdict.AWAITING,
    "TRANSFERING": Verdict.ACCEPTED,
    "CANCELING": Verdict.ACCEPTED,
    "SUCCESS": Verdict.PAID,
    "FAIL": Verdict.REJECTED,
    "CANCELLED": Verdict.REJECTED,
}
_DETAIL: Final[Mapping[str, Verdict]] = {
    "INIT": Verdict.ACCEPTED,
    "WAIT_PAY": Verdict.ACCEPTED,
    "PROCESSING": Verdict.ACCEPTED,
    "SUCCESS": Verdict.PAID,
    "FAIL": Verdict.REJECTED,
}
_V2: Final[Mapping[str, Verdict]] = {
    "SUCCESS": Verdict.PAID,
    "FAILED": Verdict.REJECTED,
    "PROCESSING": Verdict.ACCEPTED,
}
_CANCELLED: Final = "MCH_CANCEL"


def canonical(found: Mapping[str, object]) -> bytes:
    """The one way to write a body: sorted names, no blanks, UTF-8."""
    return json.dumps(
        found, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def bill(
    found: Mapping[str, object], account: RailAccount, *, confirms: bool, now: datetime
) -> Outcome:
    """A transfer bill, from whichever answer. Raises UnreadableError.

    A state that is not in the provider's list proves nothing. `confirms`: the product in which the
    payee accepts each transfer. There ACCEPTED is a bill that asks to be sent again before the
    payee can see it: it awaits the payee, without anything to show yet.
    """
    state, key = text(found, "state"), text(found, "out_bill_no")
    ours = account.settings.get("mchid")
    if some_text(found, "mch_id") not in {None, ours} or some_text(found, "mchid") not in {
        None,
        ours,
    }:
        raise UnreadableError("it is about another merchant")
    verdict = _BILL.get(state, Verdict.UNKNOWN)
    if state == "ACCEPTED":
        verdict = Verdict.AWAITING if confirms else Verdict.ACCEPTED
    code = some_text(found, "fail_reason")
    if verdict is Verdict.REJECTED:
        code = code or (_CANCELLED if state == "CANCELLED" else state)
    made = from_beijing(some_text(found, "create_time"))
    return Outcome(
        key=key,
        verdict=verdict,
        provider_id=some_text(found, "transfer_bill_no"),
        code=code,
        amount=fen(found, "transfer_amount") if "transfer_amount" in found else None,
        occurred_at=from_beijing(some_text(found, "update_time")) or made,
        confirmation=_confirmation(found, account, made or now) if state in _OPEN else None,
    )


_OPEN: Final = frozenset({"WAIT_USER_CONFIRM"})


def _confirmation(
    found: Mapping[str, object], account: RailAccount, made: datetime
) -> Confirmation | None:
    package = some_text(found, "package_info")
    if package is None:
        return None
    public = {
        "mchId": account.settings.get("mchid", ""),
        "appId": account.settings.get("appid", ""),
    }
    return Confirmation(package, made + ACCEPTANCE, public)


def batch(found: Mapping[str, object], key: str) -> Outcome | None:
    """A batch; None when it is finished, and its one detail says how. Raises UnreadableError."""
    whole = members(found.get("transfer_batch", found), "transfer_batch")
    if text(whole, "out_batch_no") != key:
        raise UnreadableError("it is about another batch")
    state = text(whole, "batch_status")
    number = some_text(whole, "batch_id")
    if state == "FINISHED":
        return None
    if state == "CLOSED":
        code = some_text(whole, "close_reason") or state
        return Outcome(key, Verdict.REJECTED, provider_id=number, code=code)
    known = state in {"ACCEPTED", "PROCESSING", "WAIT_PAY"}
    return Outcome(key, Verdict.ACCEPTED if known else Verdict.UNKNOWN, provider_id=number)


def detail(found: Mapping[str, object], key: str) -> Outcome:
    """The one transfer of a batch. Raises UnreadableError."""
    if text(found, "out_detail_no") != key:
        raise UnreadableError("it is about another transfer")
    verdict = _DETAIL.get(text(found, "detail_status"), Verdict.UNKNOWN)
    code = some_text(found, "fail_reason")
    return Outcome(
        key=key,
        verdict=verdict,
        provider_id=some_text(found, "detail_id"),
        code=(code or "FAIL") if verdict is Verdict.REJECTED else code,
        amount=fen(found, "transfer_amount") if "transfer_amount" in found else None,
        occurred_at=from_beijing(some_text(found, "update_time")),
    )


def old(found: Mapping[str, str], key: str) -> Outcome:
    """A payment of APIv2. Raises UnreadableError."""
    if found.get("partner_trade_no", key) != key:
        raise UnreadableError("it is about another payment")
    status = found.get("status", "")
    verdict = _V2.get(status, Verdict.UNKNOWN)
    amount = found.get("payment_amount")
    if amount is not None and not (amount.isascii() and amount.isdigit() and len(amount) < 16):
        raise UnreadableError("payment_amount is not a number of fen")
    code = found.get("reason") or status
    return Outcome(
        key=key,
        verdict=verdict,
        provider_id=found.get("detail_id") or None,
        code=code if verdict is Verdict.REJECTED else None,
        amount=Money(int(amount), CNY) if amount else None,
        occurred_at=from_beijing(found.get("payment_time") or found.get("transfer_time")),
    )


def listed(found: Mapping[str, object], name: str) -> Sequence[Mapping[str, object]]:
    """A list of objects. Raises UnreadableError."""
    value = found.get(name)
    if not isinstance(value, list):
        raise UnreadableError(f"{name} is not a list")
    return [members(each, name) for each in cast("Sequence[object]", value)]
