"""Providers that keep books and can be told to misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from paymaster.kernel.errors import (
    NeverSent,
    Problem,
    RailError,
    RailRefused,
    RailUnknown,
    Refusal,
    Unauthenticated,
)
from paymaster.kernel.guard import forbid_network
from paymaster.kernel.money import Money
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

LAG = timedelta(seconds=60)
WINDOW = timedelta(hours=24)


class ScriptedRail:
    """A provider that pays each key once and can be told to misbehave."""

    def __init__(
        self,
        name: str,
        *,
        batch_items: int = 1,
        kinds: frozenset[str] = frozenset({"iban"}),
        replay_window: timedelta | None = WINDOW,
        proof_after: timedelta | None = LAG,
    ) -> None:
        self.caps = RailCaps(name, kinds, batch_items, replay_window, proof_after)
        self.paid: Counter[str] = Counter()
        """How often each key was really paid: more than once is a double payment."""
        self.orders: list[Prepared] = []
        """Everything that arrived, in order."""
        self.verdict = Verdict.ACCEPTED
        self.before: list[RailError | Exception] = []
        """Errors of the next calls, before anything is paid."""
        self.after: list[RailError | Exception] = []
        """Errors of the next calls, after paying."""
        self.gate: asyncio.Event | None = None
        """While set, calls wait for it before they do anything."""
        self.fates: dict[str, Outcome] = {}
        self.unwritable: set[int] = set()
        """Amounts in minor units that cannot be written into an order."""
        self.poison: set[int] = set()
        """Amounts in minor units on which `prepare` breaks."""

    def prepare(
        self, account: RailAccount, batch_key: str, batch: Sequence[Instruction], now: datetime
    ) -> Prepared:
        if any(item.amount.minor in self.poison for item in batch):
            raise RuntimeError("a fault in the rail")
        bad = [item for item in batch if item.amount.minor in self.unwritable]
        if bad:
            raise RailRefused(
                "instruction-refused",
                "Some payments cannot be written.",
                problems=[
                    Problem(f"/{item.key}", "The name is in no Latin script.") for item in bad
                ],
            )
        body = json.dumps(
            {
                "order": batch_key,
                "account": account.name,
                "payments": [[item.key, item.amount.minor, item.payee.details] for item in batch],
            }
        ).encode()
        return Prepared(batch_key, body, tuple(item.key for item in batch))

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        forbid_network()
        if self.gate is not None:
            await self.gate.wait()
        else:
            await asyncio.sleep(0)
        self.orders.append(prepared)
        if self.before:
            raise self.before.pop(0)
        for key in prepared.keys:
            if self.paid[key] == 0:
                self.paid[key] = 1
        if self.after:
            raise self.after.pop(0)
        return [
            self.fates.get(key, Outcome(key, self.verdict, provider_id=f"po_{key}"))
            for key in prepared.keys
        ]

    @property
    def bodies(self) -> set[bytes]:
        return {order.body for order in self.orders}


class AskableRail(ScriptedRail):
    """It can be asked, and calls us."""

    SECRET = secrets.token_hex(16)

    def __init__(self, name: str, **rest: Any) -> None:
        super().__init__(name, **rest)
        self.answers: dict[str, Verdict] = {}
        self.code: str | None = None
        self.questions: list[str] = []
        self.silent = 0

    async def query(self, account: RailAccount, key: str) -> Outcome:
        forbid_network()
        await asyncio.sleep(0)
        self.questions.append(key)
        if self.silent:
            self.silent -= 1
            raise RailUnknown("provider-silent", "No answer.")
        verdict = self.answers.get(key)
        if verdict is None:
            verdict = Verdict.PAID if self.paid[key] else Verdict.NOT_FOUND
        return Outcome(key, verdict, provider_id=f"po_{key}", code=self.code)

    def call(
        self, key: str, verdict: Verdict, event: str, at: datetime, **more: object
    ) -> dict[str, Any]:
        """Headers and body of a webhook."""
        body = json.dumps(
            {"id": event, "key": key, "verdict": verdict.value, "at": at.isoformat(), **more}
        ).encode()
        signature = hmac.new(self.SECRET.encode(), body, hashlib.sha256).hexdigest()
        return {"headers": {"X-Signature": signature}, "body": body}

    def read_webhook(
        self, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Sequence[Notice]:
        expected = hmac.new(self.SECRET.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, headers.get("x-signature", "")):
            raise Unauthenticated("webhook-signature", "The signature does not match.")
        said = json.loads(body)
        if abs(now - datetime.fromisoformat(said["at"])) > timedelta(minutes=5):
            raise Unauthenticated("webhook-stale", "Too old.")
        if "verdict" not in said:
            raise Refusal("webhook-malformed", "No verdict.")
        amount = Money(said["minor"], "EUR") if "minor" in said else None
        return [
            Notice(
                said["id"],
                Outcome(
                    said["key"], Verdict(said["verdict"]), code=said.get("code"), amount=amount
                ),
                said.get("batch"),
            )
        ]


class FileRail(ScriptedRail):
    """Many payments in one file; answers come as files."""

    def __init__(self, name: str, **rest: Any) -> None:
        rest.setdefault("batch_items", 3)
        rest.setdefault("replay_window", None)
        rest.setdefault("proof_after", None)
        super().__init__(name, **rest)
        self.out: list[RemoteFile] = []
        self.statements: dict[str, list[Statement]] = {}
        self.notices: dict[str, list[Notice]] = {}
        self.unreachable = False

    async def fetch(self, account: RailAccount, seen: frozenset[str]) -> Sequence[RemoteFile]:
        forbid_network()
        if self.unreachable:
            raise NeverSent("transport-unreachable", "The bank is away.")
        return [file for file in self.out if file.name not in seen]

    def read_file(
        self, account: RailAccount, name: str, body: bytes
    ) -> tuple[Sequence[Notice], Sequence[Statement]]:
        if body.startswith(b"broken"):
            raise Refusal("statement-malformed", "The file is cut off.")
        if body.startswith(b"poison"):
            raise RuntimeError("a fault in the reader")
        return self.notices.get(name, []), self.statements.get(name, [])
