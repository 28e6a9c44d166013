"""Letters: claimed under a lease, written, handed to the SMTP server, written down.

A letter is queued once for an event. A try whose end is unknown is made again under the same
Message-ID, by which mail programs recognise a second copy. The address of an earner stays sealed
until the letter is written, and is in no log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import aiosmtplib

from paymaster.db.cells import Databases
from paymaster.db.tx import ReadTx, Writes
from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Busy
from paymaster.kernel.guard import forbid_network
from paymaster.kernel.language import Language, language_of
from paymaster.kernel.sources import jitter
from paymaster.messages import schedule
from paymaster.messages.compose_mail import Envelope, message, write
from paymaster.messages.connect import tls_context
from paymaster.messages.event import public
from paymaster.messages.fanout import ACTOR
from paymaster.messages.letters import BY_TEMPLATE
from paymaster.messages.place import Place
from paymaster.messages.store import events, mails
from paymaster.messages.store.events import Event
from paymaster.messages.store.mails import ClaimedMail
from paymaster.observe import Metrics, get_logger
from paymaster.people import users
from paymaster.people.profile import Profile
from paymaster.rails import failures
from paymaster.secrets.opening import Secrets
from paymaster.settings import Email

_log = get_logger(__name__)

PASSWORD = "smtp-password"  # noqa: S105 - the name of the secret
TOGETHER = 10
_FIRST_FINAL = 500


@dataclass(frozen=True, slots=True)
class Office:
    """What all mailers of a process share."""

    dbs: Databases
    secrets: Secrets
    settings: Email
    link: str


class _Skipped(Exception):
    """The letter is not sent, and why."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Mailer:
    """Writes the letters of one schema; one object a process and schema."""

    def __init__(self, place: Place, office: Office, metrics: Metrics) -> None:
        self._place = place
        self._office = office
        self._metrics = metrics
        self._random = jitter()
        self._lease = timedelta(seconds=max(60, 3 * office.settings.timeout_seconds))

    async def step(self) -> int:
        """Send letters that are due; how many were tried."""
        found, told = await self._claim()
        if not found:
            return 0
        began, half = monotonic_seconds(), self._lease.total_seconds() / 2
        server: aiosmtplib.SMTP | None = None
        try:
            for mail in found:
                if monotonic_seconds() - began > half:
                    await self._end(mail, "waiting", timedelta(0), "no-time")
                    continue
                server = await self._try(server, mail, told.get(mail.seq))
        finally:
            if server is not None:
                with contextlib.suppress(aiosmtplib.SMTPException, OSError):
                    await server.quit()
        return len(found)

    async def _claim(self) -> tuple[list[ClaimedMail], dict[int, Event]]:
        async def work(tx: Writes) -> tuple[list[ClaimedMail], dict[int, Event]]:
            found = await mails.claim(tx, TOGETHER, tx.now + self._lease)
            rows = await events.events(tx, [one.seq for one in found])
            return found, {row.seq: row for row in rows}

        return await self._place.run(ACTOR, work)

    async def _try(
        self, server: aiosmtplib.SMTP | None, mail: ClaimedMail, row: Event | None
    ) -> aiosmtplib.SMTP | None:
        """One letter; the connection to go on with."""
        try:
            if row is None:
                raise _Skipped("event-unknown")
            language, recipients, values = await self._facts(mail, row)
            envelope = self._envelope(row, recipients)
            written = write(mail.template, language, values)
            made = message(written, language, self._office.link, envelope)
            server = server or await self._connect()
            await server.send_message(made)
        except _Skipped as skipped:
            await self._end(mail, "skipped", None, skipped.why)
        except aiosmtplib.SMTPException as error:
            await self._failed(mail, error)
            if server is not None:
                server.close()
            return None
        except OSError as error:
            await self._again(mail, type(error).__name__)
            return None
        except Busy:
            raise
        except Exception as error:  # noqa: BLE001 - one letter's fault stops no other; it is tried again
            _log.exception("mail_failed", template=mail.template, error=type(error).__name__)
            await self._again(mail, "our-fault")
        else:
            await self._end(mail, "sent", None, "sent")
        return server

    async def _facts(
        self, mail: ClaimedMail, row: Event
    ) -> tuple[Language, list[str], Mapping[str, Any]]:
        """The language, to whom, and what the template may say. Raises _Skipped."""
        settings = self._office.settings
        values = {**row.payload, "app": settings.sender_name}
        if mail.user_id is None:
            if not settings.operators:
                raise _Skipped("no-operators")
            return settings.operator_language, list(settings.operators), values
        profile = await self._profile(mail.user_id)
        if profile is None or profile.email is None:
            raise _Skipped("no-address")
        if not profile.email_notices and not BY_TEMPLATE[mail.template].security:
            raise _Skipped("not-wanted")
        language = language_of(profile.language)
        failure = failures.find(row.payload.get("code") or row.payload.get("reason"))
        return language, [profile.email], {**values, "why": failure.earner.text(language)}

    async def _profile(self, user_id: int) -> Profile | None:
        office = self._office

        async def work(tx: ReadTx) -> dict[int, Profile]:
            return await users.profiles(cast("Any", tx), office.secrets.sealer, [user_id])

        return (await self._place.read(work)).get(user_id)

    def _envelope(self, row: Event, recipients: list[str]) -> Envelope:
        settings = self._office.settings
        event = public(self._place, row)
        return Envelope(
            settings.sender or "",
            settings.sender_name,
            recipients,
            f"{self._place.name}.{row.seq}" if event is None else event.id,
            self._office.dbs.clock.now(),
            test=event is not None and event.mode == "test",
        )

    async def _connect(self) -> aiosmtplib.SMTP:
        """A connection as the settings want it, encrypted or not at all."""
        forbid_network()
        settings = self._office.settings
        plain = settings.security == "none"
        server = aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port,
            timeout=settings.timeout_seconds,
            use_tls=settings.security == "tls",
            start_tls=settings.security == "starttls",
            tls_context=None if plain else tls_context(settings.authorities),
        )
        await server.connect()
        if settings.username is not None:
            await server.login(settings.username, self._office.secrets.text(PASSWORD))
        return server

    async def _failed(self, mail: ClaimedMail, error: aiosmtplib.SMTPException) -> None:
        """A definite no to this letter ends it; everything else is tried again."""
        codes: list[int] = []
        if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
            codes = [one.code for one in error.recipients]
        elif isinstance(error, aiosmtplib.SMTPDataError | aiosmtplib.SMTPRecipientRefused):
            codes = [error.code]
        if codes and min(codes) >= _FIRST_FINAL:
            await self._end(mail, "failed", None, f"refused-{min(codes)}")
        else:
            await self._again(mail, type(error).__name__)

    async def _again(self, mail: ClaimedMail, why: str) -> None:
        delays = schedule.MAIL_DELAYS
        if mail.tries > len(delays):
            await self._end(mail, "failed", None, why)
        else:
            wait = schedule.delay(mail.tries, self._random, delays=delays)
            await self._end(mail, "waiting", wait, why)

    async def _end(
        self, mail: ClaimedMail, state: str, wait: timedelta | None, outcome: str
    ) -> None:
        async def work(tx: Writes) -> None:
            due_at = None if wait is None else tx.now + wait
            await mails.record(tx, mail, state, due_at, outcome)

        await self._place.run(ACTOR, work)
        self._metrics.mails.labels(mail.template, state).inc()
        if state in ("failed", "waiting"):
            _log.warning("mail_not_sent", template=mail.template, seq=mail.seq, outcome=outcome)
