"""What answers look like, for the OpenAPI document.

Answers are written by the packages' views; these models describe them, so that a client can be
generated and a test can hold the answers against the document. Clients ignore fields they do not
know: answers grow.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")
Time = Annotated[str, Field(examples=["2026-01-31T12:00:00.000Z"])]
DayText = Annotated[str, Field(examples=["2026-01-31"])]


class Shape(BaseModel):
    """An answer or a part of one."""

    model_config = ConfigDict(extra="allow")


class MoneyOut(Shape):
    """Money: a decimal string with all decimals of the currency."""

    amount: str
    currency: str


class Page(Shape, Generic[T]):
    """A page of a list. `next_cursor` is null on the last one."""

    data: list[T]
    next_cursor: str | None


class FaultOut(Shape):
    """One fault: a JSON pointer into the body, or `query:name`, `path:name`, `line:N`."""

    pointer: str
    detail: str


class ProblemOut(Shape):
    """An error, RFC 9457. `code` is stable; see the error reference."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    trace_id: str | None = None
    errors: list[FaultOut] = []


class UserOut(Shape):
    """A user."""

    id: str
    external_id: str
    status: str
    status_reason: str | None
    profile: dict[str, Any] | None
    created_at: Time


class DestinationOut(Shape):
    """Where a user's money goes, masked."""

    id: str
    user: str
    kind: str
    currency: str
    mask: str
    state: str
    closed_reason: str | None
    paused_at: Time | None
    paused_code: str | None
    usable_at: Time
    created_at: Time


class VestingItemOut(Shape):
    """Part of a reward that becomes available later."""

    amount: MoneyOut
    matures_at: Time


class VestingOut(Shape):
    """What is earned and not yet available; at most 100 items, the soonest first."""

    total: MoneyOut
    items: list[VestingItemOut]


class ReserveItemOut(Shape):
    """Part of a matured reward that stays aside until its date."""

    amount: MoneyOut
    releases_at: Time


class ReserveOut(Shape):
    """What is kept aside; at most 100 items, the soonest to be released first."""

    total: MoneyOut
    items: list[ReserveItemOut]


class HeldOut(Shape):
    """Money set aside for something under way."""

    amount: MoneyOut
    reason: str
    ref: str


class BalanceOut(Shape):
    """A user's money in one currency, from one snapshot."""

    available: MoneyOut
    vesting: VestingOut
    held: list[HeldOut]
    reserve: ReserveOut
    in_transit: MoneyOut
    debt: MoneyOut
    withdrawable: MoneyOut
    as_of_seq: int


class BalancesOut(Shape):
    """All currencies of a user."""

    user: str
    data: list[BalanceOut]


class StatementLineOut(Shape):
    """One movement of an account, `amount` signed, `balance` after it."""

    entry: str
    kind: str
    subject: str
    counter_kind: str
    amount: MoneyOut
    balance: MoneyOut
    effective_at: Time
    recorded_at: Time
    trace_id: str


class ArchivedOut(Shape):
    """Which archive holds what is older: its month, and the SHA-256 of its file."""

    month: str
    sha256: str


class StatementOut(Shape):
    """A page of a statement. `next_cursor` is null on the last one."""

    data: list[StatementLineOut]
    next_cursor: str | None
    archived: ArchivedOut | None


class BalanceAtOut(Shape):
    """A balance as it stood."""

    user: str
    kind: str
    balance: MoneyOut
    at: Time
    basis: str


class UserTaskOut(Shape):
    """A task as one user sees it."""

    id: str
    campaign: str
    type: str
    title: str
    reward: MoneyOut
    state: str
    expires_at: Time | None


class SubmittedOut(Shape):
    """What became of work that was handed in; `reward` is the id of the reward it brought."""

    status: str
    reward: str | None


class SponsorOut(Shape):
    """Who pays for campaigns."""

    id: str
    external_id: str
    name: str
    created_at: Time


class BudgetOut(Shape):
    """A campaign's money over all cells."""

    funded: MoneyOut
    spent: MoneyOut
    remaining: MoneyOut


class CountersOut(Shape):
    """What a campaign has brought so far, over all cells."""

    events: int
    users: int
    rewards: int
    rewarded: MoneyOut
    awaiting_funds: int


class CampaignOut(Shape):
    """A campaign. Sponsors pay under `funding_reference`."""

    id: str
    external_id: str
    sponsor: str
    name: str
    currency: str
    starts_at: Time
    ends_at: Time | None
    state: str
    when_exhausted: str
    vesting_seconds: int
    targeting: dict[str, Any]
    funding_reference: str
    version: int
    created_at: Time
    budget: BudgetOut | None = None
    counters: CountersOut | None = None


class TaskOut(Shape):
    """A task of a campaign."""

    id: str
    external_id: str
    campaign: str
    type: str
    title: str
    reward: MoneyOut
    verification: dict[str, Any]
    requirements: dict[str, Any]
    user_cap: int | None
    starts_at: Time
    expires_at: Time | None
    state: str
    version: int
    created_at: Time


class GoldOut(Shape):
    """How many gold answers came, and how many of them were new or different."""

    answers: int
    changed: int


class RejectedOut(Shape):
    """An event that was not taken in; it is in the dead-letter list."""

    line: int
    event_id: str | None
    slug: str | None
    detail: str | None


class IntakeOut(Shape):
    """What became of a batch. `accepted` counts all that were taken in, rewarded or not."""

    accepted: int
    rewarded: int
    awaiting_funds: int
    duplicates: int
    rejected: list[RejectedOut]


class DeadLetterOut(Shape):
    """A line that was not taken in."""

    id: str
    source: str
    line: int
    event_id: str | None
    slug: str
    detail: str
    received_at: Time
    trace_id: str


class RewardPolicyOut(Shape):
    """The policy that a reward was made under."""

    source: str
    version: int


class RewardOut(Shape):
    """A reward of a user. `waits_for` says why it matures later than it was promised."""

    id: str
    campaign: str
    task: str
    occurrence: str
    amount: MoneyOut
    taken_back: MoneyOut
    state: str
    matures_at: Time
    waits_for: str | None
    policy: RewardPolicyOut | None
    created_at: Time
    trace_id: str


class RequestedOut(Shape):
    """A withdrawal that was just asked for."""

    id: str
    user: str
    destination: str
    amount: MoneyOut
    fee: MoneyOut
    fee_payer: str
    payout: MoneyOut
    quote: str | None
    state: str
    requested_at: Time
    trace_id: str


class WithdrawalOut(Shape):
    """A withdrawal as a line of a list.

    `challenge` is `asked` while a proof is waited for, `answered` while what was given is judged.
    """

    id: str
    user: str
    external_id: str
    destination: str
    destination_kind: str
    destination_mask: str
    amount: MoneyOut
    fee: MoneyOut
    fee_payer: str
    payout: MoneyOut
    rate: str | None
    quote: str | None
    state: str
    challenge: Literal["asked", "answered"] | None
    reason: str | None
    requested_at: Time
    trace_id: str
    version: int


class StoryOut(WithdrawalOut):
    """Everything that happened to one withdrawal, oldest first in each list."""

    moves: list[dict[str, Any]]
    attempts: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    entries: list[dict[str, Any]]
    acts: list[dict[str, Any]]
