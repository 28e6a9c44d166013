"""The world outside, in this process: the sandbox with its wallet and its bank, and the wires.

Orders go through the rails' own HTTP client into the sandbox's application; bank files through
folders; notifications from the sandbox's courier to whoever listens. No socket is opened.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from typing import cast as cast_

import httpx
from starlette.types import ASGIApp

from paymaster.kernel.clock import Clock
from paymaster_sandbox import World, WorldConfig
from paymaster_sandbox.chassis import faults, oracle
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.oracle import Fate
from paymaster_sim import cast
from paymaster_sim.cast import Person
from paymaster_sim.clock import START, microseconds
from paymaster_sim.ground import Ground
from paymaster_sim.merchants import ALIPAY, CONSENT, WECHAT, Merchants
from paymaster_sim.merchants import CURRENCY as YUAN
from paymaster_sim.yuan import Yuan

T = TypeVar("T")
SLOW_SECONDS = 70.0
"""Longer than any of our processes waits for an answer."""

HOLDER = "Zahlstelle GmbH"
EURO = "EUR"
SPONSOR_PAYS = "Sponsor"
_START_MICROSECONDS = round(START.timestamp()) * SECOND
Listener = Callable[[httpx.Request], Awaitable[tuple[int, bytes]]]
"""Takes a notification and says with which status and words it answers."""

ORDERS = {
    "/v3/fund-app/mch-transfer/transfer-bills": "out_bill_no",
    "/v3/fund-app/mch-transfer/transfer-bills/transfer": "out_bill_no",
    "/v3/alipay/fund/trans/uni/transfer": "out_biz_no",
}
"""Where orders go to that are named in their body, and how that is called there."""

_CHOSEN_ANEW = "out_authorization_no"
"""The one thing in an order that may be another at the next try: which consent stands."""


class Wire(httpx.AsyncBaseTransport):
    """Leads to the application of the present run, in whose world each call is one event.

    It refuses connections, and holds answers back, as often as it is told.
    """

    def __init__(self) -> None:
        self.refusals = 0
        self.delays = 0
        self.odd: list[str] = []
        """Orders that came a second time, and were not the same."""
        self._orders: dict[str, tuple[str, bytes]] = {}
        self._apps: Mapping[str, ASGIApp] = {}
        self._ground: Ground | None = None

    def lead_to(self, apps: Mapping[str, ASGIApp], ground: Ground) -> None:
        """Another run begins; its applications by the name of their host."""
        self._apps, self._ground = apps, ground
        self.refusals = self.delays = 0
        self.odd.clear()
        self._orders.clear()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        app, ground = self._apps.get(request.url.host), self._ground
        if app is None or ground is None:
            raise httpx.ConnectError("there is no run", request=request)
        if self.refusals > 0:
            self.refusals -= 1
            raise httpx.ConnectError("connection refused", request=request)
        what = f"{request.method} {request.url.path}"
        if request.method == "POST":
            self._note(request)
        delayed = request.method == "POST" and self.delays > 0
        self.delays -= delayed
        answer = await ground.outside(what, lambda: asked(app, request))
        if delayed:
            await asyncio.sleep(SLOW_SECONDS)
        return answer

    def _note(self, request: httpx.Request) -> None:
        """An order has the same key and the same bytes at every try."""
        name, order = order_in(request)
        if name and self._orders.setdefault(name, order) != order:
            self.odd.append(f"{name}: {order} after {self._orders[name]}")


def order_in(request: httpx.Request) -> tuple[str, tuple[str, bytes]]:
    """The name of an order, and what must be the same at every try; no name if it is none."""
    named = ORDERS.get(request.url.path)
    if named is not None:
        found: dict[str, Any] = json.loads(request.content)
        found.pop(_CHOSEN_ANEW, None)
        body = json.dumps(found, sort_keys=True).encode()
        return str(found[named]), (request.url.path, body)
    if "idempotency-key" not in request.headers:
        return "", ("", b"")
    name = str(json.loads(request.content)["reference"])
    return name, (request.headers["idempotency-key"], request.content)


def asked(app: ASGIApp, request: httpx.Request) -> httpx.Response:
    """What the application answers; it is called at once, and waits for nothing.

    Raises what it raises: a connection that it cuts is an httpx.RemoteProtocolError.
    """
    body, sent = request.content, list[MutableMapping[str, Any]]()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.partition(b"?")[0],
        "query_string": request.url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "server": (request.url.host, request.url.port),
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    _at_once(cast_("Coroutine[Any, Any, None]", app(scope, receive, send)))
    start = next(one for one in sent if one["type"] == "http.response.start")
    content = b"".join(one.get("body", b"") for one in sent if one is not start)
    return httpx.Response(
        start["status"], headers=start["headers"], content=content, request=request
    )


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of work that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise AssertionError("the sandbox waited for something")


class _Bell(httpx.AsyncBaseTransport):
    """What the courier posts to."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        status, words = await self._listener(request)
        return httpx.Response(status, content=words, request=request)


