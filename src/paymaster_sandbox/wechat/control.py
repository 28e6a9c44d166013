"""The knobs of WeChat Pay, under `/_control/wechat`: for this machine only, without a key."""

from __future__ import annotations

from http.client import CONFLICT, NOT_FOUND
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from starlette.routing import Route

from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.http import Endpoint, allow_queries, answer, guarded, loopback, read
from paymaster_sandbox.wallet.wire import ApiError
from paymaster_sandbox.wechat import mishaps, parties, truth
from paymaster_sandbox.wechat.errors import V3Error, missing
from paymaster_sandbox.wechat.flow import Movement
from paymaster_sandbox.wechat.parties import Merchant, User

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.provider import Wechat

Fen = Annotated[int, msgspec.Meta(ge=0, le=10**13)]
Key = Annotated[str, msgspec.Meta(pattern="^[0-9A-Za-z]{32}$")]
Number = Annotated[str, msgspec.Meta(pattern="^[0-9]{8,10}$")]
Account = Literal["BASIC", "OPERATION", "FEES"]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A body whose unknown fields are refused."""


class MerchantBody(_Strict, frozen=True, kw_only=True):
    """A merchant; again with the same number, everything but its balances is written anew."""

    mchid: Number
    public_key: str
    apiv3_key: Key
    apiv2_key: Key
    appids: list[str]
    name: str = "Sandbox merchant"
    product: Literal["transfer-bills", "authorised", "batches", "transfers-v2"] = "transfer-bills"
    platform: Literal["certificate", "public-key", "both"] = "both"
    mixed_percent: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    addresses: list[str] | None = None
    account: Account = "OPERATION"
    notify_url: str | None = None
    least: Fen = 10
    most: Fen = 500_000_00
    payee_day: Fen = 20_000_00
    payee_day_count: int = 10
    merchant_day: Fen = 1_000_000_00
    scenes: list[str] | None = None
    balances: dict[Account, Fen] = {}


class UserBody(_Strict, frozen=True, kw_only=True):
    """A person in one app. Without an openid one is made; without a real name none is proven."""

    appid: str
    person: str
    openid: str | None = None
    real_name: str | None = None
    snapshot: bool = False
    behaviour: Literal["wait", "confirm", "refuse"] = "wait"


class AppBody(_Strict, frozen=True, kw_only=True):
    """An app's secret, for linking."""

    appid: str
    secret: str


class PersonBody(_Strict, frozen=True, kw_only=True):
    """Somebody."""

    person: str


class BalanceBody(_Strict, frozen=True, kw_only=True):
    """Money that comes to an account, or with `take` leaves it."""

    mchid: str
    fen: Fen
    account: Account = "OPERATION"
    take: bool = False


class MishapBody(_Strict, frozen=True, kw_only=True):
    """Something that will go wrong; `times` null: until it is taken away."""

    call: str
    kind: str
    times: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = 1
    percent: Annotated[int, msgspec.Meta(ge=0, le=100)] = 100
    text: str = ""
    number: int = 0
    seconds: Annotated[float, msgspec.Meta(ge=0, le=10_000_000)] = 0.0


class ActBody(_Strict, frozen=True, kw_only=True):
    """What the user does. A transfer may also be named by the merchant's own number."""

    kind: Literal["transfer", "authorization", "order"] = "transfer"
    act: Literal["confirm", "refuse", "pay", "withdraw"]
    id: str | None = None
    mchid: str | None = None
    reference: str | None = None
    reason: str | None = None


class RotateBody(_Strict, frozen=True, kw_only=True):
    """Which kind of key is replaced."""

    kind: Literal["certificate", "public-key"] = "certificate"


