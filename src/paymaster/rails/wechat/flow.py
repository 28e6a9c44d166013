"""The fund-flow bill of a day: every movement of one account of the merchant, as a statement.

It is no proof that a payee was paid: the money of a transfer leaves the account when the provider
takes the order, before the payee has accepted it, and comes back if nothing becomes of it. What
left and came back on the same day moved nothing, and is one line of nothing.

A row may be on the bill of a later day than its own. The balance of the last row is what the day
closed with; it opened with that less its rows, so that a row too few or too many is a gap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from paymaster.kernel.errors import Refusal
from paymaster.kernel.ids import parse_reference
from paymaster.kernel.money import Money
from paymaster.rails.balances import closing_of, in_order
from paymaster.rails.base import LineKind, RailAccount, Statement, StatementLine
from paymaster.rails.transport import malformed
from paymaster.rails.wechat.table import Row, Table
from paymaster.rails.yuan import BEIJING, CNY, booked_fen, from_beijing, owns_topups

NEEDED: Final = (
    "记账时间", "资金流水单号", "业务名称", "业务类型", "收支类型", "收支金额(元)",
    "账户结余(元)", "业务凭证号",
)  # fmt: skip
COUNT: Final = "资金流水总笔数"
FREE: Final = "备注"
LATEST: Final = timedelta(days=10)
"""How much later than on its own day a row may come."""
_TOPUPS: Final = frozenset({"充值", "充值/提现", "提现", "转入"})
_IN, _OUT = "收入", "支出"
_NAME: Final = re.compile(
    r"wechat-flow-([0-9]{1,32})-([A-Z]{1,12})-(\d{4}-\d{2}-\d{2})-([0-9a-f]{16})\.csv\Z", re.ASCII
)

KINDS: Final[Mapping[str, LineKind]] = {
    "交易": LineKind.INCOMING,
    "充值": LineKind.TOPUP,
    "充值/提现": LineKind.TOPUP,
    "转入": LineKind.TOPUP,
    "手续费": LineKind.FEE,
    "交易手续费": LineKind.FEE,
    "扣除交易手续费": LineKind.FEE,
    "返还手续费": LineKind.FEE,
    "退还手续费": LineKind.FEE,
}
"""What the provider's types and names of business mean. Those that are not here, and are about no
payment of ours, are OTHER: a person is asked. The provider's own list is not public."""

GIVEN_BACK: Final = "退款"
"""What goes back to somebody who had paid: less than nothing came in, under the refund's number."""


@dataclass(frozen=True, slots=True)
class _Movement:
    """A row. `amount` is signed."""

    number: str
    at: str
    booked_on: date
    amount: int
    balance: int
    reference: str
    name: str
    kind: LineKind


def file_name(mchid: str, account: str, day: date, digest: str) -> str:
    """Ours, for a bill: other content of the same day is another file."""
    return f"wechat-flow-{mchid}-{account}-{day.isoformat()}-{digest[:16]}.csv"


def day_of(name: str, mchid: str, account: str) -> date | None:
    """The day of one of our files about this account of this merchant."""
    match = _NAME.match(name)
    if match is None or (match.group(1), match.group(2)) != (mchid, account):
        return None
    try:
        return date.fromisoformat(match.group(3))
    except ValueError:
        return None


def read(account: RailAccount, bill_account: str, name: str, body: bytes) -> list[Statement]:
    """The statement of the day; none if nothing moved, because no row says a balance then.

    Raises Refusal `statement-malformed` or `statement-foreign`.
    """
    if _NAME.match(name) is None:
        raise malformed(f"{name[:80]} is not the name of a fund-flow bill.")
    mchid = account.settings.get("mchid", "")
    day = day_of(name, mchid, bill_account)
    if day is None or account.currency != CNY:
        raise Refusal("statement-foreign", "The bill is about another account.")
    table = Table(body, NEEDED, COUNT, FREE)
    own = owns_topups(account)
    moved = [_movement(row, own=own) for row in table]
    _check_sums(table.sums, moved)
    if any(not day - LATEST <= one.booked_on <= day for one in moved):
        raise malformed("The bill has rows of another day.")
    if len({one.number for one in moved}) != len(moved):
        raise malformed("Two rows of the bill have the same number.")
    if not moved:
        return []
    moved = in_order(moved)
    closing = closing_of([one for one in moved if one.booked_on == day] or moved)
    return [
        Statement(
            statement_id=name.removesuffix(".csv"),
            account=f"{mchid}/{bill_account}",
            day=day,
            opening=Money(closing - sum(one.amount for one in moved), CNY),
            closing=Money(closing, CNY),
            lines=tuple(_lines(moved)),
        )
    ]


def _movement(row: Row, *, own: bool) -> _Movement:
    direction, amount = row["收支类型"], booked_fen(row["收支金额(元)"])
    at = from_beijing(row["记账时间"])
    if direction not in {_IN, _OUT} or at is None or not row["资金流水单号"]:
        raise malformed("A row has no direction, time or number.")
    signed = abs(amount) if direction == _IN else -abs(amount)
    return _Movement(
        number=row["资金流水单号"],
        at=row["记账时间"],
        booked_on=at.astimezone(BEIJING).date(),
        amount=signed,
        balance=booked_fen(row["账户结余(元)"]),
        reference=row["业务凭证号"],
        name=row["业务名称"],
        kind=_kind(row, signed, own=own),
    )


def _kind(row: Row, signed: int, *, own: bool) -> LineKind:
    if own and (row["业务类型"] in _TOPUPS or row["业务名称"] in _TOPUPS):
        return LineKind.OWN
    if GIVEN_BACK in {row["业务类型"], row["业务名称"]}:
        return LineKind.INCOMING
    known = KINDS.get(row["业务类型"]) or KINDS.get(row["业务名称"])
    if known is LineKind.FEE or (known is not None and signed > 0):
        return known
    if parse_reference(row["业务凭证号"]) is not None:
        return LineKind.GIVEN_BACK if signed > 0 else LineKind.SET_APART
    return LineKind.OTHER


def _check_sums(sums: Row, moved: Sequence[_Movement]) -> None:
    """What the file says of itself must be what is in it."""
    for direction, sign in ((_IN, 1), (_OUT, -1)):
        said = sums.get(f"{direction}金额")
        if said is None or booked_fen(said) != sum(
            abs(one.amount) for one in moved if one.amount * sign > 0
        ):
            raise malformed("The rows of the bill do not give its sums.")


def _lines(moved: Sequence[_Movement]) -> Iterable[StatementLine]:
    """The rows as lines, those that cancelled each other out as one of nothing."""
    back: dict[tuple[str, int], list[_Movement]] = {}
    for one in moved:
        if one.kind is LineKind.GIVEN_BACK:
            back.setdefault((one.reference, one.amount), []).append(one)
    undone: set[str] = set()
    for one in moved:
        returns = back.get((one.reference, -one.amount))
        if one.kind is LineKind.SET_APART and returns:
            other = returns.pop(0)
            undone.add(other.number)
            yield _line(one, LineKind.OTHER, 0, f"{one.name}; {other.name} {other.number}")
        elif one.number not in undone:
            yield _line(one, one.kind, one.amount, one.name)


def _line(one: _Movement, kind: LineKind, amount: int, remittance: str) -> StatementLine:
    return StatementLine(
        line_id=one.number,
        kind=kind,
        amount=Money(amount, CNY),
        fee=Money.zero(CNY),
        booked_on=one.booked_on,
        reference=one.reference or None,
        remittance=remittance or None,
    )
