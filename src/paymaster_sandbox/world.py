"""Every provider on one chassis, with their servers: the whole fake world as one object."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from paymaster_sandbox import closing, truth
from paymaster_sandbox.alipay.provider import Alipay
from paymaster_sandbox.bank import books as bank_books
from paymaster_sandbox.bank import folders, intake, reports, sftp
from paymaster_sandbox.books_page import BooksPage
from paymaster_sandbox.chassis import base, keys, notify, schedule
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import Clock, machine_microseconds
from paymaster_sandbox.chassis.ports import Ports
from paymaster_sandbox.chassis.seed import Seed
from paymaster_sandbox.chassis.store import Store
from paymaster_sandbox.control import Control
from paymaster_sandbox.http import refusal
from paymaster_sandbox.serving import HttpServer
from paymaster_sandbox.wallet import books as wallet_books
from paymaster_sandbox.wallet import settlement
from paymaster_sandbox.wallet.api import WalletApi
from paymaster_sandbox.wallet.webhooks import Webhooks
from paymaster_sandbox.wallet.wire import ApiError
from paymaster_sandbox.wechat.provider import Wechat

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import asyncssh
    import httpx
    from starlette.requests import Request
    from starlette.responses import Response

_SCHEMAS = (
    *base.SCHEMAS,
    notify.SCHEMA,
    schedule.SCHEMA,
    bank_books.SCHEMA,
    folders.SCHEMA,
    intake.SCHEMA,
    reports.SCHEMA,
    wallet_books.SCHEMA,
    settlement.SCHEMA,
    *Wechat.SCHEMAS,
    *Alipay.SCHEMAS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """How to set a world up. `seed` and `date` count on the first start of `data` only.

    Ports: 0 takes the one that it had before, or a free one; None leaves that server out (the ASGI
    application works without).
    `machine` is the source of real time in microseconds; a simulation may bring its own.
    """

    data: Path
    seed: int = 1
    http_port: int | None = 0
    sftp_port: int | None = 0
    wechat_port: int | None = 0
    wechat_tls_port: int | None = 0
    alipay_port: int | None = 0
    date: date | None = None
    scan_seconds: float = 2.0
    machine: Callable[[], int] = machine_microseconds


class World:
    """The fake world outside.

    Raises on entry:
        DirectoryBusyError: another world lives in the directory.
        OSError: a port is taken.
    """

    def __init__(self, config: WorldConfig) -> None:
        self._config = config
        store = Store(config.data, _SCHEMAS)
        self._keys = keys.load(config.data)
        self.chassis = Chassis(store, Clock(config.machine), Seed())
        with store.begin(config.machine()) as tx:
            self.chassis.clock.load(tx, config.date)
            self.chassis.seed.load(tx, config.seed)
        self._schedule = schedule.Schedule(self.chassis)
        self._wire_providers()
        self.app = self._application()
        self._tasks: list[asyncio.Task[None]] = []
        self._servers: list[HttpServer] = []
        self._http = HttpServer("http", self.app)
        self._wechat = HttpServer("wechat", self.wechat.app)
        self._wechat_tls = HttpServer("wechat-tls", self.wechat.app, self.wechat.tls)
        self._alipay = HttpServer("alipay", self.alipay.app)
        self._sftp: asyncssh.SSHAcceptor | None = None
        self.sftp_address = ""

    def _wire_providers(self) -> None:
        chassis = self.chassis
        self._webhooks = Webhooks(chassis, self._keys.webhook_secret)
        self.wallet = wallet_books.WalletBooks(chassis, self._schedule, self._webhooks)
        self.bank = bank_books.BankBooks(chassis, self.wallet)
        self._folders = folders.Folders(self._config.data, chassis, self._schedule)
        self._reports = reports.Reports(chassis, self._schedule, self._folders)
        self._intake = intake.Intake(
            chassis, self._schedule, self._folders, self.bank, self._reports
        )
        self._settlement = settlement.Settlement(chassis)
        courier = self._webhooks.courier
        self.wechat = Wechat(chassis, self._schedule, courier, self._config.data)
        self.alipay = Alipay(chassis, self._schedule, courier, self._config.data)
        self._schedule.after_run(courier.wake)

    def _application(self) -> Starlette:
        api = WalletApi(self.chassis, self.wallet, self._settlement, self._keys.api_key)
        application = Starlette(
            routes=[
                *api.routes(),
                *Control(self).routes(),
                *self.wechat.control_routes(),
                *self.alipay.control_routes(),
                *BooksPage(self).routes(),
            ]
        )
        application.add_exception_handler(HTTPException, _http_error)
        return application

    @property
    def http_url(self) -> str:
        """Where the wallet's API and the controls are."""
        return self._http.url

    @property
    def wechat_url(self) -> str:
        """Where WeChat Pay is, without client certificates."""
        return self._wechat.url

    @property
    def wechat_tls_url(self) -> str:
        """Where WeChat Pay is for the calls that need the merchant's certificate."""
        return self._wechat_tls.url

    @property
    def alipay_url(self) -> str:
        """Where Alipay is: both interfaces, and its own pages."""
        return self._alipay.url

    @property
    def wechat_tls_ca(self) -> str:
        """The certificate, in PEM, that proves `wechat_tls_url` to a client."""
        return self.wechat.tls_ca

    @property
    def host_key(self) -> str:
        """The SFTP server's public key, as `ssh-ed25519 AAAA...`."""
        return self._keys.host_key_line

    @property
    def client_key_path(self) -> Path:
        """The private key file that the SFTP server accepts for the user `paymaster`."""
        return self._keys.client_key_path

    @property
    def api_key(self) -> str:
        """The wallet API's bearer key."""
        return self._keys.api_key

    @property
    def webhook_secret(self) -> str:
        """The secret that webhooks are signed with."""
        return self._keys.webhook_secret

    @property
    def ready(self) -> dict[str, str]:
        """Where everything is, for the line that the process prints."""
        return {
            "http": self.http_url,
            "wechat": self.wechat_url,
            "wechat_tls": self.wechat_tls_url,
            "alipay": self.alipay_url,
            "wechat_tls_ca_file": str(self.wechat.tls_ca_path),
            "sftp": self.sftp_address,
            "host_key": self.host_key,
            "client_key_file": str(self._keys.client_key_path),
            "api_key_file": str(self._keys.api_key_path),
            "webhook_secret_file": str(self._keys.webhook_secret_path),
        }

    async def __aenter__(self) -> Self:
        """Open the servers and continue where the books stopped."""
        try:
            self._folders.write_ready()
            await self._listen()
            self._start("jobs", self._schedule.run())
            self._start("webhooks", self._webhooks.courier.run())
            self._start("intake", self._intake.run(self._config.scan_seconds))
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the servers; the books stay. Raises what a background loop died of, if any did."""
        failure = self._failure()
        await self._stop()
        if failure is not None and error is None:
            raise failure

    async def broken(self) -> None:
        """Wait until a background loop dies, which only a defect makes it do; then raise why."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        failure = self._failure()
        raise failure if failure is not None else RuntimeError("a sandbox loop ended")

    def move_clock(self, to: int | None, by: int) -> None:
        """Set virtual time to `to`, or move it `by` microseconds; what became due is done."""
        self._schedule.run_due()
        with self.chassis.tx() as tx:
            moved = self.chassis.clock.jump(tx, tx.now + by if to is None else to)
            if moved < 0:
                self._schedule.shift(tx, moved)
                self._webhooks.courier.shift(tx, moved)
        self._after_jump()

    def close_day(self, day: date | None, *, advance: bool) -> dict[str, object]:
        """Close a day at both providers. Raises `closing.NotYetError` for a day to come."""
        self._schedule.run_due()
        with self.chassis.tx() as tx:
            closed = closing.close_day(
                tx, self.chassis.clock, self._reports, self._settlement, day, advance=advance
            )
        self._after_jump()
        return closed

    def notice_returns(self) -> list[str]:
        """Write camt.054 files for the returns not yet told of; their names."""
        with self.chassis.tx() as tx:
            names = self._reports.notice_returns(tx)
        self._after_jump()
        return names

    def send_reports_again(self) -> int:
        """The customer asks the bank for the reports that were lost; how many there were."""
        with self.chassis.tx() as tx:
            found = self._folders.publish_lost(tx)
        self._after_jump()
        return found

    def books(self, *, brief: bool = False) -> dict[str, Any]:
        """What was really paid (see `truth.books`)."""
        with self.chassis.tx() as tx:
            known = truth.books(tx, brief=brief)
            return {**known, "alipay": self.alipay.truth(tx)}

    def run_due(self) -> None:
        """Do every job that is due now; for a simulation that owns the time and enters nothing."""
        self._schedule.run_due()

    async def deliver_due(self, client: httpx.AsyncClient) -> int:
        """Try every notice that is due now once, through a client; how many were tried."""
        return await self._webhooks.courier.deliver(client)

    def next_due(self) -> int | None:
        """When something falls due by itself, in virtual microseconds; None when nothing waits."""
        with self.chassis.tx() as tx:
            due = (self._schedule.next_due(tx), self._webhooks.courier.next_due(tx))
        return min((moment for moment in due if moment is not None), default=None)

    def close(self) -> None:
        """Close the books of a world that was never entered."""
        self.chassis.store.close()

    async def drain_uploads(self) -> int:
        """Execute what lies finished in `/in` now; for tests without the SFTP server."""
        return await self._intake.pick_up()

    def _after_jump(self) -> None:
        self._schedule.run_due()
        self._folders.write_ready()
        self._schedule.wake()
        self._webhooks.courier.wake()

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=f"sandbox-{name}"))

    def _failure(self) -> BaseException | None:
        """What a background loop died of, if one did."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                return task.exception()
        return None

    async def _listen(self) -> None:
        """Open the servers, where they were before if nobody has taken that port meanwhile.

        A customer whose provider answers at another address after every restart would have to take
        it for another provider.
        """
        ports = Ports(self._config.data)
        for name, wanted, listen in (
            ("sftp", self._config.sftp_port, self._listen_sftp),
            *(
                (server.name, port, self._serving(server))
                for server, port in (
                    (self._http, self._config.http_port),
                    (self._wechat, self._config.wechat_port),
                    (self._wechat_tls, self._config.wechat_tls_port),
                    (self._alipay, self._config.alipay_port),
                )
            ),
        ):
            if wanted is None:
                continue
            try:
                got = await listen(wanted or ports.before(name))
            except OSError:
                if wanted or not ports.before(name):
                    raise
                got = await listen(0)
            ports.keep(name, got)

    async def _listen_sftp(self, port: int) -> int:
        counter = sftp.Counter(self._folders.root, self.chassis, self._intake.wake)
        self._sftp = await sftp.listen(counter, self._keys, port)
        self.sftp_address = f"127.0.0.1:{self._sftp.get_port()}"
        return self._sftp.get_port()

    def _serving(self, server: HttpServer) -> Callable[[int], Coroutine[Any, Any, int]]:
        async def listen(port: int) -> int:
            got = await server.listen(port)
            self._servers.append(server)
            if server.task is not None:
                self._tasks.append(server.task)
            return got

        return listen

    async def _stop(self) -> None:
        """Stop servers, then loops, then close the books."""
        if self._sftp is not None:
            self._sftp.close()
            await self._sftp.wait_closed()
        serving = {server.task for server in self._servers}
        for server in self._servers:
            server.stop()
        for task in self._tasks:
            if task not in serving:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.chassis.store.close()


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "internal")
    return refusal(ApiError(status, code, "there is nothing like that here"))
