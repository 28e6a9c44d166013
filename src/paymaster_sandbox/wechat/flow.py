"""The movements of a merchant's accounts, each with the balance that it left: the fund-flow bill.

The books and the bill are written together, so that they cannot say different things.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from paymaster_sandbox.chassis import ledger
from paymaster_sandbox.wechat.parties import ledger_name
from paymaster_sandbox.wechat.times import packed

if TYPE_CHECKING:
    from paymaster_sandbox.chassis.base import Chassis
    from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_flow (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, mchid TEXT NOT NULL, account TEXT NOT NULL,
    at INTEGER NOT NULL, business_no TEXT NOT NULL, flow_no TEXT NOT NULL, name TEXT NOT NULL,
    kind TEXT NOT NULL, amount INTEGER NOT NULL, balance INTEGER NOT NULL,
    applicant TEXT NOT NULL, note TEXT NOT NULL, voucher TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS wechat_flow_day ON wechat_flow (mchid, account, at);
"""

CURRENCY: Final = "CNY"
NAMES: Final = {
    "transfer": ("商家转账", "商家转账"),
    "transfer-back": ("商家转账退回", "商家转账退回"),
    "batch": ("商家转账到零钱", "商家转账到零钱"),
    "batch-back": ("商家转账到零钱退回", "商家转账到零钱退回"),
    "enterprise": ("企业付款到零钱", "企业付款到零钱"),
    "enterprise-back": ("企业付款到零钱退回", "企业付款到零钱退回"),
    "pay": ("交易", "交易"),
    "fee": ("扣除交易手续费", "扣除交易手续费"),
    "refund": ("退款", "退款"),
    "fee-back": ("返还手续费", "扣除交易手续费"),
    "topup": ("充值", "充值/提现"),
}
"""Name and type of each kind of movement. Public documents do not settle these words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """Money that goes onto an account (more than zero) or off it."""

    mchid: str
    account: str
    amount: int
    kind: str
    business_no: str
    voucher: str = ""
    note: str = ""


class Flow:
    """Writes books and bill."""

    def __init__(self, chassis: Chassis) -> None:
        self._chassis = chassis

    def book(self, tx: Tx, movement: Movement, other: str) -> None:
        """Move the money between the merchant's account and another, and write the line."""
        own = ledger_name(movement.mchid, movement.account)
        source, target = (other, own) if movement.amount > 0 else (own, other)
        ledger.move(
            tx, source, target, abs(movement.amount), CURRENCY, reason=movement.kind,
            subject=movement.business_no,
        )  # fmt: skip
        name, kind = NAMES[movement.kind]
        tx.run(
            "INSERT INTO wechat_flow (mchid, account, at, business_no, flow_no, name, kind,"
            " amount, balance, applicant, note, voucher)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            movement.mchid, movement.account, tx.now, movement.business_no, self.number(tx, "4"),
            name, kind, movement.amount, ledger.balance(tx, own), movement.mchid, movement.note,
            movement.voucher,
        )  # fmt: skip

    def number(self, tx: Tx, prefix: str) -> str:
        """A number as the provider gives them: 28 digits that look like nothing."""
        drawn = self._chassis.seed.below(tx, "wechat.number", 10**6)
        count = self._chassis.seed.count(tx, "wechat.numbers")
        return f"{prefix}{packed(tx.now)}{drawn:06}{count:07}"
