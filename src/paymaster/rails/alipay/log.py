"""The account log of a day, as a statement: from its pages in JSON, or from the day's CSV file.

It is no proof that a payee was paid: a transfer to a bank card leaves the account at once and comes
back if the bank does not take it.

The balances beside the lines are not continuous: lines that were booked at the same moment show
them in another order, so they are put into the one that the balances have. The last balance is what
the day closed with; it opened with that less its lines, and whether the day before closed there is
for reconciliation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, cast

from paymaster.kernel.errors import Refusal
from paymaster.kernel.ids import parse_reference
from paymaster.kernel.money import Money
from paymaster.rails.balances import closing_of, in_order
from paymaster.rails.base import LineKind, RailAccount, Statement, StatementLine
from paymaster.rails.transport import MAX_FILE_BYTES, malformed
from paymaster.rails.yuan import (
    BEIJING,
    CNY,
    UnreadableError,
    from_beijing,
    members,
    owns_topups,
    some_text,
    text,
    yuan,
)

_NAME: Final = re.compile(
    r"alipay-(log|csv)-([0-9]{16,32})-(\d{4}-\d{2}-\d{2})-([0-9a-f]{16})\.(json|csv)\Z", re.ASCII
)
_TOPUPS: Final = frozenset({"充值", "提现"})
KINDS: Final[Mapping[str, LineKind]] = {
    "充值": LineKind.TOPUP,
    "在线支付": LineKind.INCOMING,
    "交易付款": LineKind.INCOMING,
    "交易分账": LineKind.INCOMING,
    "收费": LineKind.FEE,
    "收费退回": LineKind.FEE,
    "服务费": LineKind.FEE,
    "退费": LineKind.FEE,
}
"""What the provider's types mean. Those that are not here, and are about no payment of ours, are
OTHER: a person is asked. The provider's own list is not public."""
GIVEN_BACK: Final = "交易退款"
"""Money that goes back to somebody who paid us; its memo is the number of our refund."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log, wherever it was read. `amount` and `balance` are in fen."""

    number: str
    at: str
    amount: int
    balance: int
    reference: str
    kind: str
    remark: str


def file_name(source: str, app_id: str, day: date, digest: str) -> str:
    """Ours, for a day: other content of the same day is another file."""
    ending = "json" if source == "log" else "csv"
    return f"alipay-{source}-{app_id}-{day.isoformat()}-{digest[:16]}.{ending}"


def day_of(name: str, app_id: str) -> date | None:
    """The day of one of our files about this app."""
    match = _NAME.match(name)
    if match is None or match.group(2) != app_id:
        return None
    try:
        return date.fromisoformat(match.group(3))
    except ValueError:
        return None


def source_of(name: str) -> str:
    """`log` or `csv`. Raises Refusal `statement-malformed`."""
    match = _NAME.match(name)
    if match is None:
        raise malformed(f"{name[:80]} is not the name of an account log.")
    return match.group(1)


def entries(body: bytes, app_id: str, day: date) -> list[Entry]:
    """The lines of a file that `write` made. Raises Refusal."""
    if len(body) > MAX_FILE_BYTES:
        raise malformed(f"The log is larger than {MAX_FILE_BYTES} bytes.")
    try:
        found = members(json.loads(body), "the log")
        if (found.get("app_id"), found.get("day")) != (app_id, day.isoformat()):
            raise Refusal("statement-foreign", "The log is about another app or day.")
        lines = found.get("lines")
        if not isinstance(lines, list):
            raise UnreadableError("it has no lines")
        return [_entry(members(each, "a line")) for each in cast("Sequence[object]", lines)]
    except (UnreadableError, ValueError, RecursionError) as error:
        raise malformed(f"The log cannot be read: {error}.") from None


def write(app_id: str, day: date, lines: Sequence[Mapping[str, object]]) -> bytes:
    """The pages of a day in one file, as the provider wrote its lines."""
    whole = {"app_id": app_id, "day": day.isoformat(), "lines": [dict(line) for line in lines]}
    return json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _entry(found: Mapping[str, object]) -> Entry:
    amount = abs(yuan(text(found, "trans_amount")).minor)
    direction = text(found, "direction")
    if direction not in {"收入", "支出"}:
        raise UnreadableError("a line has no direction")
    return Entry(
        number=text(found, "account_log_id"),
        at=text(found, "trans_dt"),
        amount=amount if direction == "收入" else -amount,
        balance=yuan(text(found, "balance")).minor,
        reference=some_text(found, "merchant_order_no") or "",
        kind=some_text(found, "type") or some_text(found, "biz_desc") or "",
        remark=some_text(found, "trans_memo") or "",
    )


def statement(
    account: RailAccount, name: str, day: date, found: Sequence[Entry]
) -> list[Statement]:
    """The day; none without lines, because nothing says a balance then. Raises Refusal."""
    if account.currency != CNY:
        raise Refusal("statement-foreign", "The log is in CNY.")
    if len({one.number for one in found}) != len(found):
        raise malformed("Two lines of the log have the same number.")
    if not found:
        return []
    ordered = in_order(found)
    own = owns_topups(account)
    lines = tuple(_line(one, day, own=own) for one in ordered)
    closing = closing_of(ordered)
    opening = closing - sum(one.amount for one in ordered)
    app_id = account.settings.get("app_id", "").strip()
    return [
        Statement(
            name.rpartition(".")[0], app_id, day, Money(opening, CNY), Money(closing, CNY), lines
        )
    ]


def _line(one: Entry, day: date, *, own: bool) -> StatementLine:
    at = from_beijing(one.at)
    if at is None or at.astimezone(BEIJING).date() != day:
        raise malformed(f"Line {one.number[:40]} is not of this day.")
    return StatementLine(
        line_id=one.number,
        kind=_kind(one, own=own),
        amount=Money(one.amount, CNY),
        fee=Money.zero(CNY),
        booked_on=day,
        reference=_reference(one) or None,
        remittance=one.remark or one.kind or None,
    )


def _reference(one: Entry) -> str:
    if one.kind == GIVEN_BACK and parse_reference(one.remark.strip()) is not None:
        return one.remark.strip()
    return one.reference


def _kind(one: Entry, *, own: bool) -> LineKind:
    if own and one.kind in _TOPUPS:
        return LineKind.OWN
    known = KINDS.get(one.kind)
    if known is LineKind.FEE or (known is not None and one.amount > 0):
        return known
    if one.kind == GIVEN_BACK and one.amount < 0:
        return LineKind.INCOMING
    if parse_reference(one.reference) is not None:
        return LineKind.GIVEN_BACK if one.amount > 0 else LineKind.SET_APART
    return LineKind.OTHER
