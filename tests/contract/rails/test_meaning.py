"""Every kind of failure, caused for real, means what the table says."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncssh
import httpx
import pytest
from tests.contract.http_server import Answering, Asked, Reply
from tests.contract.sftp_server import BankServer
from tests.contract.support import NOON, bank_account, deps, instruction, payee_iban, payee_wallet
from tests.tls import certificate

from paymaster.dispatch import send
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.desk import Order, Pace
from paymaster.dispatch.wording import impersonal
from paymaster.kernel.clock import ManualClock
from paymaster.kernel.errors import (
    NeverSent,
    RailDoubted,
    RailError,
    RailPutOff,
    RailRefused,
    RailUnknown,
)
from paymaster.rails import meaning, sftp
from paymaster.rails.base import Outcome, Prepared, RailAccount
from paymaster.rails.http import call, new_client
from paymaster.rails.iso20022.rail import Iso20022Rail
from paymaster.rails.meaning import OF, TABLE, Kind, Means
from paymaster.rails.sandbox_wallet.rail import SandboxWalletRail
from paymaster.rails.sftp import SftpTransport
from paymaster.rails.wechat import codes as wechat_codes
from paymaster.rails.wechat.calls import Said

CLASSES = {
    Means.SAFE: NeverSent,
    Means.REFUSED: RailRefused,
    Means.DOUBTED: RailDoubted,
    Means.PUT_OFF: RailPutOff,
    Means.SAME_KEY: RailUnknown,
    Means.UNKNOWN: RailUnknown,
}
ITEM = instruction(1, payee_wallet(1), 1234)
NAME, BODY = "01B7.xml", b"<a>" + b"x" * 200_000 + b"</a>"
Cause = Callable[[Path, pytest.MonkeyPatch], Awaitable[object]]


def account(url: str, **settings: str) -> RailAccount:
    named = {"api_key": "key", "webhook_secret": "hook"}
    return RailAccount(9, "wallet", "sandbox-wallet", "EUR", {"url": url, **settings}, named)


async def pay(url: str, *, api_key: str = "made-up", seconds: float = 0.5) -> object:
    """An order to a provider at an address."""
    async with new_client() as client:
        client.timeout = httpx.Timeout(seconds)
        rail = SandboxWalletRail(deps({"key": api_key, "hook": "x"}, client))
        prepared = rail.prepare(account("http://unused"), "01B7", [ITEM], NOON)
        return await rail.send(account(url), prepared)


def answering(reply: Reply) -> Cause:
    async def cause(_folder: Path, _patch: pytest.MonkeyPatch) -> object:
        async with Answering(lambda _: reply).running() as server:
            return await pay(server.url)

    return cause


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def refused_connection(_folder: Path, _patch: pytest.MonkeyPatch) -> object:
    return await pay(f"http://127.0.0.1:{free_port()}")


async def no_such_host(_folder: Path, patch: pytest.MonkeyPatch) -> object:
    def nowhere(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    patch.setattr(socket, "getaddrinfo", nowhere)
    return await pay("http://provider.example")


async def tls(folder: Path, _patch: pytest.MonkeyPatch) -> object:
    """A server with a certificate that nobody has signed whom we trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(folder, "127.0.0.1"))
    async with Answering(lambda _: Reply(200)).running(context) as server:
        return await pay(server.url.replace("http:", "https:"))


async def connect_timeout(_folder: Path, _patch: pytest.MonkeyPatch) -> object:
    """A server whose queue of connections is full."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            await asyncio.sleep(0.05)
            return await pay(f"http://127.0.0.1:{full.getsockname()[1]}", seconds=0.3)
        finally:
            for each in waiting:
                each.close()


async def no_room(_folder: Path, _patch: pytest.MonkeyPatch) -> object:
    arrived = asyncio.Event()

    def slow(_: Asked) -> Reply:
        arrived.set()
        return Reply(200, wait_seconds=30)

    async with Answering(slow).running() as server:
        transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=1))
        async with new_client(transport) as client:
            client.timeout = httpx.Timeout(5.0, pool=0.1)
            first = asyncio.create_task(call(client, "GET", server.url, headers={}))
            await arrived.wait()
            try:
                return await call(client, "GET", server.url, headers={})
            finally:
                first.cancel()


@asynccontextmanager
async def resetting(read: int) -> AsyncGenerator[str]:
    """A server that reads so many bytes of what comes and then resets the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if read:
            await reader.readexactly(read)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def write_broke(_folder: Path, _patch: pytest.MonkeyPatch) -> object:
    """The provider has read a little of a large order when the connection breaks."""
    async with resetting(100) as url, new_client() as client:
        client.timeout = httpx.Timeout(5.0)
        return await call(client, "POST", url, headers={}, body=b"x" * 50_000_000)


async def cut_off(_folder: Path, _patch: pytest.MonkeyPatch) -> object:
    async with resetting(200) as url:
        return await pay(url)


