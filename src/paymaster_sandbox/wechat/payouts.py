"""What every product that pays users has in common: limits, the payee's fate, and the money.

The money is taken off the merchant's account when a payout is accepted, and goes to the user when
it is paid, or back. `wechat_paid` is the truth that tests ask: one line for each time that a user
was really given money.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from paymaster_sandbox.chassis import ledger, oracle
from paymaster_sandbox.wechat import parties
from paymaster_sandbox.wechat.flow import CURRENCY, Flow, Movement
from paymaster_sandbox.wechat.parties import Merchant, ledger_name
from paymaster_sandbox.wechat.times import day_of, day_start

if TYPE_CHECKING:
    from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_paid (
    seq INTEGER PRIMARY KEY, mchid TEXT NOT NULL, openid TEXT NOT NULL, reference TEXT NOT NULL,
    amount INTEGER NOT NULL, product TEXT NOT NULL, bill_no TEXT NOT NULL, at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS wechat_paid_day ON wechat_paid (mchid, at);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payout:
    """One payment to one user, whichever product it came by. `bill_no` is the provider's."""

    merchant: Merchant
    reference: str
    bill_no: str
    openid: str
    name: str | None
    amount: int
    product: str
    note: str


class Payouts:
    """The money's way to users."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def covered(self, tx: Tx, merchant: Merchant, amount: int) -> bool:
        """Whether the account that the merchant pays from has as much."""
        return parties.balance(tx, merchant.mchid, merchant.account) >= amount

    def lock(self, tx: Tx, payout: Payout) -> None:
        """Take the money off the merchant's account."""
        self._flow.book(
            tx, self._movement(payout, payout.product, -payout.amount), self._held(payout)
        )

    def give_back(self, tx: Tx, payout: Payout) -> None:
        """Put the money onto the merchant's account again."""
        movement = self._movement(payout, f"{payout.product}-back", payout.amount)
        self._flow.book(tx, movement, self._held(payout))

    def pay(self, tx: Tx, payout: Payout) -> None:
        """Give the locked money to the user."""
        ledger.move(
            tx, self._held(payout), f"wechat/user/{payout.openid}", payout.amount, CURRENCY,
            reason="paid", subject=payout.bill_no,
        )  # fmt: skip
        tx.run(
            "INSERT INTO wechat_paid (mchid, openid, reference, amount, product, bill_no, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            payout.merchant.mchid, payout.openid, payout.reference, payout.amount, payout.product,
            payout.bill_no, tx.now,
        )  # fmt: skip

    def objection(self, tx: Tx, payout: Payout) -> str | None:
        """Why the user cannot be paid, as a `fail_reason`; None if nothing is in the way."""
        merchant, user = payout.merchant, parties.user(tx, payout.openid)
        if user is None or user.snapshot:
            return "OPENID_INVALID"
        fates = oracle.ask(tx, payout.openid)
        for outcome, reason in (
            ("closed", "ACCOUNT_NOT_EXIST"), ("reject", "PAYEE_ACCOUNT_ABNORMAL"),
            ("fail", "TRANSFER_RISK"),
        ):  # fmt: skip
            if outcome in fates:
                oracle.fulfil(tx, payout.openid, outcome)
                code = fates[outcome].code
                return code if code and "_" in code else reason
        if user.real_name is None:
            return "REAL_NAME_CHECK_FAIL"
        if payout.name is not None and payout.name != user.real_name:
            return "NAME_NOT_CORRECT"
        if payout.amount < merchant.least or self._today(tx, merchant) + payout.amount > (
            merchant.merchant_day
        ):
            return "TRANSFER_QUOTA_EXCEED"
        return self._payee_limit(tx, payout)

    def _payee_limit(self, tx: Tx, payout: Payout) -> str | None:
        paid, count = self._received_today(tx, payout.merchant, payout.openid)
        if count >= payout.merchant.payee_day_count:
            return "DAY_RECEIVED_COUNT_EXCEED"
        if paid + payout.amount > payout.merchant.payee_day:
            return "DAY_RECEIVED_QUOTA_EXCEED"
        return None

    def _today(self, tx: Tx, merchant: Merchant) -> int:
        return int(
            tx.value(
                "SELECT coalesce(sum(amount), 0) FROM wechat_paid WHERE mchid = ? AND at >= ?",
                merchant.mchid, day_start(day_of(tx.now)),
            )
        )  # fmt: skip

    def _received_today(self, tx: Tx, merchant: Merchant, openid: str) -> tuple[int, int]:
        row = tx.one(
            "SELECT coalesce(sum(amount), 0), count(*) FROM wechat_paid"
            " WHERE mchid = ? AND openid = ? AND at >= ?",
            merchant.mchid, openid, day_start(day_of(tx.now)),
        )  # fmt: skip
        assert row is not None
        return int(row[0]), int(row[1])

    def _movement(self, payout: Payout, kind: str, amount: int) -> Movement:
        return Movement(
            mchid=payout.merchant.mchid, account=payout.merchant.account, amount=amount, kind=kind,
            business_no=payout.bill_no, voucher=payout.reference, note=payout.note,
        )  # fmt: skip

    def _held(self, payout: Payout) -> str:
        return ledger_name(payout.merchant.mchid, "held")
