"""The knobs and the truth: what tests and demos use to play fate. No key, loopback only."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import msgspec
from starlette.routing import Route

from paymaster_sandbox.bank.books import ConflictError as BankConflictError
from paymaster_sandbox.bank.pain001 import iban_valid
from paymaster_sandbox.chassis import faults, journal, oracle
from paymaster_sandbox.chassis.clock import SECOND, business_date, microseconds, stamp
from paymaster_sandbox.chassis.ledger import CurrencyMismatchError
from paymaster_sandbox.chassis.money import check_currency, parse_exact
from paymaster_sandbox.closing import NotYetError
from paymaster_sandbox.http import Endpoint, allow_queries, answer, guarded, loopback, read
from paymaster_sandbox.wallet.books import ConflictError as WalletConflictError
from paymaster_sandbox.wallet.wire import ApiError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.world import World

Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=100_000_000)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body whose unknown fields are refused."""


class ClockBody(_Strict, frozen=True):
    """Either field."""

    set: datetime | None = None
    advance_seconds: Seconds | None = None


class AccountBody(_Strict, frozen=True):
    """A customer's account at the bank."""

    iban: str
    currency: str
    opening_balance: str
    holder: str


class MerchantBody(_Strict, frozen=True):
    """A float at the wallet provider."""

    currency: str
    iban: str
    opening_balance: str
    webhook_url: str | None = None
    fee: str | None = None


class OracleBody(_Strict, frozen=True):
    """One fate of one payee; `uses` null means always."""

    payee: str
    outcome: str
    code: str | None = None
    after_seconds: Seconds = 0
    uses: Count | None = 1


class IncomingBody(_Strict, frozen=True):
    """A payment to one of our accounts."""

    iban: str
    amount: str
    currency: str
    remittance: str
    debtor_name: str
    id: str


class CloseBody(_Strict, frozen=True):
    """Which day to close."""

    date: str | None = None
    advance: bool = False


FaultsBody = msgspec.defstruct(
    "FaultsBody",
    [
        ("name", str | None, None),
        *((knob, Count | None, None) for knob in sorted(faults.COUNTERS)),
        *(
            (knob, (Seconds if knob.endswith("_seconds") else Count | bool) | None, None)
            for knob in faults.SETTINGS
        ),
    ],
    frozen=True,
    forbid_unknown_fields=True,
)


