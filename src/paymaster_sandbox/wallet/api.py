"""The wallet provider's JSON API."""

import asyncio
import hashlib
import hmac

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paymaster_sandbox.chassis import faults, journal, magic
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.money import format_minor
from paymaster_sandbox.chassis.store import Tx
from paymaster_sandbox.http import Endpoint, allow_queries, answer, cut, guarded, read, refusal
from paymaster_sandbox.wallet.books import WalletBooks
from paymaster_sandbox.wallet.settlement import Settlement, shortfall
from paymaster_sandbox.wallet.wire import ApiError, PayoutRequest


class WalletApi:
    """The provider's public face."""

    def __init__(
        self, chassis: Chassis, books: WalletBooks, settlement: Settlement, api_key: str
    ) -> None:
        self._chassis = chassis
        self._books = books
        self._settlement = settlement
        self._bearer = f"Bearer {api_key}".encode()

    def routes(self) -> list[Route]:
        """The API's paths."""

        def route(path: str, endpoint: Endpoint, method: str = "GET") -> Route:
            return Route(path, guarded(self._authorized(endpoint)), methods=[method])

        return [
            route("/v1/payouts", self._create, "POST"),
            route("/v1/payouts", self._search),
            route("/v1/payouts/{id}", self._get),
            route("/v1/balance", self._balance),
            route("/v1/settlements", self._settlements),
            route("/v1/settlements/{date}/{currency:str}.csv", self._settlement_file),
        ]

    def _authorized(self, endpoint: Endpoint) -> Endpoint:
        async def call(request: Request) -> Response:
            given = request.headers.get("authorization", "").encode()
            if not hmac.compare_digest(given, self._bearer):
                raise ApiError(401, "unauthorized", "the API key is missing or wrong")
            return await endpoint(request)

        return call

    async def _create(self, request: Request) -> Response:
        allow_queries(request)
        with self._chassis.tx() as tx:
            limited = faults.strikes(tx, "rate_limit")
            broken = not limited and faults.strikes(tx, "fail_before")
        if limited:
            raise ApiError(429, "rate_limited", "too many requests", retry_after_seconds=1)
        if broken:
            raise ApiError(503, "internal", "something went wrong")
        key = request.headers.get("idempotency-key", "")
        if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
            raise ApiError(400, "invalid_request", "Idempotency-Key of 1 to 255 characters needed")
        wanted = await read(request, PayoutRequest)
        digest = hashlib.sha256(msgspec.json.encode(wanted)).hexdigest()
        with self._chassis.tx() as tx:
            known = self._books.known(tx, key)
            slow = faults.setting(tx, "slow_seconds")
            if known is None:
                response, misbehaves = self._pay(tx, key, digest, wanted)
            else:
                response, misbehaves = self._replay(tx, key, digest, known), None
        if slow:
            await asyncio.sleep(slow / SECOND)
        if misbehaves == "drop_answers":
            return await cut(request)
        if misbehaves == "fail_after":
            raise ApiError(500, "internal", "something went wrong")
        return response

    def _pay(
        self, tx: Tx, key: str, digest: str, wanted: PayoutRequest
    ) -> tuple[Response, str | None]:
        """Pay or refuse; the answer, and the fault that keeps the client from seeing it."""
        try:
            payout = self._books.create(tx, key, digest, wanted)
        except ApiError as error:
            journal.note(tx, "payout.refused", reference=wanted.reference, code=error.code)
            return refusal(error), None
        response = answer(payout.public(), 201)
        self._books.keep_answer(tx, payout.id, bytes(response.body))
        misbehaves = next(
            (name for name in ("drop_answers", "fail_after") if faults.strikes(tx, name)),
            magic.answer(payout.wallet),
        )
        journal.note(
            tx, "payout.created", payout=payout.id, reference=payout.reference, key=key,
            fault=misbehaves,
        )  # fmt: skip
        return response, misbehaves

    def _replay(self, tx: Tx, key: str, digest: str, known: tuple[str, bytes]) -> Response:
        journal.note(tx, "payout.replayed", key=key, same=known[0] == digest)
        if known[0] != digest:
            return refusal(
                ApiError(409, "idempotency_key_reused", "the key was used with another body")
            )
        headers = {"Idempotent-Replayed": "true"}
        return Response(known[1], 200, headers, "application/json")

    async def _search(self, request: Request) -> Response:
        allow_queries(request, "reference")
        reference = request.query_params.get("reference")
        if not reference:
            raise ApiError(400, "invalid_request", "the parameter reference is needed")
        with self._chassis.tx() as tx:
            found = self._books.find(tx, "reference", reference)
        return answer({"data": [payout.public() for payout in found]})

    async def _get(self, request: Request) -> Response:
        with self._chassis.tx() as tx:
            found = self._books.find(tx, "id", request.path_params["id"])
        if not found:
            raise ApiError(404, "payout_unknown", "there is no such payout")
        return answer(found[0].public())

    async def _balance(self, request: Request) -> Response:
        allow_queries(request)
        with self._chassis.tx() as tx:
            balances = [
                {
                    "currency": currency,
                    "available": format_minor(self._shown(tx, currency), currency),
                }
                for (currency,) in tx.all("SELECT currency FROM wallet_merchant ORDER BY currency")
            ]
        return answer({"balances": balances})

    def _shown(self, tx: Tx, currency: str) -> int:
        return self._books.available(tx, currency) - shortfall(tx, currency)

    async def _settlements(self, request: Request) -> Response:
        allow_queries(request)
        with self._chassis.tx() as tx:
            return answer({"data": self._settlement.listed(tx)})

    async def _settlement_file(self, request: Request) -> Response:
        day, currency = request.path_params["date"], request.path_params["currency"]
        with self._chassis.tx() as tx:
            body = self._settlement.file(tx, day, currency)
        if body is None:
            raise ApiError(404, "settlement_unknown", "that day is not closed")
        return Response(body, 200, media_type="text/csv; charset=utf-8")
