"""The interface of a rail: send, query, read a webhook, read a statement.

Three answers come from the outside: yes, no, unknown. A rail reports the outcome of each
instruction; an exception out of `send` means UNKNOWN for the whole batch unless it is `NeverSent`
(nothing left this machine) or `RailRefused` (definite no). What a rail can do is what it
implements: capability is `isinstance`, nothing raises "not implemented".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Protocol, runtime_checkable

from paymaster.kernel.money import Money


class Verdict(StrEnum):
    """What is known about a payment at the provider."""

    ACCEPTED = "accepted"
    """Taken in and will be executed; not yet proof of payment."""
    AWAITING = "awaiting"
    """Taken in; the payee must accept it with the provider before it is executed."""
    PAID = "paid"
    """The provider says that the money went out."""
    REJECTED = "rejected"
    """Definitely not paid and never will be under this key."""
    RETURNED = "returned"
    """Was paid, came back."""
    UNKNOWN = "unknown"
    """No proof either way."""
    NOT_FOUND = "not_found"
    """The provider does not know the key (proof only after the rail's stated lag)."""


@dataclass(frozen=True, slots=True)
class RailAccount:
    """Our account at a provider: a bank account, a merchant, a wallet.

    `settings` is the rail's own configuration without secrets (addresses, IBAN, BIC, folder
    names); `secrets` maps the rail's names for its secrets to names in the secret store.
    """

    id: int
    name: str
    rail: str
    currency: str
    settings: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Payee:
    """Where the money goes: the opened (unsealed) destination. Never logged."""

    kind: str
    details: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One payment to make. `key` is our reference (15 of [0-9A-Z]), the same at every try."""

    key: str
    amount: Money
    payee: Payee
    purpose: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Prepared:
    """The exact order as it will be sent: stored (sealed) before the network is touched.

    `batch_key` names the order (file name stem, request key). `body` is the canonical body: the
    file, or the request without its transport signature, which is made anew at every try.
    """

    batch_key: str
    body: bytes = field(repr=False)
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a payee needs to accept a payment in the provider's own app, until `expires_at`.

    Whoever has the `package` can open the provider's page: it is sealed at rest, shown to the payee
    alone, and neither logged nor told in events. `public` goes with it under the provider's names
    (a merchant's number, an app's id).
    """

    package: str = field(repr=False)
    expires_at: datetime
    public: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known about one key. `code` is the provider's own, for the failure dictionary.

    `confirmation` comes with AWAITING, where the provider gives it; not every answer repeats it.
    """

    key: str
    verdict: Verdict
    provider_id: str | None = None
    code: str | None = None
    detail: str | None = None
    amount: Money | None = None
    occurred_at: datetime | None = None
    confirmation: Confirmation | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Notice:
    """An authenticated message from the provider: `event_id` is unique there (deduplicates).

    With `batch_key` set the outcome speaks of a whole order (its `key` is the batch key): it holds
    for every payment of that order whose key is not in `but_not`. Banks answer so when they take
    or refuse a file as one. Without it the outcome speaks of the one payment `outcome.key`.
    """

    event_id: str
    outcome: Outcome
    batch_key: str | None = None
    but_not: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file the provider left for us."""

    name: str
    body: bytes = field(repr=False)


class LineKind(StrEnum):
    """What a statement line is."""

    PAYOUT = "payout"
    RETURN = "return"
    SET_APART = "set-apart"
    """It left the account for a payout, and may come back: no proof that the payee has it."""
    GIVEN_BACK = "given-back"
    """It is on the account again, whether the payout was paid before or never."""
    OWN = "own"
    """Our own money, from or to an account that is not in these books."""
    INCOMING = "incoming"
    TOPUP = "topup"
    FEE = "fee"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One booked line. `amount` is signed: positive came in, negative went out.

    `fee` is what the provider took on top, zero or positive. `line_id` is unique in the account for
    ever, so that a statement delivered twice changes nothing.
    """

    line_id: str
    kind: LineKind
    amount: Money
    fee: Money
    booked_on: date
    reference: str | None
    remittance: str | None = None
    code: str | None = None
    counterparty: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Statement:
    """An account's statement of one day.

    Opening + sum of amounts - sum of fees = closing. A bank's statement for which that is not so
    is refused by its reader; a provider's settlement is still evidence line by line, and
    `difference` says by how much its own sums are wrong: a break for reconciliation.
    """

    statement_id: str
    account: str
    day: date
    opening: Money
    closing: Money
    lines: tuple[StatementLine, ...]

    @property
    def difference(self) -> Money:
        """What the closing balance has beyond opening balance and lines; zero when they agree."""
        moved = sum(line.amount.minor - line.fee.minor for line in self.lines)
        return Money(self.closing.minor - self.opening.minor - moved, self.closing.currency)


@dataclass(frozen=True, slots=True)
class RailCaps:
    """What is fixed about a rail.

    `batch_items` 1 means one request a payment; more means files or batch calls, sent in windows.
    `replay_window` is how long the same bytes under the same key are safe to send again (None:
    never). `not_found_is_proof_after` is the provider's lag (None: a "not found" proves nothing).
    `pretends`: there is no real money behind it, so no live environment may use it.
    `business_days`: how many after the day of its execution a payment is with its payee; None: it
    is there within minutes, on any day.
    """

    name: str
    destination_kinds: frozenset[str]
    batch_items: int
    replay_window: timedelta | None
    not_found_is_proof_after: timedelta | None
    currencies: frozenset[str] | None = None
    pretends: bool = False
    business_days: int | None = None


@runtime_checkable
class Rail(Protocol):
    """What every rail does."""

    @property
    def caps(self) -> RailCaps:
        """What is fixed about it."""
        ...

    def prepare(
        self, account: RailAccount, batch_key: str, batch: Sequence[Instruction], now: datetime
    ) -> Prepared:
        """Make the exact bytes; pure and deterministic.

        Raises RailRefused `instruction-refused` for what cannot go: one problem for each such
        instruction, whose pointer is `/` and its key. Without them the rest can be prepared.
        """
        ...

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        """Send the prepared bytes; also again, under the same key.

        Raises NeverSent, RailRefused or RailUnknown for the whole; any other exception is unknown.
        NeverSent speaks of this try alone: it does not undo what an earlier try may have done.
        The provider's own code, where it gave one, is `error.extra["code"]`.
        """
        ...


@runtime_checkable
class Queries(Protocol):
    """Rails that can be asked what became of a key."""

    async def query(self, account: RailAccount, key: str) -> Outcome:
        """Ask. UNKNOWN when no answer could be had; NOT_FOUND when the provider has no such key."""
        ...


@runtime_checkable
class Cancels(Protocol):
    """Rails that can be asked to take back what is not yet final."""

    async def cancel(self, account: RailAccount, key: str) -> Outcome:
        """Ask the provider to take a payment back; asking again does no harm.

        What it answers is the truth of that moment: AWAITING or UNKNOWN while it is not decided,
        PAID when the payee was quicker. Only a terminal verdict frees money. Raises NeverSent
        when nothing was asked; any other exception is unknown.
        """
        ...


@runtime_checkable
class GivesReceipts(Protocol):
    """Rails whose providers make out a receipt of a payment."""

    async def receipt(self, account: RailAccount, key: str) -> bytes | None:
        """The file (PDF); it is asked for where it was not yet. None while it is being made.

        No money moves. Raises what `send` raises; RailRefused or RailDoubted where there is none.
        """
        ...


@runtime_checkable
class ReadsWebhooks(Protocol):
    """Rails that call us."""

    def read_webhook(
        self, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Sequence[Notice]:
        """Verify on the raw bytes, then translate; pure. Header names are lower case.

        Raises Unauthenticated `webhook-signature` or `webhook-stale`, Refusal `webhook-malformed`.
        """
        ...


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """What a provider hears about its message."""

    status: int
    content_type: str
    body: bytes


@runtime_checkable
class AnswersWebhooks(Protocol):
    """Rails whose providers want to hear certain words, and repeat a message until they do."""

    def webhook_answer(self, taken: bool) -> WebhookAnswer:
        """What to answer to a message that is durably kept (`taken`), or that was refused."""
        ...


@runtime_checkable
class FetchesFiles(Protocol):
    """Rails whose answers and statements come as files or downloads."""

    async def fetch(self, account: RailAccount, seen: frozenset[str]) -> Sequence[RemoteFile]:
        """New files, oldest first, without those whose names are in `seen`. At most 100 a call."""
        ...

    def read_file(
        self, account: RailAccount, name: str, body: bytes
    ) -> tuple[Sequence[Notice], Sequence[Statement]]:
        """Translate one file: answers about payments, and statements; pure.

        Raises Refusal `statement-malformed` (truncated, not the format, sums wrong) or
        `statement-foreign` (another account or currency).
        """
        ...


@runtime_checkable
class MayOnlyTakeIn(Protocol):
    """Rails whose accounts may be for taking money in alone."""

    def pays_out(self, account: RailAccount) -> bool:
        """Whether payouts may be given to this account at all."""
        ...


def pays_out(rail: Rail, account: RailAccount) -> bool:
    """Whether an account of the rail is for payouts."""
    return rail.pays_out(account) if isinstance(rail, MayOnlyTakeIn) else True


@runtime_checkable
class ChecksAccounts(Protocol):
    """Rails that can say whether an account is completely configured, without the network."""

    def check_account(self, account: RailAccount) -> None:
        """Raises Unprocessable `rail-account-invalid` with a problem for each wrong setting."""
        ...