class Control:
    """The control routes of WeChat Pay."""

    def __init__(self, wechat: Wechat) -> None:
        self._wechat = wechat

    def routes(self) -> list[Route]:
        """The paths."""

        def route(path: str, endpoint: Endpoint, method: str) -> Route:
            guard = guarded(loopback(_translated(endpoint)))
            return Route(f"/_control/wechat{path}", guard, methods=[method])

        return [
            route("/merchants", self._merchant, "POST"),
            route("/merchants/{mchid}", self._read_merchant, "GET"),
            route("/users", self._user, "POST"),
            route("/apps", self._app, "POST"),
            route("/revoke", self._revoke, "POST"),
            route("/balances", self._balance, "POST"),
            route("/mishaps", self._arm, "POST"),
            route("/mishaps", self._armed, "GET"),
            route("/mishaps", self._disarm, "DELETE"),
            route("/settings", self._set, "POST"),
            route("/keys", self._rotate, "POST"),
            route("/waiting", self._waiting, "GET"),
            route("/act", self._act, "POST"),
            route("/books", self._books, "GET"),
        ]

    async def _merchant(self, request: Request) -> Response:
        body = await read(request, MerchantBody)
        with self._wechat.chassis.tx() as tx:
            kept = self._known(tx, body)
            made = parties.keep_merchant(tx, kept, body.appids)
            for account, fen in body.balances.items():
                if made and fen:
                    self._top_up(tx, body.mchid, account, fen)
            shown = self._shown(tx, kept)
        return answer({"created": made, **shown}, 201 if made else 200)

    def _known(self, tx: Tx, body: MerchantBody) -> Merchant:
        """The merchant as it is kept: the certificate stays as long as its key does."""
        old = parties.merchant(tx, body.mchid)
        if old is not None and old.public_key == body.public_key:
            serial, certificate = old.serial, old.certificate
        else:
            try:
                serial, certificate = self._wechat.keys.issue_merchant(body.mchid, body.public_key)
            except ValueError as error:
                raise ApiError(400, "invalid_request", str(error)) from error
        given = msgspec.structs.asdict(body)
        kept = {name: value for name, value in given.items() if name not in ("appids", "balances")}
        return Merchant(serial=serial, certificate=certificate, **kept)

    async def _read_merchant(self, request: Request) -> Response:
        with self._wechat.chassis.tx() as tx:
            found = parties.merchant(tx, request.path_params["mchid"])
            if found is None:
                raise missing("there is no such merchant")
            return answer(self._shown(tx, found))

    def _shown(self, tx: Tx, merchant: Merchant) -> dict[str, object]:
        """What the merchant's owner finds on the provider's pages."""
        ring = self._wechat.platform.ring(tx, merchant)
        return {
            "mchid": merchant.mchid,
            "serial": merchant.serial,
            "certificate": merchant.certificate,
            "platform_keys": {
                serial: key.certificate or key.public_pem for serial, key in ring.items()
            },
            "balances_fen": {
                account: parties.balance(tx, merchant.mchid, account)
                for account in parties.ACCOUNTS
            },
        }

    def _top_up(self, tx: Tx, mchid: str, account: str, fen: int) -> None:
        number = self._wechat.flow.number(tx, "7")
        movement = Movement(
            mchid=mchid, account=account, amount=fen, kind="topup", business_no=number
        )
        self._wechat.flow.book(tx, movement, "wechat/outside")

    async def _user(self, request: Request) -> Response:
        body = await read(request, UserBody)
        with self._wechat.chassis.tx() as tx:
            old = parties.user_of(tx, body.appid, body.person)
            openid = body.openid or (old.openid if old else self._wechat.chassis.seed.id(tx, "oW"))
            union = tx.one("SELECT unionid FROM wechat_user WHERE person = ? LIMIT 1", body.person)
            unionid = union[0] if union else self._wechat.chassis.seed.id(tx, "oU")
            kept = User(
                openid, body.appid, body.person, body.real_name, unionid, body.snapshot,
                body.behaviour,
            )  # fmt: skip
            parties.keep_user(tx, kept)
        return answer({"openid": openid, "unionid": unionid})

    async def _app(self, request: Request) -> Response:
        body = await read(request, AppBody)
        with self._wechat.chassis.tx() as tx:
            tx.run(
                "INSERT OR REPLACE INTO wechat_secret (appid, secret) VALUES (?, ?)",
                body.appid, body.secret,
            )  # fmt: skip
        return answer({"appid": body.appid})

    async def _revoke(self, request: Request) -> Response:
        body = await read(request, PersonBody)
        with self._wechat.chassis.tx() as tx:
            return answer({"revoked": self._wechat.linking.revoke(tx, body.person)})

    async def _balance(self, request: Request) -> Response:
        body = await read(request, BalanceBody)
        with self._wechat.chassis.tx() as tx:
            if parties.merchant(tx, body.mchid) is None:
                raise missing("there is no such merchant")
            if body.fen:
                self._top_up(tx, body.mchid, body.account, -body.fen if body.take else body.fen)
            fen = parties.balance(tx, body.mchid, body.account)
        return answer({"fen": fen})

    async def _arm(self, request: Request) -> Response:
        body = await read(request, MishapBody)
        if body.kind not in mishaps.KINDS:
            raise ApiError(400, "invalid_request", f"kind is one of {sorted(mishaps.KINDS)}")
        number = round(body.seconds * SECOND) if body.seconds else body.number
        with self._wechat.chassis.tx() as tx:
            mishaps.arm(
                tx, body.call, body.kind, times=body.times, percent=body.percent, text=body.text,
                number=number,
            )  # fmt: skip
        return await self._armed(request)

    async def _armed(self, _request: Request) -> Response:
        with self._wechat.chassis.tx() as tx:
            return answer({"mishaps": mishaps.listed(tx), "settings": mishaps.settings(tx)})

    async def _disarm(self, request: Request) -> Response:
        with self._wechat.chassis.tx() as tx:
            mishaps.clear(tx)
        return await self._armed(request)

    async def _set(self, request: Request) -> Response:
        body = await read(request, dict[str, float])
        unknown = set(body) - set(mishaps.SETTINGS)
        if unknown:
            raise ApiError(400, "invalid_request", f"unknown settings {sorted(unknown)}")
        with self._wechat.chassis.tx() as tx:
            for name, value in body.items():
                mishaps.set_to(tx, name, value)
        return await self._armed(request)

    async def _rotate(self, request: Request) -> Response:
        body = await read(request, RotateBody)
        with self._wechat.chassis.tx() as tx:
            return answer({"serial": self._wechat.platform.rotate(tx, body.kind)})

    async def _waiting(self, _request: Request) -> Response:
        with self._wechat.chassis.tx() as tx:
            return answer({"waiting": self._wechat.hand.waiting(tx)})

    async def _act(self, request: Request) -> Response:
        body = await read(request, ActBody)
        with self._wechat.chassis.tx() as tx:
            number = body.id
            if number is None:
                found = [
                    str(one["id"])
                    for one in self._wechat.hand.waiting(tx)
                    if (one["kind"], one["mchid"], one["reference"])
                    == (body.kind, body.mchid, body.reference)
                ]
                if not found:
                    raise missing("nothing like that waits for a user")
                number = found[0]
            state = self._wechat.hand.act(tx, body.kind, number, body.act, body.reason)
        return answer({"id": number, "state": state})

    async def _books(self, request: Request) -> Response:
        allow_queries(request)
        with self._wechat.chassis.tx() as tx:
            return answer(truth.books(tx))


def _translated(endpoint: Endpoint) -> Endpoint:
    """What the provider refuses is refused here too."""

    async def call(request: Request) -> Response:
        try:
            return await endpoint(request)
        except V3Error as error:
            status = error.status if error.status == NOT_FOUND else CONFLICT
            raise ApiError(status, error.code.lower(), error.message) from error

    return call