class Control:
    """The control routes of a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def routes(self) -> list[Route]:
        """The paths under `/_control`."""

        def route(path: str, endpoint: Endpoint, method: str) -> Route:
            return Route(f"/_control{path}", guarded(loopback(endpoint)), methods=[method])

        return [
            route("/clock", self._clock, "POST"),
            route("/clock", self._read_clock, "GET"),
            route("/accounts", self._account, "POST"),
            route("/wallet-merchant", self._merchant, "POST"),
            route("/oracle", self._oracle, "POST"),
            route("/incoming", self._incoming, "POST"),
            route("/faults", self._faults, "POST"),
            route("/faults", self._read_faults, "GET"),
            route("/close-day", self._close_day, "POST"),
            route("/camt054", self._notice, "POST"),
            route("/books", self._books, "GET"),
            route("/events", self._events, "GET"),
        ]

    async def _clock(self, request: Request) -> Response:
        body = await read(request, ClockBody)
        if (body.set is None) == (body.advance_seconds is None):
            raise ApiError(400, "invalid_request", "one of set and advance_seconds is needed")
        to = None
        if body.set is not None:
            if body.set.tzinfo is None:
                raise ApiError(400, "invalid_request", "set needs a time zone")
            to = microseconds(body.set)
        self._world.move_clock(to, round((body.advance_seconds or 0) * SECOND))
        return await self._read_clock(request)

    async def _read_clock(self, _request: Request) -> Response:
        with self._world.chassis.tx() as tx:
            return answer({"now": stamp(tx.now), "business_date": business_date(tx).isoformat()})

    async def _account(self, request: Request) -> Response:
        body = await read(request, AccountBody)
        if not body.holder or len(body.holder) > 70:
            raise ApiError(400, "invalid_request", "holder must be 1 to 70 characters")
        opening = _amount(body.opening_balance, body.currency)
        iban = _iban(body.iban)
        try:
            with self._world.chassis.tx() as tx:
                made = self._world.bank.open_account(tx, iban, body.currency, opening, body.holder)
        except BankConflictError as error:
            raise ApiError(409, "conflict", str(error)) from error
        return answer({"iban": iban, "created": made}, 201 if made else 200)

    async def _merchant(self, request: Request) -> Response:
        body = await read(request, MerchantBody)
        opening = _amount(body.opening_balance, body.currency)
        fee = 0 if body.fee is None else _amount(body.fee, body.currency)
        url = None if body.webhook_url is None else _loopback_url(body.webhook_url)
        try:
            with self._world.chassis.tx() as tx:
                made = self._world.wallet.open_merchant(
                    tx, body.currency, _iban(body.iban), opening, fee, url
                )
        except WalletConflictError as error:
            raise ApiError(409, "conflict", str(error)) from error
        return answer({"currency": body.currency, "created": made}, 201 if made else 200)

    async def _oracle(self, request: Request) -> Response:
        body = await read(request, OracleBody)
        if body.outcome not in oracle.OUTCOMES:
            raise ApiError(400, "invalid_request", f"outcome is one of {oracle.OUTCOMES}")
        fate = oracle.Fate(body.outcome, body.code, round(body.after_seconds * SECOND))
        with self._world.chassis.tx() as tx:
            changed = oracle.foretell(tx, body.payee, fate, body.uses)
        return answer({"changed": changed})

    async def _incoming(self, request: Request) -> Response:
        body = await read(request, IncomingBody)
        amount = _amount(body.amount, body.currency)
        if amount == 0 or not body.id or not body.debtor_name:
            raise ApiError(400, "invalid_request", "amount, id and debtor_name must not be empty")
        if len(body.remittance) > 140 or len(body.debtor_name) > 140:
            raise ApiError(400, "invalid_request", "remittance and debtor_name: 140 at most")
        try:
            with self._world.chassis.tx() as tx:
                booked = self._receive(tx, body, amount)
        except (BankConflictError, CurrencyMismatchError) as error:
            raise ApiError(409, "conflict", str(error)) from error
        return answer({"booked": booked}, 201 if booked else 200)

    def _receive(self, tx: Tx, body: IncomingBody, amount: int) -> bool:
        account = self._world.bank.account(tx, _iban(body.iban))
        if account is None:
            raise ApiError(404, "account_unknown", f"{body.iban} is not an account here")
        if account.currency != body.currency:
            raise CurrencyMismatchError(f"{body.iban} keeps {account.currency}")
        return self._world.bank.receive(
            tx, account, amount, body.debtor_name, body.remittance, body.id
        )

    async def _faults(self, request: Request) -> Response:
        given = msgspec.structs.asdict(await read(request, FaultsBody))
        name = given.pop("name")
        values = {
            knob: round(value * SECOND) if knob.endswith("_seconds") else int(value)
            for knob, value in given.items()
            if value is not None
        }
        with self._world.chassis.tx() as tx:
            armed = faults.arm(tx, values, name)
            return answer({"armed": armed, "faults": _shown(tx)})

    async def _read_faults(self, _request: Request) -> Response:
        with self._world.chassis.tx() as tx:
            return answer({"faults": _shown(tx)})

    async def _close_day(self, request: Request) -> Response:
        body = await read(request, CloseBody)
        try:
            day = None if body.date is None else date.fromisoformat(body.date)
            return answer(self._world.close_day(day, advance=body.advance))
        except NotYetError as error:
            raise ApiError(409, "not_yet", str(error)) from error
        except ValueError as error:
            raise ApiError(400, "invalid_request", str(error)) from error

    async def _notice(self, _request: Request) -> Response:
        return answer({"notices": self._world.notice_returns()})

    async def _books(self, request: Request) -> Response:
        allow_queries(request, "brief")
        return answer(self._world.books(brief="brief" in request.query_params))

    async def _events(self, request: Request) -> Response:
        allow_queries(request, "limit", "kind")
        limit = request.query_params.get("limit", "1000")
        if not limit.isdecimal():
            raise ApiError(400, "invalid_request", "limit must be a number")
        with self._world.chassis.tx() as tx:
            events = journal.recent(tx, int(limit), request.query_params.get("kind"))
        return answer({"events": events})


def _shown(tx: Tx) -> dict[str, int | float]:
    return {
        knob: value / SECOND if knob.endswith("_seconds") else value
        for knob, value in faults.current(tx).items()
    }


def _loopback_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ApiError(400, "invalid_request", "webhook_url must be http on this machine")
    return url


def _iban(text: str) -> str:
    iban = text.replace(" ", "").upper()
    if not iban_valid(iban):
        raise ApiError(400, "invalid_request", f"{text!r} is not a valid IBAN")
    return iban


def _amount(text: str, currency: str) -> int:
    try:
        return parse_exact(text, check_currency(currency))
    except ValueError as error:
        raise ApiError(400, "invalid_request", str(error)) from error
