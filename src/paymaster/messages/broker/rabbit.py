"""RabbitMQ through FastStream: publisher confirms, persistent, and no letter without a queue.

`mandatory` has the server give back what no queue would get, instead of throwing it away. A letter
that is too large makes it close the channel under all the others: which one it was is found out by
sending them one at a time.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiormq.exceptions
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange
from faststream.rabbit.security import RabbitExternalAuth
from faststream.security import BaseSecurity, SASLPlaintext

from paymaster.kernel.errors import Busy
from paymaster.kernel.guard import forbid_network
from paymaster.messages.broker.letter import CONTENT_TYPE, Letter
from paymaster.messages.broker.link import (
    PASSWORD,
    Access,
    BrokerRefused,
    away,
    takes_nothing,
    tls_context,
)
from paymaster.observe import get_logger
from paymaster.settings import Broker

_FAULTS = (aiormq.exceptions.AMQPError, TimeoutError, OSError, RuntimeError)
"""RuntimeError is how the library says that a connection was closed under a call."""

_NEVER_SECONDS = 86_400.0
"""When the library would connect again by itself: never, as the link does so."""

_log = get_logger(__name__)


class RabbitWire:
    """A connection to a RabbitMQ server, with its exchange."""

    def __init__(
        self,
        broker: RabbitBroker,
        exchange: RabbitExchange,
        settings: Broker,
        gone: asyncio.Event,
    ) -> None:
        self._broker = broker
        self._exchange = exchange
        self._settings = settings
        self.gone = gone
        self.limit_bytes = settings.message_limit_bytes

    async def send(self, letter: Letter) -> None:
        """See `Wire.send`."""
        forbid_network()
        try:
            await self._broker.publish(
                letter.body,
                exchange=self._exchange,
                routing_key=letter.subject,
                mandatory=True,
                persist=True,
                content_type=CONTENT_TYPE,
                message_id=letter.unique,
                message_type=letter.topic,
                correlation_id=letter.id,
                timeout=self._settings.timeout_seconds,
            )
        except aiormq.exceptions.PublishError as error:
            raise takes_nothing(f"No queue gets what goes to {letter.subject}.") from error
        except aiormq.exceptions.DeliveryError as error:
            raise takes_nothing("RabbitMQ refused to store an event.") from error
        except aiormq.exceptions.ChannelPreconditionFailed as error:
            raise BrokerRefused("RabbitMQ refuses it.", certain=False) from error
        except _FAULTS as error:
            raise away(f"RabbitMQ does not answer: {type(error).__name__}.") from error

    async def close(self) -> None:
        """See `Wire.close`."""
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                await self._broker.stop()
        except _FAULTS as error:
            _log.info("broker_closed_badly", error=type(error).__name__)


async def connect(access: Access) -> RabbitWire:
    """See `link.open_wire`."""
    for chatty in ("aio_pika", "aiormq"):
        # They tell each failure with its traceback, some several times; the link tells it once.
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    fault: Busy | None = None
    for url in access.settings.urls:
        try:
            return await _connect(access, url)
        except Busy as error:
            fault = error
    raise fault or away("There is no address of a broker.")


async def _connect(access: Access, url: str) -> RabbitWire:
    settings, gone = access.settings, asyncio.Event()

    def lost(_connection: object, _error: BaseException | None) -> None:
        gone.set()

    broker = RabbitBroker(
        url,
        security=_security(access),
        default_channel=Channel(on_return_raises=True),
        reconnect_interval=_NEVER_SECONDS,
        on_close=[lost],
        logger=None,
        apply_types=False,
    )
    exchange = RabbitExchange(
        settings.exchange,
        type=ExchangeType.TOPIC,
        durable=True,
        declare=settings.topology == "create",
    )
    wire = RabbitWire(broker, exchange, settings, gone)
    try:
        async with asyncio.timeout(settings.timeout_seconds):
            await broker.connect()
            await broker.declare_exchange(exchange)
    except aiormq.exceptions.ChannelNotFoundEntity as error:
        await wire.close()
        raise takes_nothing(f"There is no exchange {settings.exchange}.") from error
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        await wire.close()
        said = f"The exchange {settings.exchange} is no durable topic exchange."
        raise takes_nothing(said) from error
    except _FAULTS as error:
        await wire.close()
        raise away(f"No connection to RabbitMQ: {type(error).__name__}.") from error
    return wire


def _security(access: Access) -> BaseSecurity | None:
    settings = access.settings
    context = tls_context(settings, access.peers)
    tls: dict[str, Any] = {"ssl_context": context, "use_ssl": context is not None}
    if settings.login == "password" and settings.username is not None:
        return SASLPlaintext(settings.username, access.secret(PASSWORD), **tls)
    if settings.login == "certificate":
        return RabbitExternalAuth(**tls)
    return None if context is None else BaseSecurity(**tls)
