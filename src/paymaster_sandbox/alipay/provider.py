"""The provider put together: one application of its own, controls, and its part of the truth."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paymaster_sandbox.alipay import (
    apps,
    bills,
    notices,
    oauth,
    refunds,
    rest,
    ring,
    trades,
    transfers,
)
from paymaster_sandbox.alipay.apps import Apps, Call, balance_name
from paymaster_sandbox.alipay.bills import Bills
from paymaster_sandbox.alipay.certificates import Certificates
from paymaster_sandbox.alipay.control import Control
from paymaster_sandbox.alipay.desk import Desk, Handler
from paymaster_sandbox.alipay.gateway import PAGE, Gateway
from paymaster_sandbox.alipay.notices import Notices
from paymaster_sandbox.alipay.oauth import OAuth
from paymaster_sandbox.alipay.people import People
from paymaster_sandbox.alipay.refunds import Refunds
from paymaster_sandbox.alipay.rest import Rest
from paymaster_sandbox.alipay.ring import Ring
from paymaster_sandbox.alipay.trades import Trade, Trades
from paymaster_sandbox.alipay.transfers import Transfer, Transfers
from paymaster_sandbox.alipay.trouble import Troubles
from paymaster_sandbox.alipay.wire import beijing, refused, text, yuan
from paymaster_sandbox.chassis import ledger
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.notify import Courier
from paymaster_sandbox.chassis.schedule import Schedule
from paymaster_sandbox.chassis.store import Tx

_REST = (
    ("POST", "/v3/alipay/fund/trans/uni/transfer", "alipay.fund.trans.uni.transfer"),
    ("GET", "/v3/alipay/fund/trans/common/query", "alipay.fund.trans.common.query"),
    ("GET", "/v3/alipay/fund/account/query", "alipay.fund.account.query"),
    ("GET", "/v3/alipay/fund/quota/query", "alipay.fund.quota.query"),
    ("POST", "/v3/alipay/system/oauth/token", "alipay.system.oauth.token"),
    ("GET", "/v3/alipay/data/bill/accountlog/query", "alipay.data.bill.accountlog.query"),
    (
        "GET",
        "/v3/alipay/data/dataservice/bill/downloadurl/query",
        "alipay.data.dataservice.bill.downloadurl.query",
    ),
    ("POST", "/v3/alipay/trade/precreate", "alipay.trade.precreate"),
    ("POST", "/v3/alipay/trade/query", "alipay.trade.query"),
    ("POST", "/v3/alipay/trade/close", "alipay.trade.close"),
    ("POST", "/v3/alipay/trade/refund", "alipay.trade.refund"),
    ("POST", "/v3/alipay/trade/fastpay/refund/query", "alipay.trade.fastpay.refund.query"),
    ("GET", "/v3/alipay/open/app/alipaycert/download", "alipay.open.app.alipaycert.download"),
)


class Alipay:
    """Everything of the provider. Keys are made at the first need, so that it is cheap to have."""

    SCHEMAS: ClassVar[tuple[str, ...]] = (
        apps.SCHEMA,
        bills.SCHEMA,
        notices.SCHEMA,
        oauth.SCHEMA,
        refunds.SCHEMA,
        rest.SCHEMA,
        ring.SCHEMA,
        trades.SCHEMA,
        transfers.SCHEMA,
    )

    def __init__(
        self, chassis: Chassis, schedule: Schedule, courier: Courier, data: Path
    ) -> None:  # fmt: skip
        self.chassis = chassis
        troubles = Troubles(chassis.seed)
        self.ring = Ring(Certificates(data / "alipay"), chassis.seed)
        self.apps = Apps(chassis, troubles)
        self.oauth = OAuth(self.apps)
        self.bills = Bills(self.apps)
        self._notices = Notices(chassis, courier, self.apps, self.ring, troubles)
        self.transfers = Transfers(chassis, schedule, self.apps, self._tell_transfer)
        self.trades = Trades(chassis, schedule, self.apps, self._tell_trade)
        self.refunds = Refunds(self.apps, self.trades)
        self._desk = Desk(chassis, troubles, self._handlers())
        self._gateway = Gateway(chassis, self.apps, self.ring, self._desk)
        self._rest = Rest(chassis, self.apps, self.ring, self._desk, self._gateway)
        self._people = People(
            chassis, self.apps, self.ring, self.oauth, self.trades, self.bills
        )  # fmt: skip
        self.app = Starlette(routes=self._routes())

    def control_routes(self) -> list[Route]:
        """The paths under `/_control/alipay`."""
        return Control(self).routes()

    def truth(self, tx: Tx) -> dict[str, Any]:
        """What the books of each customer say, in fen."""
        return {app_id: self._truth(tx, app_id) for (app_id,) in tx.all(
            "SELECT app_id FROM alipay_app ORDER BY app_id"
        )}  # fmt: skip

    def _truth(self, tx: Tx, app_id: str) -> dict[str, Any]:
        row = tx.one("SELECT opening FROM alipay_app WHERE app_id = ?", app_id)
        assert row is not None
        paid = tx.all(
            "SELECT status, count(*), sum(amount) FROM alipay_transfer WHERE app_id = ?"
            " GROUP BY status",
            app_id,
        )
        received = tx.one(
            "SELECT coalesce(sum(total), 0), coalesce(sum(refunded), 0) FROM alipay_trade"
            " WHERE app_id = ? AND paid IS NOT NULL",
            app_id,
        )
        assert received is not None
        return {
            "opening_minor": row[0],
            "balance_minor": ledger.balance(tx, balance_name(app_id)),
            "transfers": {status: count for status, count, _ in paid},
            "transfers_minor": {status: total for status, _, total in paid},
            "received_minor": received[0],
            "refunded_minor": received[1],
        }

    def _handlers(self) -> dict[str, Handler]:
        return {
            "alipay.fund.trans.uni.transfer": self.transfers.transfer,
            "alipay.fund.trans.common.query": self.transfers.query,
            "alipay.fund.account.query": self.transfers.account,
            "alipay.fund.quota.query": self.transfers.quota,
            "alipay.system.oauth.token": self.oauth.token,
            "alipay.data.bill.accountlog.query": self.bills.log,
            "alipay.data.dataservice.bill.downloadurl.query": self.bills.address,
            "alipay.trade.precreate": self.trades.precreate,
            "alipay.trade.query": self.trades.query,
            "alipay.trade.close": self.trades.close,
            "alipay.trade.refund": self.refunds.refund,
            "alipay.trade.fastpay.refund.query": self.refunds.query,
            "alipay.open.app.alipaycert.download": self._certificate,
        }

    def _certificate(self, tx: Tx, call: Call) -> dict[str, object]:
        """One of the provider's certificates (`alipay.open.app.alipaycert.download`)."""
        found = self.ring.pem(tx, text(call.fields, "alipay_cert_sn", 128))
        if found is None:
            raise refused("CERT_NOT_EXIST", "证书不存在")
        return {"alipay_cert_content": found}

    def _routes(self) -> list[Route]:
        return [
            Route("/gateway.do", self._at_gateway, methods=["GET", "POST"]),
            *(
                Route(path, self._at_rest(method), methods=[verb])
                for verb, path, method in _REST
            ),
            *self._people.routes(),
        ]  # fmt: skip

    async def _at_gateway(self, request: Request) -> Response:
        try:
            paying = (await self._gateway.params(request)).get("method") == PAGE
        except ValueError:
            paying = False
        if paying:
            return await self._people.page_pay(request, self._gateway)
        return await self._gateway.call(request)

    def _at_rest(self, method: str) -> Callable[[Request], Awaitable[Response]]:
        async def call(request: Request) -> Response:
            return await self._rest.call(request, method)

        return call

    def _tell_transfer(self, tx: Tx, transfer: Transfer) -> None:
        content = {
            "out_biz_no": transfer.out_biz_no,
            "order_id": transfer.order_id,
            "pay_fund_order_id": transfer.fund_id,
            "product_code": transfer.product,
            "biz_scene": transfer.scene,
            "origin_interface": "alipay.fund.trans.uni.transfer",
            "status": transfer.status,
            "action_type": "FINISH",
            "trans_amount": yuan(transfer.amount),
        }
        if transfer.paid is not None:
            content["pay_date"] = beijing(transfer.paid)
        if transfer.error is not None:
            content |= {"error_code": transfer.error, "fail_reason": transfer.reason or ""}
        self._notices.message(tx, transfer.app_id, "alipay.fund.trans.order.changed", content)

    def _tell_trade(self, tx: Tx, trade: Trade, more: dict[str, str]) -> None:
        """Tell of a trade, also of one that is closed unpaid; one nobody opened is no trade."""
        if not trade.notify_url:
            return
        app = self.apps.find(tx, trade.app_id)
        assert app is not None
        about = {
            "app_id": trade.app_id,
            "seller_id": app.seller_id,
            "out_trade_no": trade.out_trade_no,
            "trade_no": trade.trade_no,
            "trade_status": trade.status,
            "subject": trade.subject,
            "total_amount": yuan(trade.total),
            "gmt_create": beijing(trade.created),
            **more,
        }
        if trade.paid is not None and trade.buyer is not None:
            paid = yuan(trade.total)
            about |= {
                "receipt_amount": paid,
                "buyer_pay_amount": paid,
                "gmt_payment": beijing(trade.paid),
                "buyer_open_id": self.apps.open_id(tx, trade.app_id, trade.buyer),
            }
        if trade.passback:
            about["passback_params"] = trade.passback
        self._notices.trade(tx, trade.notify_url, trade.charset, about)
