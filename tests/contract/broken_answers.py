"""Rails that read notifications, settlements and bank files wrongly, or write wrong files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from tests.contract.defects import Wallet, broken

from paymaster.kernel.errors import (
    NeverSent,
    PaymasterError,
    RailUnknown,
    Refusal,
    Unauthenticated,
)
from paymaster.rails.base import (
    Instruction,
    LineKind,
    Notice,
    Outcome,
    Prepared,
    RailAccount,
    RemoteFile,
    Statement,
    Verdict,
)
from paymaster.rails.deps import RailDeps
from paymaster.rails.iso20022.rail import Iso20022Rail

Read = tuple[Sequence[Notice], Sequence[Statement]]


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
    async def fetch(self, account: RailAccount, seen: frozenset[str]) -> Sequence[RemoteFile]:
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