async def bank(folder: Path, patch: pytest.MonkeyPatch, **faults: int | bool) -> object:
    patch.setattr(sftp, "LOOK_AGAIN_SECONDS", (0.0, 0.05))
    async with BankServer(folder).running() as server:
        for name, value in faults.items():
            setattr(server, name, value)
        return await SftpTransport(server.place()).put(NAME, BODY)


def banking(**faults: int | bool) -> Cause:
    async def cause(folder: Path, patch: pytest.MonkeyPatch) -> object:
        return await bank(folder, patch, **faults)

    return cause


async def host_key(folder: Path, _patch: pytest.MonkeyPatch) -> object:
    async with BankServer(folder).running() as server:
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
        return await SftpTransport(server.place(host_key=other)).put(NAME, BODY)


async def login(folder: Path, _patch: pytest.MonkeyPatch) -> object:
    async with BankServer(folder).running() as server:
        other = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
        return await SftpTransport(server.place(client_key=other)).put(NAME, BODY)


async def bank_away(folder: Path, _patch: pytest.MonkeyPatch) -> object:
    server = BankServer(folder)
    return await SftpTransport(server.place(port=free_port())).put(NAME, BODY)


async def name_taken(folder: Path, patch: pytest.MonkeyPatch) -> object:
    (folder / "in").mkdir(parents=True, exist_ok=True)
    (folder / "in" / NAME).write_bytes(b"another file")
    return await bank(folder, patch)


async def address(_folder: Path, _patch: pytest.MonkeyPatch) -> object:
    return await pay("ftp://127.0.0.1/")


async def lacks_setting(_folder: Path, _patch: pytest.MonkeyPatch) -> object:
    return await pay("")


async def lacks_secret(_folder: Path, _patch: pytest.MonkeyPatch) -> object:
    return await pay("http://127.0.0.1:1", api_key=" ")


async def unwritable(_folder: Path, _patch: pytest.MonkeyPatch) -> object:
    rail = Iso20022Rail(deps())
    item = instruction(1, payee_iban(1, holder="山田"))
    return rail.prepare(bank_account(), "01B7", [item], NOON)


async def says_no(_folder: Path, _patch: pytest.MonkeyPatch) -> object:
    raise wechat_codes.failure(Said(400, genuine=True, found={"code": "PARAM_ERROR"}))


async def not_now(_folder: Path, _patch: pytest.MonkeyPatch) -> object:
    raise wechat_codes.failure(Said(403, genuine=True, found={"code": "NOT_ENOUGH"}))


def coded(status: int) -> Reply:
    return Reply.json(status, {"code": "some_code", "message": "no"})


CAUSES: dict[Kind, list[Cause]] = {
    Kind.ADDRESS: [address],
    Kind.ACCOUNT: [lacks_setting],
    Kind.SECRET: [lacks_secret],
    Kind.NO_SUCH_HOST: [no_such_host],
    Kind.REFUSED_CONNECTION: [refused_connection],
    Kind.TLS: [tls],
    Kind.CONNECT_TIMEOUT: [connect_timeout],
    Kind.NO_ROOM: [no_room],
    Kind.WRITE_BROKE: [write_broke],
    Kind.READ_TIMEOUT: [answering(Reply(201, wait_seconds=3))],
    Kind.CUT_OFF: [cut_off, *(answering(Reply(201, b"{}" * 50, cut_after=n)) for n in (0, 20, 60))],
    Kind.TOO_LARGE: [answering(Reply(201, b"x" * 2_000_000))],
    Kind.MALFORMED: [answering(Reply(201, b"{")), answering(Reply.json(200, {"status": "paid"}))],
    Kind.REDIRECTED: [answering(Reply(302, headers={"Location": "http://127.0.0.1:1/"}))],
    Kind.TURNED_AWAY: [answering(coded(status)) for status in (401, 403, 425, 429)],
    Kind.SAME_KEY: [answering(coded(status)) for status in (408, 409)],
    Kind.REFUSED: [answering(coded(status)) for status in (400, 402, 404, 422, 451)],
    Kind.SAYS_NO: [says_no],
    Kind.NOT_NOW: [not_now],
    Kind.UNEXPLAINED: [answering(Reply(status, b"<html>")) for status in (400, 404, 422)],
    Kind.SERVER_FAULT: [answering(coded(status)) for status in (500, 502, 503, 504)],
    Kind.HOST_KEY: [host_key],
    Kind.LOGIN: [login],
    Kind.BANK_AWAY: [bank_away],
    Kind.NOT_WRITTEN: [banking(cut_while_writing=1)],
    Kind.NOT_RENAMED: [banking(cut_before_rename=1), banking(refuse_rename=1)],
    Kind.NAME_TAKEN: [name_taken],
    Kind.DELIVERY_UNPROVEN: [banking(cut_after_rename=1, pick_up=True)],
    Kind.UNWRITABLE: [unwritable],
}
"""What brings each kind about; those that are missing are no rail's and stand below."""

