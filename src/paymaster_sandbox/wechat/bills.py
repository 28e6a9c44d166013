"""Daily files over the provider's own books, with planted differences, and their downloads.

The file of a day can be asked for from ten in the morning of the next, Beijing time. It is made
when it is first asked for, with whatever differences wait for it then, and never changes again.
"""

from __future__ import annotations

import gzip
import hashlib
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.wechat import bill_files, mishaps
from paymaster_sandbox.wechat.bill_files import Line, fee_yuan, fen, yuan
from paymaster_sandbox.wechat.times import day_of, day_start, plain

if TYPE_CHECKING:
    from paymaster_sandbox.chassis.base import Chassis
    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.mishaps import Mishap
    from paymaster_sandbox.wechat.parties import Merchant

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_file (
    mchid TEXT NOT NULL, kind TEXT NOT NULL, day TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (mchid, kind, day)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS wechat_moved (
    mchid TEXT NOT NULL, kind TEXT NOT NULL, day TEXT NOT NULL, columns TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS wechat_download (
    token TEXT PRIMARY KEY, mchid TEXT NOT NULL, body BLOB NOT NULL, expires INTEGER NOT NULL
) WITHOUT ROWID;
"""

TRADES: Final = ("ALL", "SUCCESS", "REFUND")
ACCOUNTS: Final = ("BASIC", "OPERATION", "FEES")
_READY_AFTER: Final = 34 * 3600 * SECOND
_KEPT: Final = timedelta(days=92)
_COLUMNS: Final = {
    "ALL": bill_files.TRADE_ALL,
    "SUCCESS": bill_files.TRADE_SUCCESS,
    "REFUND": bill_files.TRADE_REFUND,
}
_ODD: Final = "Tea, `white`\r\nand\x01black"


class BillError(Exception):
    """There is no such file. `reason`: creating, none, date."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Bills:
    """Makes files, keeps them, and gives them out against tokens."""

    def __init__(self, chassis: Chassis) -> None:
        self._chassis = chassis

    def file(self, tx: Tx, merchant: Merchant, kind: str, day: date) -> bytes:
        """The file of a day: `ALL`, `SUCCESS` or `REFUND` trades, or the flow of an account.

        Raises:
            BillError: not yet, not any more, or nothing happened.
        """
        if day >= day_of(tx.now) or day < day_of(tx.now) - _KEPT:
            raise BillError("date")
        call = "bill.trade" if kind in TRADES else "bill.flow"
        creating = frozenset({"creating"})
        if tx.now < day_start(day) + _READY_AFTER or mishaps.strike(
            tx, self._chassis.seed, call, creating
        ):
            raise BillError("creating")
        row = tx.one(
            "SELECT body FROM wechat_file WHERE mchid = ? AND kind = ? AND day = ?",
            merchant.mchid, kind, day.isoformat(),
        )  # fmt: skip
        if row is not None:
            return bytes(row[0])
        body = self._made(tx, merchant, kind, day, call)
        tx.run(
            "INSERT INTO wechat_file (mchid, kind, day, body) VALUES (?, ?, ?, ?)",
            merchant.mchid, kind, day.isoformat(), body,
        )  # fmt: skip
        return body

    def token(self, tx: Tx, merchant: Merchant, body: bytes, lasts: int) -> str:
        """What a file can be fetched with for a while."""
        token = "".join(self._chassis.seed.id(tx, "tok") for _ in range(3))
        tx.run(
            "INSERT INTO wechat_download (token, mchid, body, expires) VALUES (?, ?, ?, ?)",
            token, merchant.mchid, body, tx.now + lasts,
        )  # fmt: skip
        return token

    def download(self, tx: Tx, merchant: Merchant, token: str) -> bytes | None:
        """The file behind a token that still holds and is the merchant's."""
        row = tx.one(
            "SELECT body FROM wechat_download WHERE token = ? AND mchid = ? AND expires >= ?",
            token, merchant.mchid, tx.now,
        )  # fmt: skip
        return None if row is None else bytes(row[0])

    def _made(self, tx: Tx, merchant: Merchant, kind: str, day: date, call: str) -> bytes:
        trade = kind in TRADES
        lines = _trades(tx, merchant, kind, day) if trade else _flows(tx, merchant, kind, day)
        lines = [*self._arrived(tx, merchant, kind, day), *lines]
        if not lines:
            raise BillError("none")
        struck = mishaps.every(tx, self._chassis.seed, call, mishaps.BILLS - {"creating"})
        for mishap in struck:
            self._plant(tx, merchant, kind, day, lines, mishap)
        old = any(mishap.kind == "legacy_header" for mishap in struck)
        if trade:
            summary = bill_files.trade_summary(lines)
            return bill_files.write(_COLUMNS[kind], lines, summary, old=old)
        return bill_files.write(bill_files.FLOW, lines, bill_files.flow_summary(lines), old=old)

    def _plant(
        self, tx: Tx, merchant: Merchant, kind: str, day: date, lines: list[Line], mishap: Mishap
    ) -> None:
        """One difference between the file and what really happened."""
        if not lines:
            return
        at = self._chassis.seed.below(tx, "bill", len(lines))
        trade = kind in TRADES
        amount = "应结订单金额" if trade else "收支金额(元)"
        number = "微信订单号" if trade else "资金流水单号"
        if mishap.kind == "omit":
            lines.pop(at)
        elif mishap.kind == "extra":
            lines.append({**lines[at], number: f"{lines[at][number][:-1]}X"})
        elif mishap.kind == "alter":
            lines[at] = {**lines[at], amount: yuan(fen(lines[at][amount]) + 1)}
        elif mishap.kind == "odd_text":
            lines[at] = {**lines[at], ("商品名称" if trade else "备注"): _ODD}
        elif mishap.kind == "pair" and not trade:
            out = {**lines[at], number: f"{lines[at][number][:-1]}P", "收支类型": "支出"}
            lines += [out, {**out, number: f"{out[number][:-1]}Q", "收支类型": "收入"}]
        elif mishap.kind == "next_day":
            self._move(tx, merchant, kind, day, lines.pop(at))

    def _move(self, tx: Tx, merchant: Merchant, kind: str, day: date, line: Line) -> None:
        text = "\x1f".join(f"{name}\x1e{value}" for name, value in line.items())
        tx.run(
            "INSERT INTO wechat_moved (mchid, kind, day, columns) VALUES (?, ?, ?, ?)",
            merchant.mchid, kind, (day + timedelta(days=1)).isoformat(), text,
        )  # fmt: skip

    def _arrived(self, tx: Tx, merchant: Merchant, kind: str, day: date) -> list[Line]:
        rows = tx.all(
            "SELECT columns FROM wechat_moved WHERE mchid = ? AND kind = ? AND day = ?",
            merchant.mchid, kind, day.isoformat(),
        )  # fmt: skip
        return [dict(pair.split("\x1e", 1) for pair in text.split("\x1f")) for (text,) in rows]


def sha1(body: bytes) -> str:
    """The sum that bills are published with, over the file before it is packed."""
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()


def packed(body: bytes) -> bytes:
    """The file as a gzip that is the same every time."""
    return gzip.compress(body, mtime=0)


def _flows(tx: Tx, merchant: Merchant, account: str, day: date) -> list[Line]:
    rows = tx.all(
        "SELECT at, business_no, flow_no, name, kind, amount, balance, applicant, note, voucher"
        " FROM wechat_flow WHERE mchid = ? AND account = ? AND at >= ? AND at < ? ORDER BY seq",
        merchant.mchid, account, day_start(day), day_start(day + timedelta(days=1)),
    )  # fmt: skip
    return [
        dict(
            zip(
                bill_files.FLOW,
                (
                    plain(row[0]), row[1], row[2], row[3], row[4],
                    "收入" if row[5] > 0 else "支出", yuan(abs(row[5])), yuan(row[6]), row[7],
                    row[8], row[9],
                ),
                strict=True,
            )
        )
        for row in rows
    ]  # fmt: skip


def _trades(tx: Tx, merchant: Merchant, kind: str, day: date) -> list[Line]:
    """Payments of the day by the time they were paid, refunds by the time they were asked for."""
    start, end = day_start(day), day_start(day + timedelta(days=1))
    found: list[tuple[int, Line]] = []
    if kind != "REFUND":
        rows = tx.all(
            "SELECT paid, appid, mchid, transaction_id, out_no, payer, channel, total, fee,"
            " description, attach FROM wechat_order WHERE mchid = ? AND paid >= ? AND paid < ?",
            merchant.mchid, start, end,
        )  # fmt: skip
        found += [(row[0], _payment(row)) for row in rows]
    if kind != "SUCCESS":
        rows = tx.all(
            "SELECT r.created, o.appid, o.mchid, o.transaction_id, o.out_no, o.payer, o.channel,"
            " r.amount, r.fee, o.description, o.attach, r.refund_id, r.out_no, r.state, r.done"
            " FROM wechat_refund r JOIN wechat_order o"
            " ON o.mchid = r.mchid AND o.out_no = r.order_no"
            " WHERE r.mchid = ? AND r.created >= ? AND r.created < ?",
            merchant.mchid, start, end,
        )  # fmt: skip
        found += [(row[0], _refund(row)) for row in rows]
    return [line for _, line in sorted(found, key=lambda one: one[0])]


def _common(row: tuple[object, ...]) -> Line:
    at, appid, mchid, transaction_id, out_no, payer, channel, *_ = row
    assert isinstance(at, int)
    attach = row[10]
    return {
        "交易时间": plain(at), "公众账号ID": str(appid), "商户号": str(mchid),
        "特约商户号": "0", "微信订单号": str(transaction_id), "商户订单号": str(out_no),
        "用户标识": str(payer), "交易类型": str(channel), "付款银行": "OTHERS",
        "货币种类": "CNY", "代金券金额": "0.00", "充值券退款金额": "0.00",
        "商品名称": str(row[9]), "商户数据包": "" if attach is None else str(attach),
        "费率": "0.60%",
    }  # fmt: skip


def _payment(row: tuple[object, ...]) -> Line:
    total, fee = row[7], row[8]
    assert isinstance(total, int)
    assert isinstance(fee, int)
    return {
        **_common(row), "交易状态": "SUCCESS", "应结订单金额": yuan(total),
        "微信退款单号": "0", "商户退款单号": "0", "退款金额": "0.00",
        "手续费": fee_yuan(fee * 1000), "订单金额": yuan(total), "申请退款金额": "0.00",
    }  # fmt: skip


def _refund(row: tuple[object, ...]) -> Line:
    amount, fee, created, done = row[7], row[8], row[0], row[14]
    assert isinstance(amount, int)
    assert isinstance(fee, int)
    assert isinstance(created, int)
    return {
        **_common(row), "交易状态": "REFUND", "应结订单金额": "0.00",
        "微信退款单号": str(row[11]), "商户退款单号": str(row[12]), "退款金额": yuan(amount),
        "退款类型": "ORIGINAL", "退款状态": str(row[13]), "手续费": fee_yuan(-fee * 1000),
        "订单金额": "0.00", "申请退款金额": yuan(amount), "退款申请时间": plain(created),
        "退款成功时间": plain(done) if isinstance(done, int) else "",
    }  # fmt: skip
