"""The knobs of this provider, under `/_control/alipay`. No key, this machine only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from starlette.routing import Route

from paymaster_sandbox.alipay import trouble
from paymaster_sandbox.alipay.apps import PRODUCTS, ConflictError, Options, User
from paymaster_sandbox.alipay.orders import SCENES
from paymaster_sandbox.chassis import faults
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.http import Endpoint, allow_queries, answer, guarded, loopback, read
from paymaster_sandbox.wallet.wire import ApiError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from paymaster_sandbox.alipay.provider import Alipay

Fen = Annotated[int, msgspec.Meta(ge=0, le=10**13)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
_APP_ID: Final = re.compile(r"20[0-9]{14}")
_USER_ID: Final = re.compile(r"2088[0-9]{12}")


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A body whose unknown fields are refused."""


class AppBody(_Strict, frozen=True, kw_only=True):
    """A customer. Either its certificate, or a request from which one is made. Amounts in fen."""

    app_id: str
    seller_id: str
    certificate: str | None = None
    request: str | None = None
    opening_minor: Fen = 0
    products: list[str] = msgspec.field(default_factory=lambda: sorted(PRODUCTS))
    gateway_url: str | None = None
    ips: list[str] = []
    redirect_uris: list[str] = []
    scenes: list[str] = []
    open_id_only: bool = False
    public_key_mode: bool = False
    single_limit_minor: Fen = 5_000_000
    day_limit_minor: Fen = 50_000_000
    payee_day_limit_minor: Fen = 20_000_000
    bank_fee_minor: Fen = 0
    pay_fee_basis_points: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 60


class UserBody(_Strict, frozen=True, kw_only=True):
    """Somebody with an account."""

    user_id: str
    logon_id: str
    name: str
    verified: bool = True
    blocked: bool = False
    app_id: str | None = None


class TopUpBody(_Strict, frozen=True, kw_only=True):
    """A customer's own money."""

    app_id: str
    amount_minor: Annotated[int, msgspec.Meta(ge=1, le=10**13)]


class PayBody(_Strict, frozen=True, kw_only=True):
    """A person pays an order, or with no `user_id` only opens it."""

    app_id: str
    out_trade_no: str
    user_id: str | None = None


class AgreeBody(_Strict, frozen=True, kw_only=True):
    """A person agrees to an app."""

    app_id: str
    user_id: str
    scope: str = "auth_base"


class ReturnBody(_Strict, frozen=True, kw_only=True):
    """A paid transfer comes back."""

    app_id: str
    out_biz_no: str
    code: str | None = None


