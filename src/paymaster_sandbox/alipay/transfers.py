"""Money out: transfers to accounts and to bank cards.

A transfer to an account is through at once, one to a card takes a while and may come back days
later. The customer's number protects it: the same number with the same content is the same
transfer, with other content it is refused, and another number pays again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any, Final

from paymaster_sandbox.alipay import trouble
from paymaster_sandbox.alipay.apps import App, Apps, Call, balance_name, number, user_name
from paymaster_sandbox.alipay.orders import Order, Payee, read_order
from paymaster_sandbox.alipay.wire import BEIJING, CNY, beijing, missing, refused, yuan
from paymaster_sandbox.chassis import faults, journal, ledger, oracle
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import microseconds, moment
from paymaster_sandbox.chassis.schedule import Schedule
from paymaster_sandbox.chassis.store import Tx

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS alipay_transfer (
    seq INTEGER PRIMARY KEY, app_id TEXT NOT NULL, out_biz_no TEXT NOT NULL,
    order_id TEXT NOT NULL UNIQUE, fund_id TEXT NOT NULL UNIQUE, product TEXT NOT NULL,
    scene TEXT NOT NULL, content TEXT NOT NULL, payee TEXT NOT NULL, shown TEXT NOT NULL,
    amount INTEGER NOT NULL, fee INTEGER NOT NULL, title TEXT NOT NULL, status TEXT NOT NULL,
    error TEXT, reason TEXT, created INTEGER NOT NULL, paid INTEGER, plan TEXT NOT NULL,
    plan_code TEXT, plan_after INTEGER NOT NULL, UNIQUE (app_id, out_biz_no)
);
CREATE INDEX IF NOT EXISTS alipay_transfer_day ON alipay_transfer (app_id, created);
CREATE INDEX IF NOT EXISTS alipay_transfer_payee ON alipay_transfer (payee, created);
"""

PAID: Final = """
    SELECT payee, out_biz_no AS reference, 'CNY' AS currency, amount, status = 'REFUND' AS back
    FROM alipay_transfer WHERE status IN ('SUCCESS', 'REFUND')
"""
"""One row for each time that a payee was given money, in the shape of `truth.books`."""

