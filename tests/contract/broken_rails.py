"""Rails with one defect each. The suite must catch every one of them, by name.

Each is a real rail with a single change, of a kind that payment systems have really shipped with.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from paymaster.kernel.errors import (
    NeverSent,
    PaymasterError,
    RailRefused,
    RailUnknown,
    Refusal,
    Unauthenticated,
)
from paymaster.kernel.guard import TRANSACTION_OPEN
from paymaster.kernel.money import Money
from paymaster.rails.base import (
    Instruction,
    LineKind,
    Notice,
    Outcome,
    Prepared,
    Rail,
    RailAccount,
    RemoteFile,
    Statement,
    Verdict,
)
from paymaster.rails.deps import RailDeps
from paymaster.rails.iso20022.rail import Iso20022Rail
from paymaster.rails.sandbox_wallet.rail import SandboxWalletRail

Read = tuple[Sequence[Notice], Sequence[Statement]]


@dataclass(frozen=True, slots=True)
class BrokenRail:
    """A defect: what it is, on which rail, and the check that has to catch it."""

    name: str
    rail: str
    caught_by: str
    make: Callable[[RailDeps], Rail]


BROKEN: list[BrokenRail] = []


def broken(name: str, caught_by: str) -> Callable[[type], type]:
    """Register a defective rail."""

    def register(made: type) -> type:
        rail = "sandbox-wallet" if issubclass(made, SandboxWalletRail) else "iso20022"
        BROKEN.append(BrokenRail(name, rail, caught_by, made))
        return made

    return register


def renamed(prepared: Prepared, key: str) -> Prepared:
    """The same request under another idempotency key, with the reference as it was."""
    return replace(prepared, keys=(key,))


class Wallet(SandboxWalletRail):
    """The wallet rail with its HTTP call within reach."""

    async def under(self, account: RailAccount, prepared: Prepared, key: str) -> Sequence[Outcome]:
        """Send under an idempotency key of one's own choosing."""
        return await super().send(account, renamed(prepared, key))


# ------------------------------------------------------------------ orders over HTTP


@broken("pays twice", "pays-once")
class PaysTwice(Wallet):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        await self.under(account, prepared, prepared.keys[0] + "-again")
        return await super().send(account, prepared)