class Control:
    """The control routes of the provider."""

    def __init__(self, provider: Alipay) -> None:
        self._provider = provider

    def routes(self) -> list[Route]:
        """The paths under `/_control/alipay`."""

        def route(path: str, endpoint: Endpoint, method: str = "POST") -> Route:
            return Route(
                f"/_control/alipay{path}", guarded(loopback(endpoint)), methods=[method]
            )  # fmt: skip

        return [
            route("/apps", self._app),
            route("/users", self._user),
            route("/top-up", self._top_up),
            route("/pay", self._pay),
            route("/agree", self._agree),
            route("/return", self._return),
            route("/rotate", self._rotate),
            route("/faults", self._faults),
            route("/faults", self._read_faults, "GET"),
        ]

    async def _app(self, request: Request) -> Response:
        body = await read(request, AppBody)
        if _APP_ID.fullmatch(body.app_id) is None or _USER_ID.fullmatch(body.seller_id) is None:
            raise _wrong("app_id is 20 and 14 digits, seller_id 2088 and 12 digits")
        if (body.certificate is None) == (body.request is None):
            raise _wrong("one of certificate and request is needed")
        if not set(body.products) <= PRODUCTS or not set(body.scenes) <= set(SCENES):
            raise _wrong(f"products are of {sorted(PRODUCTS)}, scenes of {sorted(SCENES)}")
        ring = self._provider.ring
        try:
            certificate = (
                body.certificate or ring.certificates.issue((body.request or "").encode()).decode()
            )
            with self._provider.chassis.tx() as tx:
                new = self._provider.apps.open(
                    tx, body.app_id, certificate, body.seller_id, body.opening_minor, _options(body)
                )
                alipay_certificate = ring.pem(tx)
        except ConflictError as error:
            raise ApiError(409, "conflict", str(error)) from error
        except ValueError as error:
            raise _wrong(str(error)) from error
        return answer(
            {
                "created": new,
                "app_certificate": certificate,
                "alipay_root_certificate": ring.certificates.roots.decode(),
                "alipay_certificate": alipay_certificate,
            },
            201 if new else 200,
        )

    async def _user(self, request: Request) -> Response:
        body = await read(request, UserBody)
        if _USER_ID.fullmatch(body.user_id) is None or not body.name or not body.logon_id:
            raise _wrong("user_id is 2088 and 12 digits; name and logon_id are needed")
        user = User(body.user_id, body.logon_id, body.name, body.verified, body.blocked)
        try:
            with self._provider.chassis.tx() as tx:
                new = self._provider.apps.add_user(tx, user)
                open_id = (
                    None
                    if body.app_id is None
                    else self._provider.apps.open_id(tx, body.app_id, body.user_id)
                )
        except ConflictError as error:
            raise ApiError(409, "conflict", str(error)) from error
        return answer({"created": new, "open_id": open_id}, 201 if new else 200)

    async def _top_up(self, request: Request) -> Response:
        body = await read(request, TopUpBody)
        with self._provider.chassis.tx() as tx:
            if self._provider.apps.find(tx, body.app_id) is None:
                raise _unknown("app")
            self._provider.apps.top_up(tx, body.app_id, body.amount_minor)
            balance = self._provider.apps.balance(tx, body.app_id)
        return answer({"balance_minor": balance})

    async def _pay(self, request: Request) -> Response:
        body = await read(request, PayBody)
        trades = self._provider.trades
        with self._provider.chassis.tx() as tx:
            trade = trades.find(tx, body.app_id, body.out_trade_no)
            if trade is None:
                raise _unknown("order")
            user = None
            if body.user_id is not None:
                user = self._provider.apps.user(tx, body.user_id)
                if user is None:
                    raise _unknown("user")
            trade = trades.open(tx, trade)
            paid = user is not None and trades.pay(tx, trade, user)
            after = trades.by_token(tx, trade.token)
        assert after is not None
        return answer({"paid": paid, "status": after.status})

    async def _agree(self, request: Request) -> Response:
        body = await read(request, AgreeBody)
        with self._provider.chassis.tx() as tx:
            app = self._provider.apps.find(tx, body.app_id)
            if app is None or self._provider.apps.user(tx, body.user_id) is None:
                raise _unknown("app or user")
            code = self._provider.oauth.agree(tx, app, body.user_id, body.scope)
        return answer({"auth_code": code})

    async def _return(self, request: Request) -> Response:
        body = await read(request, ReturnBody)
        transfers = self._provider.transfers
        with self._provider.chassis.tx() as tx:
            found = transfers.find(tx, body.app_id, "out_biz_no", body.out_biz_no)
            if found is None:
                raise _unknown("transfer")
            done = transfers.bounce(tx, found, body.code)
        return answer({"returned": done})

    async def _rotate(self, _request: Request) -> Response:
        with self._provider.chassis.tx() as tx:
            self._provider.ring.newest(tx)
            generation = self._provider.ring.rotate(tx)
            return answer({"generation": generation, "certificate": self._provider.ring.pem(tx)})

    async def _faults(self, request: Request) -> Response:
        """Knobs by name; `name@method` holds for one method, `chance_name` is in a thousand."""
        given = await read(request, dict[str, Count])
        values: dict[str, int] = {}
        for name, value in given.items():
            knob, at, _ = name.partition("@")
            bare = knob.removeprefix("chance_")
            if knob in trouble.SETTINGS and not at:
                scale = SECOND if knob.endswith("_seconds") else 1
            elif bare in trouble.COUNTERS and not (at and knob != bare):
                scale = 1
            else:
                raise _wrong(f"there is no knob {name}")
            values[f"{trouble.NAME}.{name}"] = value * scale
        with self._provider.chassis.tx() as tx:
            faults.arm(tx, values, None)
        return await self._read_faults(request)

    async def _read_faults(self, request: Request) -> Response:
        allow_queries(request)
        with self._provider.chassis.tx() as tx:
            stored = faults.current_of(tx, trouble.NAME)
        known: dict[str, Any] = {**dict.fromkeys(trouble.COUNTERS, 0), **trouble.SETTINGS, **stored}
        return answer(
            {
                "faults": {
                    name: value // SECOND if name.endswith("_seconds") else value
                    for name, value in known.items()
                }
            }
        )


def _options(body: AppBody) -> Options:
    return Options(
        products=tuple(body.products), gateway_url=body.gateway_url, ips=tuple(body.ips),
        redirect_uris=tuple(body.redirect_uris), scenes=tuple(body.scenes),
        open_id_only=body.open_id_only, public_key_mode=body.public_key_mode,
        single_limit=body.single_limit_minor, day_limit=body.day_limit_minor,
        payee_day_limit=body.payee_day_limit_minor, bank_fee=body.bank_fee_minor,
        pay_fee_basis_points=body.pay_fee_basis_points,
    )  # fmt: skip


def _wrong(message: str) -> ApiError:
    return ApiError(400, "invalid_request", message)


def _unknown(what: str) -> ApiError:
    return ApiError(404, "account_unknown", f"there is no such {what}")
