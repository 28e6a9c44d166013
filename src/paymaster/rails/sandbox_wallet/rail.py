"""The rail to the sandbox wallet provider over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import cast
from urllib.parse import quote

from paymaster.kernel.errors import (
    Broken,
    NeverSent,
    PaymasterError,
    Problem,
    RailError,
    RailRefused,
    Unauthenticated,
)
from paymaster.rails import meaning
from paymaster.rails.base import (
    Instruction,
    Notice,
    Outcome,
    Prepared,
    RailAccount,
    RailCaps,
    RemoteFile,
    Statement,
    Verdict,
)
from paymaster.rails.deps import RailDeps, refuse_incomplete, secret, setting
from paymaster.rails.destinations import check
from paymaster.rails.http import Answer, call
from paymaster.rails.meaning import Kind
from paymaster.rails.sandbox_wallet import settlement, webhook, wire
from paymaster.rails.transport import MAX_FILE_BYTES

MAX_SETTLEMENTS = 100


class SandboxWalletRail:
    """One payout a request; the idempotency key is the instruction's key, at every try."""

    def __init__(self, deps: RailDeps) -> None:
        self._deps = deps
        self._caps = RailCaps(
            name="sandbox-wallet",
            destination_kinds=frozenset({"sandbox-wallet"}),
            batch_items=1,
            replay_window=timedelta(hours=24),
            not_found_is_proof_after=timedelta(seconds=60),
            pretends=True,
        )

    @property
    def caps(self) -> RailCaps:
        """What is fixed about it."""
        return self._caps

    def check_account(self, account: RailAccount) -> None:
        """See ChecksAccounts."""
        url = account.settings.get("url", "")
        problems = (
            [Problem("/settings/url", "Write the provider's address, beginning with http.")]
            if url and not url.startswith(("http://", "https://"))
            else []
        )
        refuse_incomplete(account, ("url",), ("api_key", "webhook_secret"), problems)

    def prepare(
        self,
        account: RailAccount,
        batch_key: str,
        batch: Sequence[Instruction],
        now: datetime,  # noqa: ARG002 - part of the interface; this body carries no time
    ) -> Prepared:
        """See Rail."""
        if len(batch) != 1:
            raise Broken("batch-malformed", "A wallet request holds exactly one payment.")
        item = batch[0]
        fault: str | None = None
        if item.payee.kind != "sandbox-wallet":
            fault = f"This provider cannot pay a destination of kind {item.payee.kind!r}."
        elif item.amount.currency != account.currency:
            fault = f"The account is in {account.currency}, not in {item.amount.currency}."
        elif item.amount.minor <= 0:
            fault = "The amount is not positive."
        try:
            wallet = "" if fault else check("sandbox-wallet", item.payee.details).details["wallet"]
        except PaymasterError as error:
            wallet, fault = "", error.detail
        if fault is not None:
            raise RailRefused(
                "instruction-refused", fault, problems=[Problem("/" + item.key, fault)]
            )
        body = wire.canonical(
            {
                "reference": item.key,
                "wallet": wallet,
                "amount": item.amount.text(),
                "currency": item.amount.currency,
            }
        )
        return Prepared(batch_key, body, (item.key,))

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        """See Rail. How each class of answer is read: docs/reference/rails.md."""
        key = prepared.keys[0]
        answer = await self._call(
            account,
            "POST",
            "/v1/payouts",
            {"content-type": "application/json", "idempotency-key": key},
            prepared.body,
        )
        if answer.status in {200, 201}:
            return [_accepted(answer, prepared)]
        raise _failure(answer)

    async def query(self, account: RailAccount, key: str) -> Outcome:
        """See Queries."""
        try:
            answer = await self._call(account, "GET", f"/v1/payouts?reference={quote(key)}")
            if answer.status != 200:
                code = wire.error_code(answer) or str(answer.status)
                return Outcome(key, Verdict.UNKNOWN, code=code, detail="the look-up was refused")
            found = wire.outcomes(answer, key)
        except (RailError, wire.UnreadableError) as error:
            return Outcome(key, Verdict.UNKNOWN, detail=str(error))
        return wire.strongest(found) if found else Outcome(key, Verdict.NOT_FOUND)

    def read_webhook(
        self, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Sequence[Notice]:
        """See ReadsWebhooks. `webhook_secret_previous` is accepted during a rotation."""
        names = [n for n in ("webhook_secret", "webhook_secret_previous") if n in account.secrets]
        try:
            secrets = [secret(self._deps, account, name) for name in names]
        except NeverSent as error:
            raise Unauthenticated("webhook-signature", error.detail) from None
        return webhook.read(secrets, headers, body, now)

    async def fetch(self, account: RailAccount, seen: frozenset[str]) -> Sequence[RemoteFile]:
        """See FetchesFiles: closed days that are new, or whose content has changed.

        Raises NeverSent or RailUnknown when the provider cannot be read.
        """
        answer = await self._call(account, "GET", "/v1/settlements")
        fetched: list[RemoteFile] = []
        for day, digest in sorted(_listed(answer, account.currency)):
            name = settlement.file_name(day, account.currency, digest)
            if name in seen:
                continue
            path = f"/v1/settlements/{day}/{account.currency}.csv"
            found = await self._call(account, "GET", path, max_bytes=MAX_FILE_BYTES)
            if found.status != 200 or hashlib.sha256(found.body).hexdigest() != digest:
                raise meaning.error(
                    Kind.MALFORMED, f"The settlement of {day} is not what was listed."
                )
            fetched.append(RemoteFile(name, found.body))
            if len(fetched) == MAX_SETTLEMENTS:
                break
        return fetched

    def read_file(
        self, account: RailAccount, name: str, body: bytes
    ) -> tuple[Sequence[Notice], Sequence[Statement]]:
        """See FetchesFiles."""
        return settlement.read(account, name, body)

    async def _call(
        self,
        account: RailAccount,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        max_bytes: int = 1024 * 1024,
    ) -> Answer:
        key = secret(self._deps, account, "api_key").strip()
        if not key.isascii() or not key.isprintable():
            raise meaning.error(Kind.SECRET, "The API key cannot stand in a header.")
        return await call(
            self._deps.http,
            method,
            setting(account, "url").rstrip("/") + path,
            headers={"authorization": f"Bearer {key}", "accept": "application/json"}
            | dict(headers or {}),
            body=body,
            max_bytes=max_bytes,
        )


def _accepted(answer: Answer, prepared: Prepared) -> Outcome:
    """The payout of a 2xx answer, which must be the one that was asked for."""
    try:
        payout = answer.json_object()
        found = wire.outcome(payout)
        asked = Answer(200, {}, prepared.body).json_object()
    except (ValueError, wire.UnreadableError) as error:
        raise meaning.error(
            Kind.MALFORMED, f"The provider's answer cannot be read: {error}."
        ) from None
    if any(payout.get(name) != value for name, value in asked.items()):
        raise meaning.error(Kind.MALFORMED, "The answer is about another payment.")
    return found


def _failure(answer: Answer) -> RailError:
    """Which of no, not yet and unknown an answer other than success means."""
    code = wire.error_code(answer)
    extra = {"code": code or str(answer.status)}
    if "retry-after" in answer.headers:
        extra["retry_after_seconds"] = answer.headers["retry-after"][:10]
    kind = meaning.of_status(answer.status, explained=code is not None)
    said = f"The provider refused: {code}." if kind is Kind.REFUSED else None
    return meaning.error(kind, said or f"The provider answered {answer.status}.", extra)


def _listed(answer: Answer, currency: str) -> set[tuple[str, str]]:
    """Day and digest of each settlement in a currency."""
    try:
        found = answer.json_object().get("data") if answer.status == 200 else None
        if not isinstance(found, list):
            raise wire.UnreadableError("no list of settlements")
        rows = [cast("Mapping[str, object]", each) for each in cast("Sequence[object]", found)]
        return {
            (wire.text(row, "date"), wire.text(row, "sha256"))
            for row in rows
            if row.get("currency") == currency
        }
    except (ValueError, AttributeError, wire.UnreadableError) as error:
        raise meaning.error(
            Kind.MALFORMED, f"The list of settlements cannot be read: {error}."
        ) from None