@broken("forgets to send", "pays-once")
class Forgets(Wallet):
    async def send(self, _account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        return [Outcome(key, Verdict.ACCEPTED) for key in prepared.keys]

    async def query(self, _account: RailAccount, key: str) -> Outcome:
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


# ------------------------------------------------------------------ notifications


class Unverified(Wallet):
    """Reads a notification as if its signature or its age did not matter."""

    forgives: tuple[str, ...] = ()

    def read_webhook(
        self, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Sequence[Notice]:
        try:
            return super().read_webhook(account, headers, body, now)
        except Unauthenticated as error:
            if error.slug in self.forgives:
                return []
            raise


@broken("believes a forged notification", "forged-webhook-is-refused")
class BelievesForgeries(Unverified):
    forgives = ("webhook-signature",)


@broken("believes a stale notification", "stale-webhook-is-refused")
class BelievesStaleOnes(Unverified):
    forgives = ("webhook-stale",)


@broken("signs only the header", "forged-webhook-is-refused")
class IgnoresTheBody(Wallet):
    """Trusts a body as long as some earlier notification carried the same headers."""

    def __init__(self, deps: RailDeps) -> None:
        super().__init__(deps)
        self._known: dict[str, Sequence[Notice]] = {}

    def read_webhook(
        self, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Sequence[Notice]:
        signature = headers.get("sandpay-signature", "")
        if signature not in self._known:
            try:
                self._known[signature] = super().read_webhook(account, headers, body, now)
            except Unauthenticated:
                if not headers:
                    raise
                return []
        return self._known[signature]


@broken("makes a new event of every copy", "webhook-is-read")
class EveryCopyIsNew(Wallet):
    _count = itertools.count()

    def read_webhook(
        self, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Sequence[Notice]:
        found = super().read_webhook(account, headers, body, now)
        return [replace(notice, event_id=str(next(self._count))) for notice in found]


# ------------------------------------------------------------------ settlements


@broken("believes a truncated settlement", "truncated-file-is-refused")
class BelievesHalves(Wallet):
    def read_file(self, account: RailAccount, name: str, body: bytes) -> Read:
        try:
            return super().read_file(account, name, body)
        except Refusal as error:
            if error.slug == "statement-malformed":
                return [], []
            raise


@broken("believes a foreign settlement", "foreign-file-is-refused")
class BelievesStrangers(Wallet):
    def read_file(self, account: RailAccount, name: str, body: bytes) -> Read:
        return super().read_file(replace(account, currency="EUR"), name, body)


@broken("leaves a line of the settlement out", "statement-equals-payments")
class SkipsALine(Wallet):
    def read_file(self, account: RailAccount, name: str, body: bytes) -> Read:
        notices, statements = super().read_file(account, name, body)
        return notices, [replace(each, lines=each.lines[1:]) for each in statements]


@broken("gives a settlement again and again", "files-are-fetched-once")
class ForgetsWhatWasSeen(Wallet):
    async def fetch(self, account: RailAccount, _seen: frozenset[str]) -> Sequence[RemoteFile]:
        return await super().fetch(account, frozenset())


@broken("does not tell of returns", "returns-are-reported")
class HidesReturns(Wallet):
    def read_webhook(
        self, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Sequence[Notice]:
        found = super().read_webhook(account, headers, body, now)
        return [each for each in found if each.outcome.verdict is not Verdict.RETURNED]

    async def query(self, account: RailAccount, key: str) -> Outcome:
        found = await super().query(account, key)
        hidden = found.verdict is Verdict.RETURNED
        return replace(found, verdict=Verdict.PAID) if hidden else found

    def read_file(self, account: RailAccount, name: str, body: bytes) -> Read:
        notices, statements = super().read_file(account, name, body)
        return [n for n in notices if n.outcome.verdict is not Verdict.RETURNED], statements


# ------------------------------------------------------------------ bank files


@broken("drops an item of a batch", "pays-every-item")
class DropsAnItem(Iso20022Rail):
    def prepare(
        self, account: RailAccount, batch_key: str, batch: Sequence[Instruction], now: datetime
    ) -> Prepared:
        kept = batch[:-1] if len(batch) > 1 else batch
        prepared = super().prepare(account, batch_key, kept, now)
        return replace(prepared, keys=tuple(item.key for item in batch))


@broken("makes a new file at each try", "same-bytes-again-pay-once")
class NewFileAtEachTry(Iso20022Rail):
    _count = itertools.count(1)

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        name = f"{prepared.batch_key}N{next(self._count)}"
        body = prepared.body.replace(prepared.batch_key.encode(), name.encode())
        return await super().send(account, replace(prepared, batch_key=name, body=body))


@broken("reads a refused second copy as a refusal", "same-bytes-again-pay-once")
class DuplicateIsANo(Iso20022Rail):
    def read_file(self, account: RailAccount, name: str, body: bytes) -> Read:
        def flat(notice: Notice) -> Notice:
            if notice.outcome.code != "AM05":
                return notice
            return replace(notice, outcome=replace(notice.outcome, verdict=Verdict.REJECTED))

        notices, statements = super().read_file(account, name, body)
        return [flat(notice) for notice in notices], statements


@broken("stamps a file with the present moment", "prepare-is-deterministic")
class StampsTheFile(Iso20022Rail):
    _count = itertools.count(1)

    def prepare(
        self, account: RailAccount, batch_key: str, batch: Sequence[Instruction], now: datetime
    ) -> Prepared:
        later = now.replace(second=(now.second + next(self._count)) % 60)
        return super().prepare(account, batch_key, batch, later)


@broken("reads an undelivered file as refused", "unreachable-was-never-sent")
class UnreachableIsANo(Iso20022Rail):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        try:
            return await super().send(account, prepared)
        except PaymasterError:
            return [Outcome(key, Verdict.REJECTED) for key in prepared.keys]


@broken("reads a lost connection as never sent", "lost-answer-is-unknown")
class CutMeansUnsent(Iso20022Rail):
    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        try:
            return await super().send(account, prepared)
        except RailUnknown as error:
            raise NeverSent("transport-unreachable", error.detail) from error


@broken("believes a foreign statement", "foreign-file-is-refused")
class AnyAccount(Iso20022Rail):
    def read_file(self, account: RailAccount, name: str, body: bytes) -> Read:
        try:
            return super().read_file(account, name, body)
        except Refusal as error:
            if error.slug == "statement-foreign":
                return [], []
            raise


@broken("takes a statement's returns for payments", "statement-equals-payments")
class MixesSigns(Iso20022Rail):
    def read_file(self, account: RailAccount, name: str, body: bytes) -> Read:
        notices, statements = super().read_file(account, name, body)
        return notices, [
            replace(
                each,
                lines=tuple(
                    replace(line, kind=LineKind.PAYOUT) if line.kind is LineKind.RETURN else line
                    for line in each.lines
                ),
            )
            for each in statements
        ]
