"""How providers are called: TLS 1.3, and 1.2 only where a host is listed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from paymaster.kernel.clock import WallClock
from paymaster.kernel.errors import NeverSent, Refusal
from paymaster.kernel.tls import Identity, server_context
from paymaster.rails.http import call, new_client
from paymaster.roles import certificates

NOW = WallClock().now()


@asynccontextmanager
async def provider(folder: Path, newest: ssl.TLSVersion) -> AsyncIterator[str]:
    """A server that knows TLS up to a version; its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    certificates.make_ca(folder, NOW)
    certificates.issue(folder, "bank", NOW, hosts=["127.0.0.1"])
    context = server_context(Identity(folder / "bank.pem", folder / "bank-key.pem"))
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = newest
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_tls_1_3_is_asked_of_everybody(tmp_path: Path) -> None:
    async with (
        provider(tmp_path, ssl.TLSVersion.TLSv1_3) as url,
        new_client(ca=tmp_path / "ca.pem") as client,
    ):
        assert (await call(client, "GET", url, headers={})).body == b"ok"


async def test_an_older_host_is_refused_unless_it_is_listed(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    async with provider(tmp_path, ssl.TLSVersion.TLSv1_2) as url:
        async with (
            new_client(ca=ca) as client,
            new_client(ca=ca, tls_1_2_hosts=["b.test"]) as other,
        ):
            for one in (client, other):
                with pytest.raises(NeverSent, match="provider-unreachable"):
                    await call(one, "GET", url, headers={})
        async with new_client(ca=ca, tls_1_2_hosts=["127.0.0.1"]) as listed:
            assert (await call(listed, "GET", url, headers={})).body == b"ok"


async def test_a_ca_that_nobody_listed_is_refused(tmp_path: Path) -> None:
    async with provider(tmp_path, ssl.TLSVersion.TLSv1_3) as url, new_client() as client:
        with pytest.raises(NeverSent, match="provider-unreachable"):
            await call(client, "GET", url, headers={})


def test_a_ca_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="certificate-unusable"):
        new_client(ca=tmp_path / "none.pem")
