"""A provider whose payees accept each payment themselves, and that can take one back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tests.scripted_rails import AskableRail

from paymaster.kernel.errors import RailError
from paymaster.kernel.guard import forbid_network
from paymaster.rails.base import (
    Confirmation,
    Outcome,
    Prepared,
    RailAccount,
    Verdict,
    WebhookAnswer,
)

EXPIRES = datetime.fromisoformat("2026-11-21T09:00:00+00:00")


class ConfirmingRail(AskableRail):
    """Takes each key once; its payees are then waited for, until the test says what they did."""

    def __init__(self, name: str = "wallet", **rest: object) -> None:
        super().__init__(name, **rest)
        self.verdict = Verdict.AWAITING
        self.taken: list[str] = []
        """Keys in the order in which they came first."""
        self.cancelled: list[str] = []
        """Every request to take one back."""
        self.cancels: list[Outcome | RailError] = []
        """What the next such requests bring; after that they bring nothing final."""
        self.hides = False
        """Whether the package is left out of answers to orders."""
        self.expires_at = EXPIRES

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        found = await super().send(account, prepared)
        self.paid.clear()
        told: list[Outcome] = []
        for each in found:
            if each.key not in self.taken:
                self.taken.append(each.key)
            way = None if self.hides else self.way(each.key)
            told.append(
                Outcome(each.key, each.verdict, each.provider_id, each.code, confirmation=way)
            )
        return told

    def way(self, key: str) -> Confirmation:
        public = {"mchId": "1900000109", "appId": "wx0123456789abcdef"}
        return Confirmation(f"package-of-{key}", self.expires_at, public)

    async def query(self, account: RailAccount, key: str) -> Outcome:
        found = await super().query(account, key)
        if key in self.taken and key not in self.answers:
            return Outcome(key, Verdict.AWAITING, provider_id=f"po_{key}")
        if found.verdict is Verdict.PAID:
            self.paid[key] = 1
        return found

    async def cancel(self, account: RailAccount, key: str) -> Outcome:
        forbid_network()
        self.cancelled.append(key)
        said = self.cancels.pop(0) if self.cancels else Outcome(key, Verdict.UNKNOWN)
        if isinstance(said, RailError):
            raise said
        return said

    def webhook_answer(self, taken: bool) -> WebhookAnswer:
        word = b"success" if taken else b"fail"
        return WebhookAnswer(200 if taken else 401, "text/plain", word)


class StubbornRail(AskableRail):
    """Waits for payees as well, but takes nothing back."""

    def __init__(self, name: str = "wallet") -> None:
        super().__init__(name)
        self.verdict = Verdict.AWAITING
