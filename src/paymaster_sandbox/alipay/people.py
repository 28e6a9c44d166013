"""The provider's own pages: where a person agrees to an app, or pays an order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from paymaster_sandbox.alipay.apps import App, Apps
from paymaster_sandbox.alipay.bills import Bills
from paymaster_sandbox.alipay.gateway import PAGE, Gateway
from paymaster_sandbox.alipay.oauth import SCOPES, OAuth
from paymaster_sandbox.alipay.ring import Ring
from paymaster_sandbox.alipay.signing import canonical
from paymaster_sandbox.alipay.trades import SUCCESS, Trade, Trades
from paymaster_sandbox.alipay.wire import ProblemError, beijing, yuan
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.store import Tx
from paymaster_sandbox.markup import Pages, form

_AGREE: Final = """
<p>The app <strong>{{ app_id }}</strong> asks who you are ({{ scope }}). Who agrees?</p>
{% for user in users %}
<form method="post" action="{{ action }}">
<input type="hidden" name="user" value="{{ user.user_id }}">
<button>{{ user.name }} ({{ user.logon_id }})</button>
</form>
{% else %}
<p>Nobody has an account here yet: open one with <code>POST /_control/alipay/users</code>.</p>
{% endfor %}
"""
_ORDER: Final = """
<p>{{ trade.subject }}: <strong>{{ amount }} CNY</strong>, order {{ trade.out_trade_no }},
now {{ trade.status }}.</p>
{% if payable %}
{% for user in users %}
<form method="post" action="/pay/{{ trade.token }}">
<input type="hidden" name="user" value="{{ user.user_id }}">
<button>Pay as {{ user.name }} ({{ user.logon_id }})</button>
</form>
{% else %}
<p>Nobody has an account here yet: open one with <code>POST /_control/alipay/users</code>.</p>
{% endfor %}
<form method="post" action="/pay/{{ trade.token }}">
<input type="hidden" name="look" value="1"><button>Look only, and leave</button>
</form>
{% endif %}
"""
_MESSAGE: Final = "<p>{{ message }}</p>"
_UNSIGNED: Final = frozenset({"sign", "sign_type"})


class People:
    """The pages, and the files that are fetched without a signature."""

    def __init__(
        self, chassis: Chassis, apps: Apps, ring: Ring, oauth: OAuth, trades: Trades, bills: Bills
    ) -> None:
        self._chassis = chassis
        self._apps = apps
        self._ring = ring
        self._oauth = oauth
        self._trades = trades
        self._bills = bills
        self._pages = Pages(agree=_AGREE, order=_ORDER, message=_MESSAGE)

    def routes(self) -> list[Route]:
        """The pages' addresses."""
        authorize = "/oauth2/publicAppAuthorize.htm"
        return [
            Route(authorize, self._authorize, methods=["GET", "POST"]),
            Route("/qr/{token}", self._code, methods=["GET"]),
            Route("/pay/{token}", self._pay, methods=["POST"]),
            Route("/bill/download", self._download, methods=["GET"]),
        ]

    async def page_pay(self, request: Request, gateway: Gateway) -> Response:
        """An app sent somebody's browser here to pay an order."""
        try:
            call = gateway.verified(request, await gateway.params(request))
            with self._chassis.tx() as tx:
                trade = self._trades.page(tx, call)
        except (ProblemError, ValueError) as problem:
            return self._message(str(problem), 400)
        return self._order(trade)

    async def _authorize(self, request: Request) -> Response:
        query = request.query_params
        with self._chassis.tx() as tx:
            app = self._apps.find(tx, query.get("app_id", ""))
            users = self._apps.users(tx)
        scope, target = query.get("scope", ""), query.get("redirect_uri", "")
        if app is None or not set(scope.split(",")) <= SCOPES or not _may_go(app, target):
            return self._message("app_id, scope or redirect_uri is wrong", 400)
        chosen = query.get("user", "")
        if request.method == "POST":
            chosen = (await form(request)).get("user", "")
            if not chosen:
                return self._message("nobody was chosen on this page", 403)
        if not chosen:
            action = f"{request.url.path}?{request.url.query}"
            return self._pages.show(
                "agree", "Alipay sandbox: authorisation", app_id=app.app_id, scope=scope,
                users=users, action=action,
            )  # fmt: skip
        if chosen not in {user.user_id for user in users}:
            return self._message("there is no such user", 400)
        with self._chassis.tx() as tx:
            code = self._oauth.agree(tx, app, chosen, scope)
        back = {"app_id": app.app_id, "source": "alipay_wallet", "scope": scope}
        if query.get("state"):
            back["state"] = query["state"]
        return RedirectResponse(_with(target, {**back, "auth_code": code}), 302)

    async def _code(self, request: Request) -> Response:
        with self._chassis.tx() as tx:
            trade = self._trades.by_token(tx, request.path_params["token"])
        return self._message("no such code", 404) if trade is None else self._order(trade)

    async def _pay(self, request: Request) -> Response:
        filled = await form(request)
        chosen = filled.get("user", "")
        if not filled:
            return self._message("nothing was chosen on this page", 403)
        with self._chassis.tx() as tx:
            trade = self._trades.by_token(tx, request.path_params["token"])
            if trade is None:
                return self._message("no such order", 404)
            user = self._apps.user(tx, chosen)
            trade = self._trades.open(tx, trade)
            paid = user is not None and self._trades.pay(tx, trade, user)
            trade = self._trades.by_token(tx, trade.token) or trade
            back = self._return(tx, trade) if paid and trade.return_url else None
        if back is not None:
            return RedirectResponse(back, 303)
        if chosen and not paid:
            return self._message(f"the order cannot be paid: {trade.status}", 409)
        return self._message("paid" if paid else f"the order is now {trade.status}")

    async def _download(self, request: Request) -> Response:
        with self._chassis.tx() as tx:
            found = self._bills.file(tx, request.query_params.get("token", ""))
        if found is None:
            return Response("bill download url expired", 403, media_type="text/plain")
        return Response(found, media_type="application/zip")

    def _order(self, trade: Trade) -> Response:
        with self._chassis.tx() as tx:
            users = self._apps.users(tx)
        return self._pages.show(
            "order", "Alipay sandbox: order", trade=trade, amount=yuan(trade.total), users=users,
            payable=trade.status in ("ANNOUNCED", "WAIT_BUYER_PAY"),
        )  # fmt: skip

    def _message(self, message: str, status: int = 200) -> Response:
        return self._pages.show("message", "Alipay sandbox", status, message=message)

    def _return(self, tx: Tx, trade: Trade) -> str:
        """Where the payer's browser goes afterwards, with a signed word that is no proof."""
        assert trade.status == SUCCESS
        app = self._apps.find(tx, trade.app_id)
        assert app is not None
        params = {
            "app_id": trade.app_id,
            "auth_app_id": trade.app_id,
            "charset": trade.charset,
            "method": f"{PAGE}.return",
            "out_trade_no": trade.out_trade_no,
            "seller_id": app.seller_id,
            "timestamp": beijing(tx.now),
            "total_amount": yuan(trade.total),
            "trade_no": trade.trade_no,
            "version": "1.0",
        }
        signature, _ = self._ring.sign(
            tx, canonical(params, without=_UNSIGNED).encode(trade.charset)
        )
        return _with(trade.return_url, {**params, "sign_type": "RSA2", "sign": signature})


def _may_go(app: App, target: str) -> bool:
    if app.options.redirect_uris:
        return target in app.options.redirect_uris
    return urlsplit(target).scheme in ("http", "https")


def _with(url: str, params: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(params)}"
