"""Both providers on one chassis, with their servers: the whole fake world as one object."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from paymaster_sandbox import closing, truth
from paymaster_sandbox.bank import books as bank_books
from paymaster_sandbox.bank import folders, intake, reports, sftp
from paymaster_sandbox.chassis import base, keys, notify, schedule
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import Clock, machine_microseconds
from paymaster_sandbox.chassis.ports import Ports
from paymaster_sandbox.chassis.seed import Seed
from paymaster_sandbox.chassis.store import Store
from paymaster_sandbox.control import Control
from paymaster_sandbox.http import CuttableProtocol, refusal
from paymaster_sandbox.wallet import books as wallet_books
from paymaster_sandbox.wallet import settlement
from paymaster_sandbox.wallet.api import WalletApi
from paymaster_sandbox.wallet.webhooks import Webhooks
from paymaster_sandbox.wallet.wire import ApiError

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
        self._http: uvicorn.Server | None = None
        self._sftp: asyncssh.SSHAcceptor | None = None
        self.http_url = ""
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
        self._schedule.after_run(self._webhooks.courier.wake)

    def _application(self) -> Starlette:
        api = WalletApi(self.chassis, self.wallet, self._settlement, self._keys.api_key)
        application = Starlette(routes=[*api.routes(), *Control(self).routes()])
        application.add_exception_handler(HTTPException, _http_error)
        return application

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
            return truth.books(tx, brief=brief)

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
            ("http", self._config.http_port, self._listen_http),
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

    async def _listen_http(self, port: int) -> int:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
        config = uvicorn.Config(
            self.app, http=CuttableProtocol, ws="none", lifespan="off", log_config=None,
            access_log=False, timeout_graceful_shutdown=2, timeout_keep_alive=65,
        )  # fmt: skip
        self._http = _QuietServer(config)
        self._start("http", self._http.serve(sockets=[listener]))
        while not self._http.started:
            await asyncio.sleep(0.01)
            failure = self._failure()
            if failure is not None:
                raise failure
        got = int(listener.getsockname()[1])
        self.http_url = f"http://127.0.0.1:{got}"
        return got

    async def _stop(self) -> None:
        """Stop servers, then loops, then close the books."""
        if self._sftp is not None:
            self._sftp.close()
            await self._sftp.wait_closed()
        for task in self._tasks:
            if self._http is not None and task.get_name() == "sandbox-http":
                self._http.should_exit = True
            else:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.chassis.store.close()


class _QuietServer(uvicorn.Server):
    """uvicorn inside somebody else's process: signals are not its business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Leave the process's signal handlers alone."""
        yield


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "internal")
    return refusal(ApiError(status, code, "there is nothing like that here"))