@dataclass(frozen=True, slots=True)
class Paid:
    """A payment as the world outside knows it; `state` is pending, paid, returned or failed."""

    reference: str
    payee: str
    minor: int
    state: str


class Outside:
    """One run's world outside."""

    def __init__(
        self, folder: Path, ground: Ground, seed: int, wire: Wire, merchants: Merchants | None
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if merchants is not None:
            merchants.lay_out(folder)
        config = WorldConfig(
            data=folder,
            seed=seed,
            http_port=None,
            sftp_port=None,
            date=START.date(),
            machine=lambda: microseconds(ground.clock),
        )
        self.world = World(config)
        self._out = folder / "sftp" / "out"
        self._ground = ground
        self._dated = set[str]()
        self.yuan = None if merchants is None else Yuan(self.world, merchants)
        apps: dict[str, ASGIApp] = {
            "sandpay.sim": self.world.app,
            "wechat.sim": self.world.wechat.app,
            "alipay.sim": self.world.alipay.app,
        }
        wire.lead_to(apps, ground)

    def open(self, bank_minor: int, float_minor: int, people: Sequence[Person]) -> None:
        """Our accounts, with what is on them at the start, and those whom we pay."""
        ours, provider = cast.iban(cast.OUR_NUMBER), cast.iban(cast.PROVIDER_NUMBER)
        currency = EURO if self.yuan is None else YUAN
        with self.world.chassis.tx() as tx:
            self.world.bank.open_account(tx, ours, currency, bank_minor, HOLDER)
            if self.yuan is None:
                url = "http://hooks.sim/"
                self.world.wallet.open_merchant(tx, currency, provider, float_minor, 0, url)
        if self.yuan is not None:
            agreed = any(CONSENT in one.payees for one in people)
            payees = [
                (one.payees[CONSENT if agreed else WECHAT], one.payees[ALIPAY]) for one in people
            ]
            self.yuan.open(float_minor, payees, agreed=agreed)

    def secret(self, name: str) -> str:
        """What the rails' secrets are called in our store, and are."""
        known = None if self.yuan is None else self.yuan.secret(name)
        if known is not None:
            return known
        keys = {
            "sandpay-api-key": self.world.api_key,
            "sandpay-webhook-secret": self.world.webhook_secret,
        }
        return keys[name]

    def bell(self, listener: Listener) -> httpx.AsyncClient:
        """A client for the courier, which rings at the listener."""
        return httpx.AsyncClient(transport=_Bell(listener), trust_env=False)

    def arm(self, **knobs: float) -> None:
        """Set fault knobs; those named seconds are in seconds."""
        values = {
            name: round(value * SECOND) if name.endswith("_seconds") else int(value)
            for name, value in knobs.items()
        }
        with self.world.chassis.tx() as tx:
            faults.arm(tx, values, None)

    def calm(self) -> None:
        """No fault strikes any more."""
        with self.world.chassis.tx() as tx:
            faults.arm(tx, {**dict.fromkeys(faults.COUNTERS, 0), **faults.SETTINGS}, None)
            tx.run("DELETE FROM oracle")
        if self.yuan is not None:
            self.yuan.calm()

    def foretell(self, payee: str, outcome: str, code: str | None, after: float) -> None:
        """The next payment to this payee comes to this."""
        with self.world.chassis.tx() as tx:
            oracle.foretell(tx, payee, Fate(outcome, code, round(after * SECOND)), 1)

    def sponsor_pays(self, reference: str, minor: int, key: str) -> None:
        """Money arrives at our bank account."""
        with self.world.chassis.tx() as tx:
            account = self.world.bank.account(tx, cast.iban(cast.OUR_NUMBER))
            if account is None:
                raise AssertionError("our account at the bank is missing")
            self.world.bank.receive(tx, account, minor, SPONSOR_PAYS, reference, key)

    def close_day(self, clock: Clock) -> None:
        """Both providers close the business day that is ending."""
        day = (clock.now() - timedelta(seconds=1)).date()
        self.world.close_day(day, advance=False)

    async def turn(self, bell: httpx.AsyncClient) -> int:
        """Do what is due out there now; how many notifications were tried."""
        await self.world.drain_uploads()
        self.world.run_due()
        return await self.world.deliver_due(bell)

    def next_due(self) -> datetime | None:
        """When something happens out there by itself."""
        due = self.world.next_due()
        at = None if due is None else START + timedelta(microseconds=due - _START_MICROSECONDS)
        bill = None if self.yuan is None else self.yuan.bills(self._ground.clock.now())[1]
        return min((one for one in (at, bill) if one is not None), default=None)

    def files(self) -> list[str]:
        """The names of what the bank has laid out for us.

        Each gets the time of the run: our side reads files in the order of their times.
        """
        with os.scandir(self._out) as found:
            names = sorted(entry.name for entry in found if entry.is_file())
        moment = self._ground.clock.now().timestamp()
        for name in sorted(set(names) - self._dated):
            os.utime(self._out / name, (moment, moment))
            self._dated.add(name)
        return names

    def settlements(self) -> int:
        """How many days the wallet provider has closed."""
        with self.world.chassis.tx() as tx:
            return int(tx.value("SELECT count(*) FROM wallet_settlement"))

    def bills(self) -> int:
        """How many days' bills of WeChat Pay and Alipay are there."""
        return 0 if self.yuan is None else self.yuan.bills(self._ground.clock.now())[0]

    def paid(self) -> list[Paid]:
        """Every payment that was ordered out there, but our own top-ups."""
        if self.yuan is not None:
            return [Paid(*row) for row in self.yuan.paid()]
        with self.world.chassis.tx() as tx:
            rows = tx.all(
                "SELECT reference, wallet, amount, status FROM wallet_payout UNION ALL"
                " SELECT end_to_end_id, creditor_iban, amount,"
                "   CASE status WHEN 'booked' THEN 'paid' WHEN 'rejected' THEN 'failed'"
                "     ELSE status END"
                " FROM bank_payment WHERE treasury = 0"
            )
        return [Paid(*row) for row in rows]

    def balances(self) -> dict[str, int]:
        """What lies on our accounts out there, in minor units, by the name of the account here."""
        books = self.world.books(brief=True)
        bank = int(books["bank"][cast.iban(cast.OUR_NUMBER)]["balance_minor"])
        if self.yuan is not None:
            return {cast.BANK: bank, **self.yuan.balances()}
        return {cast.BANK: bank, cast.WALLET: int(books["wallet"][EURO]["balance_minor"])}

    def close(self) -> None:
        """Close the books."""
        self.world.close()
