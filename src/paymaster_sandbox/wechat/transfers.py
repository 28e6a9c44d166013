"""The life of a transfer bill: accepted, locked, confirmed by the user or authorised, paid or not.

    ACCEPTED -> PROCESSING -> WAIT_USER_CONFIRM -> TRANSFERING -> SUCCESS | FAIL
    any that is not final -> CANCELING -> CANCELLED

A bill that the user has agreed to once and for all skips WAIT_USER_CONFIRM. TRANSFERING is spelt as
the provider spells it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from paymaster_sandbox.chassis import journal
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.wechat import mishaps, parties
from paymaster_sandbox.wechat.errors import missing, refused
from paymaster_sandbox.wechat.payouts import Payout, Payouts
from paymaster_sandbox.wechat.times import beijing

if TYPE_CHECKING:
    from collections.abc import Callable

    from paymaster_sandbox.chassis.base import Chassis
    from paymaster_sandbox.chassis.schedule import Schedule
    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.flow import Flow
    from paymaster_sandbox.wechat.notices import Notices
    from paymaster_sandbox.wechat.parties import Merchant

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_bill (
    bill_no TEXT PRIMARY KEY, mchid TEXT NOT NULL, out_no TEXT NOT NULL, params TEXT NOT NULL,
    appid TEXT NOT NULL, openid TEXT NOT NULL, name TEXT, amount INTEGER NOT NULL,
    remark TEXT NOT NULL, notify_url TEXT, state TEXT NOT NULL, reason TEXT, package TEXT,
    authorized INTEGER NOT NULL, locked INTEGER NOT NULL, created INTEGER NOT NULL,
    updated INTEGER NOT NULL, UNIQUE (mchid, out_no)
) WITHOUT ROWID;
"""

FINAL: Final = ("SUCCESS", "FAIL", "CANCELLED")
DAY: Final = 86_400 * SECOND
_QUERY_DAYS: Final = 30
_AGAIN: Final = 60 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """One transfer bill. `params` is what the merchant asked, in the clear and in one order."""

    bill_no: str
    mchid: str
    out_no: str
    params: str
    appid: str
    openid: str
    name: str | None
    amount: int
    remark: str
    notify_url: str | None
    state: str
    reason: str | None
    package: str | None
    authorized: bool
    locked: bool
    created: int
    updated: int


_COLUMNS = tuple(field.name for field in fields(Bill))


