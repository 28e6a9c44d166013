"""NATS JetStream through FastStream.

Each letter waits for the stream's own acknowledgement; `Nats-Msg-Id` lets the server recognise one
that was sent twice. A lost connection is not mended by the client: what it had under way would be
sent behind our back. Error codes: nats-server, server/errors.json.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Any, Final, cast

import nats.errors
import nats.js.errors
from faststream.nats import NatsBroker
from faststream.nats.security import NatsSecurity, NatsToken, NatsUserPassword
from faststream.security import BaseSecurity
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from paymaster.kernel.guard import forbid_network
from paymaster.messages.broker.letter import CONTENT_TYPE, Letter
from paymaster.messages.broker.link import (
    PASSWORD,
    TOKEN,
    Access,
    BrokerRefused,
    away,
    takes_nothing,
    tls_context,
)
from paymaster.observe import get_logger
from paymaster.settings import Broker
from paymaster.settings.broker import SUBJECT_PARTS

_TOO_LARGE: Final = 10054
_HEAD_BYTES = 1024
"""What the headers of a letter take at most; the server counts them."""

_log = get_logger(__name__)


class NatsWire:
    """A connection to a NATS server, with its stream."""

    def __init__(self, broker: NatsBroker, settings: Broker, gone: asyncio.Event) -> None:
        self._broker = broker
        self._settings = settings
        self.gone = gone
        client = broker.config.connection_state.connection
        self.limit_bytes = min(settings.message_limit_bytes, client.max_payload - _HEAD_BYTES)

    async def send(self, letter: Letter) -> None:
        """See `Wire.send`."""
        forbid_network()
        try:
            await self._broker.publish(
                letter.body,
                letter.subject,
                stream=self._settings.stream,
                headers={"Nats-Msg-Id": letter.unique, "content-type": CONTENT_TYPE},
                correlation_id=letter.id,
                timeout=self._settings.timeout_seconds,
            )
        except nats.errors.MaxPayloadError as error:
            raise BrokerRefused("It is larger than the server takes.") from error
        except nats.js.errors.NoStreamResponseError as error:
            raise takes_nothing(f"No stream takes the subject {letter.subject}.") from error
        except nats.js.errors.APIError as error:
            if error.err_code == _TOO_LARGE:
                raise BrokerRefused("It is larger than the stream takes.") from error
            raise takes_nothing(_said(error)) from error
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise away(f"NATS does not answer: {type(error).__name__}.") from error

    async def close(self) -> None:
        """See `Wire.close`."""
        client = self._broker.config.connection_state.connection
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                await client.close()
        except (nats.errors.Error, TimeoutError, OSError) as error:
            _log.info("broker_closed_badly", error=type(error).__name__)


async def connect(access: Access) -> NatsWire:
    """See `link.open_wire`."""
    settings, gone = access.settings, asyncio.Event()

    heard: list[Exception] = []

    async def lost() -> None:
        gone.set()

    async def noted(error: Exception) -> None:
        heard.append(error)

    client = Client()
    broker = _Broker(
        list(settings.urls),
        client=client,
        security=_security(access, client),
        name="paymaster",
        allow_reconnect=False,
        max_reconnect_attempts=1,
        reconnect_time_wait=0,
        connect_timeout=settings.timeout_seconds,
        disconnected_cb=lost,
        closed_cb=lost,
        error_cb=noted,
        logger=None,
        apply_types=False,
    )
    try:
        async with asyncio.timeout(settings.timeout_seconds):
            await broker.connect()
        if settings.encrypted and not _encrypted(client):
            await client.close()
            raise nats.errors.SecureConnWantedError
    except (nats.errors.Error, TimeoutError, OSError) as error:
        why = heard[-1] if heard else error
        raise away(f"No connection to NATS: {type(why).__name__}.") from error
    wire = NatsWire(broker, settings, gone)
    try:
        await _see_to_stream(broker.config.connection_state.stream, settings)
    except BaseException:
        await wire.close()
        raise
    return wire


async def _see_to_stream(js: JetStreamContext, settings: Broker) -> None:
    try:
        async with asyncio.timeout(settings.timeout_seconds):
            try:
                await js.stream_info(settings.stream)
            except nats.js.errors.NotFoundError:
                if settings.topology == "expect":
                    raise takes_nothing(f"There is no stream {settings.stream}.") from None
                await js.add_stream(  # pyright: ignore[reportUnknownMemberType]
                    StreamConfig(
                        name=settings.stream,
                        subjects=[pattern(settings)],
                        num_replicas=settings.replicas,
                        duplicate_window=float(settings.duplicate_seconds),
                    )
                )
    except nats.js.errors.APIError as error:
        raise takes_nothing(_said(error)) from error
    except (nats.errors.Error, TimeoutError, OSError) as error:
        raise away(f"JetStream does not answer: {type(error).__name__}.") from error


def pattern(settings: Broker) -> str:
    """What all subjects have in common, as NATS writes it."""
    parts = {**dict.fromkeys(SUBJECT_PARTS, "*"), "type": "*.*"}
    return settings.subject.format(**parts)


class _Broker(NatsBroker):
    """Connects with a client that is known before.

    The library's own way leaves sockets open where a login fails, and speaks on in the clear where
    a server, or somebody between, offers no TLS.
    """

    def __init__(self, servers: list[str], *, client: Client, **options: Any) -> None:
        super().__init__(servers, **options)
        self._client = client

    async def _connect(self) -> Client:
        try:
            await self._client.connect(**self._connection_kwargs)
        except BaseException:
            await self._client.close()
            await _hang_up(self._client)
            raise
        self.config.connect(self._client)
        return self._client


def _writer(client: Client) -> asyncio.StreamWriter | None:
    """Nothing public shows a connection that is half made."""
    return getattr(getattr(client, "_transport", None), "_io_writer", None)


async def _hang_up(client: Client) -> None:
    writer = _writer(client)
    if writer is not None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _encrypted(client: Client) -> bool:
    writer = _writer(client)
    return writer is not None and writer.get_extra_info("ssl_object") is not None


def _security(access: Access, client: Client) -> BaseSecurity:
    """Secrets are given when the connection is encrypted, if it shall be, and not before."""
    settings = access.settings
    context = tls_context(settings, access.peers)
    tls: dict[str, Any] = {"ssl_context": context, "use_ssl": context is not None}

    def secret(name: str) -> Callable[[], str]:
        def give() -> str:
            if settings.encrypted and not _encrypted(client):
                raise nats.errors.SecureConnWantedError
            return access.secret(name)

        return give

    if settings.login == "password" and settings.username is not None:
        # The client asks for it when it logs in; only the annotation says that it must be text.
        later = cast("str", secret(PASSWORD))
        return NatsUserPassword(settings.username, later, **tls)
    if settings.login == "token":
        return NatsToken(secret(TOKEN), **tls)
    return NatsSecurity(**tls)


def _said(error: nats.js.errors.APIError) -> str:
    words = re.sub(r"[^ -~]", "?", error.description or type(error).__name__)[:200]
    return f"JetStream takes nothing: {words} ({error.err_code})."
