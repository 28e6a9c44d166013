"""The bytes of daily files: a header, values behind a backtick, and a summary that adds up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

Line = dict[str, str]

TRADE_ALL: Final = (
    "交易时间", "公众账号ID", "商户号", "特约商户号", "设备号", "微信订单号", "商户订单号",
    "用户标识", "交易类型", "交易状态", "付款银行", "货币种类", "应结订单金额", "代金券金额",
    "微信退款单号", "商户退款单号", "退款金额", "充值券退款金额", "退款类型", "退款状态",
    "商品名称", "商户数据包", "手续费", "费率", "订单金额", "申请退款金额", "费率备注",
)  # fmt: skip
_REFUNDS_ONLY: Final = (
    "微信退款单号", "商户退款单号", "退款金额", "充值券退款金额", "退款类型", "退款状态",
    "申请退款金额",
)  # fmt: skip
TRADE_SUCCESS: Final = tuple(name for name in TRADE_ALL if name not in _REFUNDS_ONLY)
TRADE_REFUND: Final = (
    *TRADE_ALL[:14], "退款申请时间", "退款成功时间", *TRADE_ALL[14:],
)  # fmt: skip
TRADE_SUMMARY: Final = (
    "总交易单数", "应结订单总金额", "退款总金额", "充值券退款总金额", "手续费总金额",
    "订单总金额", "申请退款总金额",
)  # fmt: skip
FLOW: Final = (
    "记账时间", "微信支付业务单号", "资金流水单号", "业务名称", "业务类型", "收支类型",
    "收支金额(元)", "账户结余(元)", "资金变更提交申请人", "备注", "业务凭证号",
)  # fmt: skip
FLOW_SUMMARY: Final = ("资金流水总笔数", "收入笔数", "收入金额", "支出笔数", "支出金额")
OLD_NAMES: Final[Mapping[str, str]] = {
    "应结订单金额": "总金额",
    "代金券金额": "企业红包金额",
    "充值券退款金额": "企业红包退款金额",
    "收支金额(元)": "收支金额\uff08元\uff09",
    "账户结余(元)": "账户结余\uff08元\uff09",
}
"""Names that some columns had before."""

OLD_MISSING: Final = ("订单金额", "申请退款金额", "费率备注")
"""Columns that came later."""


def write(
    columns: Sequence[str], lines: Sequence[Line], summary: Mapping[str, str], *, old: bool
) -> bytes:
    """A whole file: a mark at its beginning, CRLF, and a line end after the last line."""
    shown = [name for name in columns if not (old and name in OLD_MISSING)]
    header = [OLD_NAMES.get(name, name) if old else name for name in shown]
    rows = [",".join(header)]
    rows += [_row([line.get(name, "") for name in shown]) for line in lines]
    rows += [",".join(summary), _row(list(summary.values()))]
    return ("\ufeff" + "".join(f"{row}\r\n" for row in rows)).encode()


def trade_summary(lines: Sequence[Line]) -> dict[str, str]:
    """The last line of a trade bill."""
    sums = [
        yuan(sum(fen(line.get(name, "0.00")) for line in lines))
        for name in ("应结订单金额", "退款金额", "充值券退款金额")
    ]
    fee = sum(_fine(line.get("手续费", "0.00000")) for line in lines)
    rest = [
        yuan(sum(fen(line.get(name, "0.00")) for line in lines))
        for name in ("订单金额", "申请退款金额")
    ]
    values = [f"{len(lines)}.0", *sums, fee_yuan(fee), *rest]
    return dict(zip(TRADE_SUMMARY, values, strict=True))


def flow_summary(lines: Sequence[Line]) -> dict[str, str]:
    """The last line of a fund-flow bill."""
    found = [f"{len(lines)}.0"]
    for direction in ("收入", "支出"):
        amounts = [fen(line["收支金额(元)"]) for line in lines if line["收支类型"] == direction]
        found += [f"{len(amounts)}.0", yuan(sum(amounts))]
    return dict(zip(FLOW_SUMMARY, found, strict=True))


def yuan(amount: int) -> str:
    """Fen as yuan with two decimals."""
    sign, left = ("-", -amount) if amount < 0 else ("", amount)
    return f"{sign}{left // 100}.{left % 100:02}"


def fen(text: str) -> int:
    """Yuan as fen."""
    return int(text.replace(".", ""))


def fee_yuan(hundred_thousandths: int) -> str:
    """A fee in yuan with five decimals."""
    left = abs(hundred_thousandths)
    sign = "-" if hundred_thousandths < 0 else ""
    return f"{sign}{left // 100_000}.{left % 100_000:05}"


def _fine(text: str) -> int:
    return int(text.replace(".", ""))


def _row(values: Sequence[str]) -> str:
    return ",".join(f"`{_plain(value)}" for value in values)


def _plain(text: str) -> str:
    """Text that stays on its line; commas and backticks stay as they are."""
    return re.sub("\x01", " ", text).replace("\r", "\\r").replace("\n", "\\n")