class Transfers:
    """Every change of a bill."""

    def __init__(self, chassis: Chassis, schedule: Schedule, flow: Flow, notices: Notices) -> None:
        self._chassis = chassis
        self._schedule = schedule
        self._flow = flow
        self._payouts = Payouts(flow)
        self._notices = notices
        self._confirmed: list[Callable[[Tx, Bill], None]] = []
        handlers: dict[str, Callable[[Tx, Bill], None]] = {
            "lock": self._lock, "expire": self._expire, "pay": self._pay,
            "cancel": self._cancelled, "behave": self._behave,
        }  # fmt: skip
        for name, handler in handlers.items():
            schedule.handle(f"wechat.bill.{name}", self._job(handler))

    def when_confirmed(self, listener: Callable[[Tx, Bill], None]) -> None:
        """Call a function whenever a user has confirmed a bill."""
        self._confirmed.append(listener)

    def _job(self, handler: Callable[[Tx, Bill], None]) -> Callable[[Tx, str], None]:
        def run(tx: Tx, bill_no: str) -> None:
            bill = self._by("bill_no", tx, bill_no)
            assert bill is not None
            handler(tx, bill)

        return run

    def create(self, tx: Tx, merchant: Merchant, wanted: Bill) -> Bill:
        """Take a bill in, or find the one that this order number made before.

        Raises:
            V3Error: the number was used for something else, or the account does not cover it.
        """
        known = self._by("mchid", tx, merchant.mchid, wanted.out_no)
        if known is not None:
            if known.params != wanted.params:
                raise refused("单号已存在但信息不一致")
            return known
        values = [getattr(wanted, name) for name in _COLUMNS]
        tx.run(
            f"INSERT INTO wechat_bill ({', '.join(_COLUMNS)})"  # noqa: S608 - constant
            f" VALUES ({', '.join('?' * len(_COLUMNS))})",
            *values,
        )
        after = mishaps.setting(tx, "accept_seconds")
        if after:
            self._schedule.put(tx, "wechat.bill.lock", wanted.bill_no, after)
        else:
            self._lock(tx, wanted)
        late = mishaps.setting(tx, "late_close_seconds")
        self._schedule.put(tx, "wechat.bill.expire", wanted.bill_no, DAY + late)
        return self.get(tx, wanted.bill_no)

    def covered(self, tx: Tx, merchant: Merchant, wanted: Bill) -> bool:
        """Whether the money is there, or the bill was taken in before."""
        known = self._by("mchid", tx, merchant.mchid, wanted.out_no)
        return known is not None or self._payouts.covered(tx, merchant, wanted.amount)

    def get(self, tx: Tx, bill_no: str) -> Bill:
        """A bill that exists."""
        found = self._by("bill_no", tx, bill_no)
        assert found is not None
        return found

    def known(self, tx: Tx, merchant: Merchant, out_no: str) -> Bill | None:
        """The merchant's bill of that number, if there is one."""
        return self._by("mchid", tx, merchant.mchid, out_no)

    def numbered(self, tx: Tx, merchant: Merchant, bill_no: str) -> Bill | None:
        """The merchant's bill of the provider's number, if there is one."""
        found = self._by("bill_no", tx, bill_no)
        return found if found is not None and found.mchid == merchant.mchid else None

    def found(self, tx: Tx, merchant: Merchant, out_no: str) -> Bill:
        """The merchant's bill of that number, which exists."""
        found = self.known(tx, merchant, out_no)
        assert found is not None
        return found

    def shown(self, tx: Tx, merchant: Merchant, *, out_no: str = "", bill_no: str = "") -> Bill:
        """The merchant's bill, if it may be seen: not too fresh, not too old. Raises V3Error."""
        found = (
            self._by("mchid", tx, merchant.mchid, out_no)
            if out_no
            else self._by("bill_no", tx, bill_no)
        )
        lag = mishaps.setting(tx, "not_found_lag_seconds")
        if (
            found is None
            or found.mchid != merchant.mchid
            or found.created > tx.now - lag
            or found.created < tx.now - _QUERY_DAYS * DAY
        ):
            raise missing()
        return found

    def waiting(self, tx: Tx) -> list[Bill]:
        """Bills that wait for their user, oldest first."""
        rows = tx.all(
            "SELECT bill_no FROM wechat_bill WHERE state = 'WAIT_USER_CONFIRM' ORDER BY created"
        )
        return [self.get(tx, bill_no) for (bill_no,) in rows]

    def confirm(self, tx: Tx, bill_no: str) -> Bill:
        """The user takes the money. Raises V3Error if it cannot be taken any more."""
        bill = self._waiting_bill(tx, bill_no)
        if tx.now > bill.created + DAY:
            raise refused("单据已过期")
        for listener in self._confirmed:
            listener(tx, bill)
        return self._start_paying(tx, bill)

    def refuse(self, tx: Tx, bill_no: str, reason: str) -> Bill:
        """The user does not want it. Raises V3Error if there is nothing to refuse any more."""
        return self._end(tx, self._waiting_bill(tx, bill_no), "FAIL", reason)

    def cancel(self, tx: Tx, merchant: Merchant, out_no: str) -> Bill:
        """The merchant takes a bill back that is not final. Raises V3Error."""
        bill = self.shown(tx, merchant, out_no=out_no)
        if bill.state in ("CANCELING", "CANCELLED"):
            return bill
        if bill.state in FINAL:
            raise refused("单据已到终态, 不能撤销")
        too_late = bill.state == "TRANSFERING" and mishaps.setting(tx, "cancel_too_late")
        if too_late:
            raise refused("单据正在转账, 不能撤销")
        self._become(tx, bill, "CANCELING")
        after = mishaps.setting(tx, "cancel_seconds")
        self._schedule.put(tx, "wechat.bill.cancel", bill.bill_no, after)
        return self.get(tx, bill.bill_no)

    def _waiting_bill(self, tx: Tx, bill_no: str) -> Bill:
        bill = self._by("bill_no", tx, bill_no)
        if bill is None:
            raise missing()
        if bill.state != "WAIT_USER_CONFIRM":
            raise refused(f"单据状态为{bill.state}")
        return bill

    def _lock(self, tx: Tx, bill: Bill) -> None:
        """Take the money; without enough of it the bill waits for more."""
        if bill.state not in ("ACCEPTED", "PROCESSING"):
            return
        payout = self.payout(tx, bill)
        if not self._payouts.covered(tx, payout.merchant, bill.amount):
            if bill.state == "ACCEPTED":
                self._become(tx, bill, "PROCESSING")
            self._schedule.put(tx, "wechat.bill.lock", bill.bill_no, _AGAIN)
            return
        self._payouts.lock(tx, payout)
        tx.run("UPDATE wechat_bill SET locked = 1 WHERE bill_no = ?", bill.bill_no)
        if bill.authorized:
            self._start_paying(tx, bill)
            return
        package = "".join(self._chassis.seed.id(tx, "pkg") for _ in range(4))
        tx.run("UPDATE wechat_bill SET package = ? WHERE bill_no = ?", package, bill.bill_no)
        self._become(tx, bill, "WAIT_USER_CONFIRM")
        self._schedule.put(tx, "wechat.bill.behave", bill.bill_no)

    def _behave(self, tx: Tx, bill: Bill) -> None:
        """Users who always do the same do it."""
        user = parties.user(tx, bill.openid)
        if bill.state != "WAIT_USER_CONFIRM" or user is None:
            return
        if user.behaviour == "confirm":
            self.confirm(tx, bill.bill_no)
        elif user.behaviour == "refuse":
            self.refuse(tx, bill.bill_no, "OTHER_FAIL_REASON_TYPE")

    def _start_paying(self, tx: Tx, bill: Bill) -> Bill:
        self._become(tx, bill, "TRANSFERING")
        after = mishaps.setting(tx, "paid_seconds")
        self._schedule.put(tx, "wechat.bill.pay", bill.bill_no, after)
        return self.get(tx, bill.bill_no)

    def _pay(self, tx: Tx, bill: Bill) -> None:
        if bill.state != "TRANSFERING":
            return
        payout = self.payout(tx, bill)
        reason = self._payouts.objection(tx, payout)
        if reason is not None:
            self._end(tx, bill, "FAIL", reason)
            return
        self._payouts.pay(tx, payout)
        self._end(tx, bill, "SUCCESS", None)

    def _expire(self, tx: Tx, bill: Bill) -> None:
        if bill.state in ("ACCEPTED", "PROCESSING", "WAIT_USER_CONFIRM"):
            self._end(tx, bill, "FAIL", "OVERDUE_CLOSE")

    def _cancelled(self, tx: Tx, bill: Bill) -> None:
        if bill.state == "CANCELING":
            self._end(tx, bill, "CANCELLED", "MCH_CANCEL")

    def _end(self, tx: Tx, bill: Bill, state: str, reason: str | None) -> Bill:
        """The last state. Money that was locked and not paid goes back."""
        if state != "SUCCESS" and self.get(tx, bill.bill_no).locked:
            self._payouts.give_back(tx, self.payout(tx, bill))
        self._become(tx, bill, state, reason)
        ended = self.get(tx, bill.bill_no)
        merchant = self.payout(tx, bill).merchant
        facts: dict[str, object] = {
            "out_bill_no": bill.out_no, "transfer_bill_no": bill.bill_no, "state": state,
            "mchid": bill.mchid, "transfer_amount": bill.amount, "openid": bill.openid,
            "create_time": beijing(bill.created), "update_time": beijing(ended.updated),
        }  # fmt: skip
        if reason is not None:
            facts["fail_reason"] = reason
        self._notices.tell(
            tx, merchant, bill.notify_url, "MCHTRANSFER.BILL.FINISHED", "mch_payment", facts
        )
        return ended

    def _become(self, tx: Tx, bill: Bill, state: str, reason: str | None = None) -> None:
        tx.run(
            "UPDATE wechat_bill SET state = ?, reason = ?, updated = ? WHERE bill_no = ?",
            state, reason, tx.now, bill.bill_no,
        )  # fmt: skip
        journal.note(
            tx, "wechat.bill", out_no=bill.out_no, bill_no=bill.bill_no, state=state, reason=reason
        )

    def payout(self, tx: Tx, bill: Bill) -> Payout:
        """The bill as the money sees it."""
        merchant = parties.merchant(tx, bill.mchid)
        assert merchant is not None
        return Payout(
            merchant=merchant, reference=bill.out_no, bill_no=bill.bill_no, openid=bill.openid,
            name=bill.name, amount=bill.amount, product="transfer", note=bill.remark,
        )  # fmt: skip

    def new_number(self, tx: Tx) -> str:
        """A bill number."""
        return self._flow.number(tx, "13")

    def _by(self, column: str, tx: Tx, *values: str) -> Bill | None:
        condition = "mchid = ? AND out_no = ?" if column == "mchid" else "bill_no = ?"
        row = tx.one(
            f"SELECT {', '.join(_COLUMNS)} FROM wechat_bill WHERE {condition}",  # noqa: S608 - constant
            *values,
        )
        if row is None:
            return None
        found: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
        for name in ("authorized", "locked"):
            found[name] = bool(found[name])
        return Bill(**found)