_COLUMNS: Final = (
    "app_id, out_biz_no, order_id, fund_id, product, scene, content, payee, shown, amount, fee,"
    " title, status, error, reason, created, paid, plan, plan_code, plan_after"
)
_UNVERIFIED_DAY: Final = 100_000
_MOST: Final = 10_000_000_000
_LEAST: Final = 10


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer as the books have it."""

    app_id: str
    out_biz_no: str
    order_id: str
    fund_id: str
    product: str
    scene: str
    content: str
    payee: str
    shown: str
    amount: int
    fee: int
    title: str
    status: str
    error: str | None
    reason: str | None
    created: int
    paid: int | None
    plan: str
    plan_code: str | None
    plan_after: int

    @property
    def account(self) -> str:
        """Where the money goes in the double-entry books."""
        return user_name(self.payee)


Tell = Callable[[Tx, Transfer], None]


class Transfers:
    """Every change to transfers. `tell` announces one whose state is new."""

    def __init__(self, chassis: Chassis, schedule: Schedule, apps: Apps, tell: Tell) -> None:
        self._chassis = chassis
        self._schedule = schedule
        self._apps = apps
        self._tell = tell
        schedule.handle("alipay.settle", self._settle)
        schedule.handle("alipay.return", self._give_back)

    def transfer(self, tx: Tx, call: Call) -> dict[str, object]:
        """Pay, or say again what became of it (`alipay.fund.trans.uni.transfer`)."""
        order = read_order(call)
        known = self.find(tx, call.app.app_id, "out_biz_no", order.out_biz_no)
        if known is not None:
            return _answer(_same(known, order))
        call.needs(order.needs)
        payee = self._payee(tx, call.app, order)
        self._check_limits(tx, call.app, order, payee)
        fee = call.app.options.bank_fee if payee.card else 0
        if self._apps.balance(tx, call.app.app_id) < order.amount + fee:
            raise refused("PAYER_BALANCE_NOT_ENOUGH", "余额不足 请充值后重试")
        return _answer(self._take(tx, call.app, order, payee, fee))

    def query(self, tx: Tx, call: Call) -> dict[str, object]:
        """What became of a transfer (`alipay.fund.trans.common.query`)."""
        fields = call.fields
        by = next(
            (name for name in ("order_id", "pay_fund_order_id", "out_biz_no") if fields.get(name)),
            None,
        )
        if by is None:
            raise missing("out_biz_no")
        if by == "out_biz_no" and not (fields.get("product_code") and fields.get("biz_scene")):
            raise missing("product_code")
        column = {"pay_fund_order_id": "fund_id"}.get(by, by)
        found = self.find(tx, call.app.app_id, column, str(fields[by]))
        visible = tx.now - trouble.setting(tx, "not_found_lag_seconds")
        strange = found is not None and by == "out_biz_no" and (
            fields["product_code"] != found.product or fields["biz_scene"] != found.scene
        )  # fmt: skip
        if found is None or strange or found.created > visible:
            raise refused("ORDER_NOT_EXIST", "转账订单不存在")
        return self._shown(tx, found)

    def account(self, tx: Tx, call: Call) -> dict[str, object]:
        """The customer's own balance (`alipay.fund.account.query`)."""
        fields, app = call.fields, call.app
        if fields.get("account_type", "ACCTRANS_ACCOUNT") != "ACCTRANS_ACCOUNT":
            raise refused("NO_PERMISSION_ACCOUNT", "账户类型不支持")
        if not fields.get("alipay_user_id") and not fields.get("alipay_open_id"):
            raise missing("alipay_user_id")
        if fields.get("alipay_user_id", app.seller_id) != app.seller_id:
            raise refused("NO_PERMISSION_ACCOUNT", "没有该账户的查询权限")
        short = 100 if trouble.setting(tx, "balance_short") else 0
        available = yuan(max(0, self._apps.balance(tx, app.app_id) - short))
        frozen = yuan(ledger.balance(tx, _transit(app.app_id)))
        return {"available_amount": available, "freeze_amount": frozen}

    def quota(self, tx: Tx, call: Call) -> dict[str, object]:
        """What may still be transferred today (`alipay.fund.quota.query`)."""
        left = call.app.options.day_limit - self._today(tx, "app_id", call.app.app_id)
        return {
            "to_private_daily_available_amount": yuan(max(0, left)),
            "to_corporate_daily_available_amount": yuan(max(0, left)),
        }

    def find(self, tx: Tx, app_id: str, column: str, value: str) -> Transfer | None:
        """A customer's transfer by one of its three numbers."""
        assert column in ("out_biz_no", "order_id", "fund_id")
        row = tx.one(
            f"SELECT {_COLUMNS} FROM alipay_transfer WHERE app_id = ? AND {column} = ?",  # noqa: S608 - one of three words
            app_id, value,
        )  # fmt: skip
        return None if row is None else Transfer(*row)

    def newest(self, tx: Tx, limit: int) -> list[Transfer]:
        """The newest transfers of all customers."""
        rows = tx.all(
            f"SELECT {_COLUMNS} FROM alipay_transfer ORDER BY seq DESC LIMIT ?",  # noqa: S608 - constant
            limit,
        )
        return [Transfer(*row) for row in rows]

    def bounce(self, tx: Tx, transfer: Transfer, code: str | None) -> bool:
        """The payee's bank sends a paid transfer back now; False if it is not one."""
        if transfer.status != "SUCCESS":
            return False
        tx.run(
            "UPDATE alipay_transfer SET plan_code = ? WHERE order_id = ?", code, transfer.order_id
        )
        self._give_back(tx, transfer.order_id)
        return True

    def _payee(self, tx: Tx, app: App, order: Order) -> Payee:
        """Who is paid. Raises ProblemError."""
        if order.identity_type == "BANKCARD_ACCOUNT":
            payee = Payee(order.identity, card=True, verified=True)
        else:
            user = {
                "ALIPAY_USER_ID": lambda: self._apps.user(tx, order.identity),
                "ALIPAY_LOGON_ID": lambda: self._apps.by_logon(tx, order.identity),
                "ALIPAY_OPEN_ID": lambda: self._apps.by_open_id(tx, app.app_id, order.identity),
            }[order.identity_type]()
            if user is None:
                raise refused("PAYEE_NOT_EXIST", "收款账号不存在")
            if order.name and order.name != user.name:
                raise refused("PAYEE_USER_INFO_ERROR", "支付宝账号和姓名不匹配")
            if user.blocked:
                raise refused("BLOCK_USER_FORBBIDEN_RECIEVE", "账户异常被冻结 无法收款")
            payee = Payee(user.user_id, card=False, verified=user.verified)
        fates = oracle.ask(tx, payee.key)
        for outcome in ("closed", "reject"):
            if outcome in fates:
                code = fates[outcome].code if outcome == "reject" else "PAYEE_NOT_EXIST"
                raise refused(
                    code or "PERMIT_CHECK_PERM_LIMITED", "收款方不能收款",
                    _fulfilling(payee.key, outcome),
                )  # fmt: skip
        return payee

    def _check_limits(self, tx: Tx, app: App, order: Order, payee: Payee) -> None:
        limits = app.options
        if order.amount < _LEAST:
            raise refused("EXCEED_LIMIT_SM_MIN_AMOUNT", "金额低于最小限额")
        if order.amount > _MOST:
            raise refused("EXCEED_LIMIT_SM_AMOUNT", "金额超过单笔限额")
        if order.amount > limits.single_limit:
            raise refused("EXCEED_LIMIT_PERSONAL_SM_AMOUNT", "转账给个人支付宝账户单笔最多限额")
        if self._today(tx, "app_id", app.app_id) + order.amount > limits.day_limit:
            raise refused("EXCEED_LIMIT_DM_AMOUNT", "日累计额度超限")
        received = self._today(tx, "payee", payee.key) + order.amount
        if not payee.verified and received > _UNVERIFIED_DAY:
            raise refused("EXCEED_LIMIT_UNRN_DM_AMOUNT", "收款账户未实名认证 超过单日收款限额")
        if received > limits.payee_day_limit:
            raise refused("EXCEED_LIMIT_DC_RECEIVED", "收款方单日收款笔数或金额超限")

    def _today(self, tx: Tx, column: str, value: str) -> int:
        assert column in ("app_id", "payee")
        today = (
            moment(tx.now).astimezone(BEIJING).replace(hour=0, minute=0, second=0, microsecond=0)
        )
        return int(
            tx.value(
                "SELECT coalesce(sum(amount), 0) FROM alipay_transfer"  # noqa: S608 - two words
                f" WHERE {column} = ? AND created >= ? AND status <> 'FAIL'",
                value, microseconds(today),
            )
        )  # fmt: skip

    def _take(self, tx: Tx, app: App, order: Order, payee: Payee, fee: int) -> Transfer:
        """Write the transfer down, and take its money."""
        fates = oracle.ask(tx, payee.key)
        fate = next((fates[name] for name in ("fail", "return") if name in fates), None)
        slow = fates.get("slow")
        for used in (fate, slow):
            if used is not None:
                oracle.fulfil(tx, payee.key, used.outcome)
        plan = fate.outcome if fate else "pay"
        wait = trouble.setting(tx, "late_seconds") + (slow.after if slow else 0)
        if payee.card:
            wait += faults.setting(tx, "paid_after_seconds")
        if plan == "fail" and fate is not None:
            wait = max(wait, fate.after, 1)
        made = Transfer(
            app.app_id, order.out_biz_no, number(tx, self._chassis, "order"),
            number(tx, self._chassis, "fund"), order.product, order.scene, order.content,
            payee.key, order.identity, order.amount, fee, order.title, "DEALING", None, None,
            tx.now, None, plan, fate.code if fate else None, fate.after if fate else 0,
        )  # fmt: skip
        values = astuple(made)
        marks = ", ".join("?" * len(values))
        tx.run(f"INSERT INTO alipay_transfer ({_COLUMNS}) VALUES ({marks})", *values)  # noqa: S608 - constant
        self._book(tx, made, -order.amount, "转账")
        if fee:
            self._book(tx, made, -fee, "收费", f"alipay/{app.app_id}/fees")
        if wait:
            self._schedule.put(tx, "alipay.settle", made.order_id, wait)
        else:
            self._settle(tx, made.order_id)
        journal.note(tx, "alipay.transfer", order=made.order_id, out_biz_no=made.out_biz_no)
        found = self.find(tx, app.app_id, "order_id", made.order_id)
        assert found is not None
        return found

    def _settle(self, tx: Tx, order_id: str) -> None:
        """A transfer that is being dealt with gets through, or does not."""
        made = self._get(tx, order_id)
        if made.plan == "fail":
            self._book(tx, made, made.amount, "转账退回")
            if made.fee:
                self._book(tx, made, made.fee, "收费退回", f"alipay/{made.app_id}/fees")
            self._set(tx, made, "FAIL", made.plan_code or "PAYEE_CARD_INFO_ERROR", "收款方信息有误")
            return
        ledger.move(
            tx, _transit(made.app_id), made.account, made.amount, CNY, reason="transfer",
            subject=order_id,
        )  # fmt: skip
        tx.run("UPDATE alipay_transfer SET paid = ? WHERE order_id = ?", tx.now, order_id)
        self._set(tx, made, "SUCCESS", None, None)
        if made.plan == "return":
            self._schedule.put(tx, "alipay.return", order_id, made.plan_after)

    def _give_back(self, tx: Tx, order_id: str) -> None:
        """The money was there, and comes back."""
        made = self._get(tx, order_id)
        if made.status != "SUCCESS":
            return
        self._book(tx, made, made.amount, "转账退回", made.account)
        self._set(tx, made, "REFUND", made.plan_code or "PAYEE_CARD_REFUND", "银行退票")

    def _set(
        self, tx: Tx, made: Transfer, status: str, error: str | None, reason: str | None
    ) -> None:
        tx.run(
            "UPDATE alipay_transfer SET status = ?, error = ?, reason = ? WHERE order_id = ?",
            status, error, reason, made.order_id,
        )  # fmt: skip
        self._tell(tx, self._get(tx, made.order_id))

    def _book(self, tx: Tx, made: Transfer, amount: int, kind: str, other: str = "") -> None:
        self._apps.book(
            tx, made.app_id, amount, kind, other or _transit(made.app_id), order_no=made.order_id,
            merchant_no=made.out_biz_no, shown=made.shown, title=made.title,
        )  # fmt: skip

    def _get(self, tx: Tx, order_id: str) -> Transfer:
        row = tx.one(f"SELECT {_COLUMNS} FROM alipay_transfer WHERE order_id = ?", order_id)  # noqa: S608 - constant
        assert row is not None
        return Transfer(*row)

    def _shown(self, tx: Tx, made: Transfer) -> dict[str, object]:
        shown: dict[str, Any] = {
            "order_id": made.order_id,
            "pay_fund_order_id": made.fund_id,
            "out_biz_no": made.out_biz_no,
            "trans_amount": yuan(made.amount),
            "order_fee": yuan(made.fee),
            "status": made.status,
        }
        if made.paid is not None:
            shown["pay_date"] = beijing(made.paid)
        if made.error is not None:
            shown |= {"error_code": made.error, "fail_reason": made.reason}
        if self._apps.user(tx, made.payee) is not None:
            shown["receiver_open_id"] = self._apps.open_id(tx, made.app_id, made.payee)
        return shown


def _fulfilling(payee: str, outcome: str) -> Callable[[Tx], None]:
    return lambda tx: oracle.fulfil(tx, payee, outcome)


def _transit(app_id: str) -> str:
    return balance_name(app_id).replace("/balance", "/transit")


def _same(known: Transfer, order: Order) -> Transfer:
    """The transfer of that number, if it is this one. Raises ProblemError."""
    if (known.product, known.scene) != (order.product, order.scene):
        raise refused("BIZ_UNIQUE_EXCEPTION", "同一笔业务单号重复 参数不一致")
    if known.content != order.content:
        raise refused("PAYMENT_INFO_INCONSISTENCY", "两次请求商户单号一样 但是参数不一致")
    return known


def _answer(made: Transfer) -> dict[str, object]:
    answer: dict[str, object] = {
        "out_biz_no": made.out_biz_no,
        "order_id": made.order_id,
        "pay_fund_order_id": made.fund_id,
        "status": made.status,
        "trans_date": beijing(made.created),
    }
    return answer
