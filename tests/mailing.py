"""A real SMTP server on loopback that keeps what it is given."""

from __future__ import annotations

import asyncio
import email
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass
class Mailbox:
    """What arrived, and what the server answers to a letter."""

    answer: str = "250 OK"
    letters: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    logins: list[bytes] = field(default_factory=list)
    rejects: str | None = None
    port: int = 0

    async def handle_RCPT(  # noqa: N802 - the library calls it so
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.rejects is not None:
            return self.rejects
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        self.letters.append(email.message_from_bytes(content, policy=default))
        self.recipients.append(list(envelope.rcpt_tos))
        self.encrypted.append(session.ssl is not None)
        return self.answer

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.password)
        return AuthResult(success=data.login == b"paymaster")


@asynccontextmanager
async def smtp(
    context: ssl.SSLContext | None = None, *, login: bool = False
) -> AsyncIterator[Mailbox]:
    """Serve until the block ends; with a context only after STARTTLS."""
    box, loop = Mailbox(), asyncio.get_running_loop()

    def serve() -> SMTP:
        return SMTP(
            box,
            hostname="mail.test",
            loop=loop,
            tls_context=context,
            require_starttls=context is not None,
            authenticator=box.authenticate if login else None,
            auth_required=login,
            auth_require_tls=context is not None,
        )

    server = await loop.create_server(serve, "127.0.0.1", 0)
    box.port = server.sockets[0].getsockname()[1]
    try:
        yield box
    finally:
        server.close()
        await server.wait_closed()
