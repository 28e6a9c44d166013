"""TLS at our listeners: who is let in, by version, certificate and name; with real sockets."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from starlette.types import Receive, Scope, Send

from paymaster.kernel.clock import WallClock
from paymaster.kernel.errors import Conflict, Refusal
from paymaster.kernel.tls import Identity, Reloaded, client_context, server_context
from paymaster.roles import certificates
from paymaster.roles.connection import Allowance
from paymaster.roles.process import web_loop
from paymaster.roles.serving import health_identity, listen, serving
from paymaster.settings import Peers, Settings

NOW = WallClock().now()
REFUSED = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)
METRICS = frozenset({certificates.uri("metrics")})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A CA, a server and a client that is allowed."""
    certificates.make_ca(tmp_path, NOW)
    certificates.issue(tmp_path, "relay", NOW, hosts=["localhost", "127.0.0.1"])
    certificates.issue(tmp_path, "metrics", NOW)
    return tmp_path


@pytest.fixture(params=[asyncio.new_event_loop, web_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    """Runs a coroutine on the loop of background roles, and on that of web roles."""

    def running(work) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(work)

    return running


def identity(folder: Path, name: str) -> Identity:
    return Identity(folder / f"{name}.pem", folder / f"{name}-key.pem", folder / "ca.pem")


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": scope["scheme"].encode()})


async def ask(port: int, context: ssl.SSLContext) -> ssl.SSLObject:
    """A request that is answered; how it was encrypted. Raises one of `REFUSED`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(5) == b"https"
        return writer.get_extra_info("ssl_object")
    finally:
        writer.close()


def served(server: Identity, peers: frozenset[str] | None = METRICS):
    listening = listen("127.0.0.1", 0)
    port: int = listening.getsockname()[1]
    return port, serving(hello, listening, 1, allowance=Allowance(peers=peers), identity=server)


async def refused(folder: Path, context: ssl.SSLContext) -> None:
    """This client gets no answer; one with the right certificate does, before and after."""
    right = client_context(identity(folder, "metrics"))
    port, server = served(identity(folder, "relay"))
    async with server:
        await ask(port, right)
        with pytest.raises(REFUSED):
            await ask(port, context)
        await ask(port, right)


def test_the_right_certificate_is_let_in(folder: Path, run) -> None:
    async def work() -> None:
        port, server = served(identity(folder, "relay"))
        async with server:
            used = await ask(port, client_context(identity(folder, "metrics")))
            assert used.version() == "TLSv1.3"

    run(work())


def test_a_missing_certificate_is_refused(folder: Path, run) -> None:
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    run(refused(folder, context))


def test_a_certificate_of_another_ca_is_refused(folder: Path, tmp_path: Path, run) -> None:
    other = tmp_path / "other"
    certificates.make_ca(other, NOW)
    certificates.issue(other, "metrics", NOW)
    mine = identity(other, "metrics")
    run(refused(folder, client_context(Identity(mine.certificate, mine.key, folder / "ca.pem"))))


def test_an_expired_certificate_is_refused(folder: Path, run) -> None:
    elsewhere = folder / "expired"
    elsewhere.mkdir()
    for name in ("ca.pem", "ca-key.pem"):
        shutil.copy(folder / name, elsewhere)
    certificates.issue(elsewhere, "metrics", NOW - timedelta(days=20), days=10)
    run(refused(folder, client_context(identity(elsewhere, "metrics"))))


def test_a_name_that_is_not_on_the_list_is_refused(folder: Path, run) -> None:
    certificates.issue(folder, "dispatch", NOW)
    run(refused(folder, client_context(identity(folder, "dispatch"))))


def test_a_client_refuses_a_server_of_another_ca(folder: Path, tmp_path: Path, run) -> None:
    other = tmp_path / "other"
    certificates.make_ca(other, NOW)
    certificates.issue(other, "relay", NOW, hosts=["127.0.0.1"])

    async def work() -> None:
        port, server = served(identity(other, "relay"), None)
        async with server:
            with pytest.raises(ssl.SSLCertVerificationError):
                await ask(port, client_context(identity(folder, "metrics")))

    run(work())


def test_a_client_refuses_a_server_of_another_name(folder: Path, run) -> None:
    certificates.issue(folder, "relay", NOW, hosts=["elsewhere.example"])

    async def work() -> None:
        port, server = served(identity(folder, "relay"))
        async with server:
            with pytest.raises(ssl.SSLCertVerificationError):
                await ask(port, client_context(identity(folder, "metrics")))

    run(work())


def test_tls_1_2_is_refused_at_the_edge(folder: Path, run) -> None:
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    older = ssl.create_default_context(cafile=folder / "ca.pem")
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    mine = identity(folder, "relay")

    async def work() -> None:
        port, server = served(Identity(mine.certificate, mine.key), None)
        async with server:
            used = await ask(port, context)
            assert (used.version(), used.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
            with pytest.raises(REFUSED):
                await ask(port, older)

    run(work())


def serial_of(used: ssl.SSLObject) -> int:
    raw = used.getpeercert(binary_form=True)
    assert raw is not None
    return x509.load_der_x509_certificate(raw).serial_number


def serial_in(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def test_a_renewed_certificate_is_used_without_a_restart(
    folder: Path, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paymaster.roles.serving._SWEEP_SECONDS", 0.01)
    mine = identity(folder, "relay")
    context = ssl.create_default_context(cafile=folder / "ca.pem")

    async def work() -> None:
        port, server = served(Identity(mine.certificate, mine.key), None)
        async with server:
            before = serial_in(mine.certificate)
            assert serial_of(await ask(port, context)) == before
            certificates.issue(folder, "relay", NOW, hosts=["127.0.0.1"])
            while serial_of(await ask(port, context)) == before:  # noqa: ASYNC110 - theirs
                await asyncio.sleep(0.01)
            assert serial_of(await ask(port, context)) == serial_in(mine.certificate)

    run(work())


def test_half_a_pair_is_not_used_until_the_other_half_has_come(folder: Path) -> None:
    mine = identity(folder, "relay")
    reloaded = Reloaded(server_context(mine), mine)
    assert not reloaded.look()
    old_key = mine.key.read_bytes()
    certificates.issue(folder, "relay", NOW, hosts=["localhost"])
    new_key = mine.key.read_bytes()
    mine.key.write_bytes(old_key)
    with pytest.raises(Refusal, match="certificate-unusable"):
        reloaded.look()
    assert not reloaded.look()
    mine.key.write_bytes(new_key)
    assert reloaded.look()


@pytest.mark.parametrize("content", [b"", b"no PEM", None])
def test_what_cannot_be_read_is_said(folder: Path, content: bytes | None) -> None:
    mine = identity(folder, "relay")
    mine.key.unlink() if content is None else mine.key.write_bytes(content)
    with pytest.raises(Refusal, match="certificate-unusable") as refusal:
        server_context(mine)
    assert "relay" in refusal.value.detail


def test_a_second_ca_is_not_made(folder: Path) -> None:
    with pytest.raises(Conflict, match="certificate-exists"):
        certificates.make_ca(folder, NOW)
    assert (folder / "ca-key.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(Refusal, match="certificate-name"):
        certificates.issue(folder, "../relay", NOW)


def test_the_doctor_names_what_ends_soon(folder: Path) -> None:
    settings = Settings(
        peers=Peers(
            ca=folder / "ca.pem",
            certificate=folder / "{role}.pem",
            key=folder / "{role}-key.pem",
            health="verified",
        )
    )
    served_by, allowance = health_identity(settings, "relay")
    assert served_by == identity(folder, "relay")
    assert allowance.peers == frozenset(settings.peers.allowed)
    certificates.issue(folder, "screen", NOW, days=5)
    found = certificates.findings(settings, ["relay", "screen"], NOW)
    assert [(name, ok) for name, ok, _ in found] == [
        ("certificate ca.pem", True),
        ("certificate relay.pem", True),
        ("certificate screen.pem", False),
    ]


@pytest.mark.parametrize("missing", ["ca", "certificate"])
def test_half_a_setting_is_refused(folder: Path, missing: str) -> None:
    given: dict[str, Any] = {
        "ca": folder / "ca.pem",
        "certificate": folder / "c",
        "key": folder / "k",
    }
    del given[missing]
    settings = Settings(peers=Peers(**given, health="verified"))
    with pytest.raises(Refusal, match="certificate-unusable"):
        health_identity(settings, "relay")
