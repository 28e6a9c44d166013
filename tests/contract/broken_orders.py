"""Wallet rails that pay wrongly, or say the wrong thing about it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from tests.contract.defects import Wallet, broken

from paymaster.kernel.errors import (
    NeverSent,
    RailRefused,
    RailUnknown,
)
from paymaster.kernel.guard import TRANSACTION_OPEN
from paymaster.kernel.money import Money
from paymaster.rails.base import (
    Instruction,
    Notice,
    Outcome,
    Prepared,
    RailAccount,
    Statement,
    Verdict,
)
from paymaster.rails.deps import RailDeps

Read = tuple[Sequence[Notice], Sequence[Statement]]


@broken("pays twice", "pays-once")
class PaysTwice(Wallet):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        await self.under(account, prepared, prepared.keys[0] + "-again")
        return await super().send(account, prepared)


@broken("forgets to send", "pays-once")
class Forgets(Wallet):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        return [Outcome(key, Verdict.ACCEPTED) for key in prepared.keys]

    async def query(self, account: RailAccount, key: str) -> Outcome:
        return Outcome(key, Verdict.ACCEPTED)


@broken("says paid before it is", "paid-means-paid")
class AnswersBeforePaying(Wallet):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        found = await super().send(account, prepared)
        return [replace(outcome, verdict=Verdict.PAID) for outcome in found]


@broken("sends another reference than its key", "pays-once")
class LosesTheKey(Wallet):
    def prepare(
        self, account: RailAccount, batch_key: str, batch: Sequence[Instruction], now: datetime
    ) -> Prepared:
        prepared = super().prepare(account, batch_key, batch, now)
        request = json.loads(prepared.body) | {"reference": batch_key + "0"}
        return replace(prepared, body=json.dumps(request).encode())


@broken("takes a new idempotency key at each try", "same-bytes-again-pay-once")
class NewKeyAtEachTry(Wallet):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        return await self.under(account, prepared, secrets.token_hex(8))


@broken("forgets its idempotency key when the process restarts", "lost-answer-is-unknown")
class KeyOfTheProcess(Wallet):
    """Keeps the key in memory only: safe until the process that knew it is gone."""

    def __init__(self, deps: RailDeps) -> None:
        super().__init__(deps)
        self._mine = secrets.token_hex(4)

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        return await self.under(account, prepared, prepared.keys[0] + self._mine)


@broken("reads a lost answer as a rejection", "lost-answer-is-unknown")
class SwallowsUnknown(Wallet):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        try:
            return await super().send(account, prepared)
        except RailUnknown:
            return [Outcome(prepared.keys[0], Verdict.REJECTED, code="timeout")]


@broken("reads a lost answer as never sent", "lost-answer-is-unknown")
class CallsItUnsent(Wallet):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        try:
            return await super().send(account, prepared)
        except RailUnknown as error:
            raise NeverSent("provider-unreachable", error.detail) from error


@broken("reads the provider's failure as a rejection", "failure-is-unknown")
class FailureIsANo(Wallet):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        try:
            return await super().send(account, prepared)
        except RailUnknown as error:
            if error.slug == "provider-error":
                raise RailRefused("provider-refused", error.detail) from error
            raise


@broken("calls a refusal accepted", "refusal-is-definite")
class IgnoresRefusals(Wallet):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        try:
            return await super().send(account, prepared)
        except RailRefused:
            return [Outcome(prepared.keys[0], Verdict.ACCEPTED)]


@broken("loses the provider's code", "refusal-is-definite")
class LosesTheCode(Wallet):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        try:
            return await super().send(account, prepared)
        except RailRefused as error:
            raise RailRefused(error.slug, error.detail) from error


@broken("answers without an outcome", "pays-once")
class SaysNothing(Wallet):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        await super().send(account, prepared)
        return []


@broken("rounds the amount", "amounts-are-exact")
class RoundsTheAmount(Wallet):
    def prepare(
        self, account: RailAccount, batch_key: str, batch: Sequence[Instruction], now: datetime
    ) -> Prepared:
        def rounded(item: Instruction) -> Instruction:
            minor = max(round(item.amount.minor, -1), 10)
            return replace(item, amount=Money(minor, item.amount.currency))

        return super().prepare(account, batch_key, [rounded(item) for item in batch], now)


@broken("writes other bytes each time", "prepare-is-deterministic")
class OtherBytes(Wallet):
    def prepare(
        self, account: RailAccount, batch_key: str, batch: Sequence[Instruction], now: datetime
    ) -> Prepared:
        prepared = super().prepare(account, batch_key, batch, now)
        return replace(prepared, body=prepared.body + b" " * secrets.randbelow(1000))


@broken("pays in a currency that the account does not have", "refuses-what-it-cannot-pay")
class AnyCurrency(Wallet):
    def prepare(
        self, account: RailAccount, batch_key: str, batch: Sequence[Instruction], now: datetime
    ) -> Prepared:
        other = replace(account, currency=batch[0].amount.currency)
        return super().prepare(other, batch_key, batch, now)


@broken("looks up the wrong reference", "look-up-is-about-the-key")
class AnothersReference(Wallet):
    def __init__(self, deps: RailDeps) -> None:
        super().__init__(deps)
        self._last = ""

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        self._last = prepared.keys[0]
        return await super().send(account, prepared)

    async def query(self, account: RailAccount, key: str) -> Outcome:
        return replace(await super().query(account, self._last), key=key)


@broken("reads a failed look-up as not found", "unreachable-was-never-sent")
class NotFoundIsEasy(Wallet):
    async def query(self, account: RailAccount, key: str) -> Outcome:
        found = await super().query(account, key)
        if found.verdict is Verdict.UNKNOWN:
            return Outcome(key, Verdict.NOT_FOUND)
        return found


@broken("calls the provider inside a transaction", "no-network-inside-a-transaction")
class InsideATransaction(Wallet):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        token = TRANSACTION_OPEN.set(False)
        try:
            return await super().send(account, prepared)
        finally:
            TRANSACTION_OPEN.reset(token)