_BY_DISPATCH = {Kind.CALL_TIMEOUT, Kind.RAIL_FAULT, Kind.LEASE_EXPIRED}


def test_every_kind_is_caused() -> None:
    assert CAUSES.keys() | _BY_DISPATCH == set(Kind)
    assert [row.kind for row in TABLE] == list(Kind), "one row each, in order"


@pytest.mark.parametrize(
    ("kind", "number"),
    [(kind, number) for kind, causes in CAUSES.items() for number in range(len(causes))],
    ids=str,
)
async def test_a_failure_means_what_the_table_says(
    kind: Kind, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Kind] = []
    honest = meaning.error

    def noting(found: Kind, *rest: Any) -> RailError:
        seen.append(found)
        return honest(found, *rest)

    monkeypatch.setattr(meaning, "error", noting)
    with pytest.raises(RailError) as caught:
        await CAUSES[kind][number](tmp_path, monkeypatch)
    assert type(caught.value) is CLASSES[OF[kind].means]
    assert caught.value.slug == OF[kind].slug
    if kind is Kind.WRITE_BROKE:
        assert set(seen) <= {Kind.WRITE_BROKE, Kind.CUT_OFF}, "whichever end notices first"
    elif kind is not Kind.UNWRITABLE:  # a fault of one payment, which the rail names itself
        assert seen[-1] is kind


async def test_a_connection_that_worked_before_and_is_gone_is_unknown() -> None:
    """Kept alive and closed by the provider: the request was written, nobody knows how far."""
    replies = [Reply.json(429, {"code": "c", "message": "m"}), Reply(200, cut_after=0)]
    async with Answering(lambda _: replies.pop(0)).running() as server, new_client() as client:
        assert (await call(client, "GET", server.url, headers={})).status == 429
        with pytest.raises(RailUnknown):
            await call(client, "GET", server.url, headers={})


def test_after_the_first_byte_no_error_is_believed_to_have_come_before() -> None:
    for failure in (
        httpx.ConnectError("x"), httpx.ConnectTimeout("x"), httpx.PoolTimeout("x"),
        httpx.ProxyError("x"),
    ):  # fmt: skip
        assert OF[meaning.of_failure(failure, began=False)].means is Means.SAFE
        assert OF[meaning.of_failure(failure, began=True)].means is Means.UNKNOWN
    assert meaning.of_failure(ValueError("new in a later httpx"), began=False) is Kind.CUT_OFF


class _Late(httpx.AsyncBaseTransport):
    """Gives bytes to a connection, and then says that there was none."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.extensions["trace"]("http11.send_request_headers.started", {})
        raise httpx.ConnectError("there was no connection", request=request)


async def test_a_call_remembers_that_bytes_have_left() -> None:
    async with new_client(_Late()) as client:
        with pytest.raises(RailUnknown) as caught:
            await call(client, "POST", "http://127.0.0.1:1", headers={}, body=b"x")
    shown = impersonal(str(caught.value)) or ""
    assert "did not answer completely: no connection" in shown, "staff can read what happened"


def test_of_all_statuses_only_an_explained_4xx_is_a_no() -> None:
    door, same = {401, 403, 425, 429}, {408, 409}
    for status in range(100, 600):
        coded = OF[meaning.of_status(status, explained=True)].means
        bare = OF[meaning.of_status(status, explained=False)].means
        definite = 400 <= status < 500 and status not in door | same
        assert (coded is Means.REFUSED) == definite, status
        assert bare is not Means.REFUSED, status
        assert (coded is Means.SAFE) == (bare is Means.SAFE) == (status in door), status


class _Slow(SandboxWalletRail):
    """A rail whose call does not come back, or breaks."""

    def __init__(self, fault: Exception | None) -> None:
        super().__init__(deps())
        self.fault = fault

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        if self.fault is not None:
            raise self.fault
        await asyncio.sleep(30)
        return []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(None, Kind.CALL_TIMEOUT), (KeyError("a fault in the rail"), Kind.RAIL_FAULT)],
)
async def test_what_dispatch_itself_finds(fault: Exception | None, kind: Kind) -> None:
    rail = SandboxWalletRail(deps())
    prepared = rail.prepare(account("http://unused"), "01B7", [ITEM], NOON)
    ours = PayoutAccount(account("http://unused"), 1, "UTC", "always", "active", 1)
    order = Order(1, ours, prepared, 1, NOON + timedelta(minutes=1), 1)
    pace = Pace(call=timedelta(milliseconds=20))
    sent = await send.call(_Slow(fault), order, pace, ManualClock(NOON))
    assert (sent.answer, sent.code) == (send.Answer.UNKNOWN, OF[kind].slug)
