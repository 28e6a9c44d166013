"""What answers to operators look like, for the OpenAPI document; see `shapes`."""

from __future__ import annotations

from typing import Any, Literal

from paymaster.api.shapes import DayText, MoneyOut, Shape, Time


class RailAccountOut(Shape):
    """Our account at a provider. `secrets` holds names of secrets, never values."""

    id: str
    name: str
    rail: str
    currency: str
    time_zone: str
    settings: dict[str, str]
    secrets: dict[str, str]
    payout_window: str
    state: str
    version: int


class WindowOut(Shape):
    """The window was closed in these cells: what waited leaves now."""

    rail_account: str
    cells: list[int]


class FundsLineOut(Shape):
    """One account and currency: what the books say we have there, owe, and cannot explain."""

    rail_account: str
    currency: str
    cash: MoneyOut
    clearing: MoneyOut
    suspense: MoneyOut


class FundsOut(Shape):
    """All accounts, what is on its way between them, and our position in exchanged currencies.

    `fx` is what was taken in less what was given out in exchange: below zero it is still to be
    bought.
    """

    data: list[FundsLineOut]
    transit: list[MoneyOut]
    fx: list[MoneyOut]


class TransferOut(Shape):
    """The company's own money between two of its accounts."""

    id: str
    from_account: str
    to_account: str
    amount: MoneyOut
    state: str
    reason: str
    actor: str
    created_at: Time
    trace_id: str


class RunOut(Shape):
    """One account's balance proof for a day."""

    id: str
    rail_account: str
    day: DayText
    opening: MoneyOut
    closing: MoneyOut
    ledger: MoneyOut
    outstanding: MoneyOut
    difference: MoneyOut
    lines: int
    matched: int
    breaks: int
    as_of_seq: int
    started_at: Time
    actor: str


class BreakOut(Shape):
    """Something that does not match, until it is explained."""

    id: str
    rail_account: str
    day: DayText
    kind: str
    subject: str
    expected: MoneyOut | None
    found: MoneyOut | None
    currency: str
    detail: str
    state: str
    owner: str | None
    resolution: str | None
    resolved_by: str | None
    opened_at: Time
    resolved_at: Time | None
    age_days: int


class BankStatementOut(Shape):
    """A statement that a provider sent."""

    id: str
    statement_id: str
    rail_account: str
    day: DayText
    opening: MoneyOut
    closing: MoneyOut
    lines: int
    open_lines: int
    restates: str | None
    received_at: Time


class LineOut(Shape):
    """A booked line of a statement."""

    id: str
    line_id: str
    kind: str
    amount: MoneyOut
    fee: MoneyOut
    booked_on: DayText
    reference: str | None
    code: str | None
    state: str
    matched: str | None


class AgeingOut(Shape):
    """Open breaks of one kind."""

    kind: str
    currency: str
    open: int
    oldest: DayText
    in_doubt: MoneyOut


class SummaryOut(Shape):
    """How reconciliation stands."""

    open_lines: int
    open_breaks: int
    breaks: list[AgeingOut]


class DayOut(Shape):
    """A closed day as it was signed."""

    day: DayText
    closed_seq: int
    totals: dict[str, Any]
    digest: str
    signature: str
    key_id: str
    actor: str
    closed_at: Time


class ProofOut(Shape):
    """What the proofs of all cells found."""

    ok: bool
    cells: list[dict[str, Any]]


class RuleSetOut(Shape):
    """The screening rules in force."""

    version: int
    rules: list[dict[str, Any]]


class TraceOut(Shape):
    """Everything known under one trace id."""

    trace_id: str
    commits: list[dict[str, Any]]
    withdrawals: list[dict[str, Any]]


class NoticeOut(Shape):
    """What a provider told about a payment (`payout`), or a charge or refund (`payin`).

    `message` is its name in the evidence of what it changed. `reference` is the one it names, if it
    has the form of ours. `slug` and `detail` say why it was laid aside; `changed`, once it is
    applied, how much it changed; `moved_to` is its id in the cell that it went to.
    """

    id: str
    message: str
    rail_account: str | None
    kind: Literal["payout", "payin"]
    reference: str | None
    state: Literal["waiting", "applied", "laid-aside", "closed", "moved"]
    slug: str | None
    detail: str | None
    changed: int | None
    moved_to: str | None
    tries: int
    received_at: Time
    trace_id: str


class RailFileOut(Shape):
    """A file that a provider left; `slug` and `detail` say why it was refused."""

    id: str
    rail_account: str | None
    name: str
    state: Literal["received", "read", "refused", "closed"]
    slug: str | None
    detail: str | None
    received_at: Time


class ReceivedOut(Shape):
    """A webhook was kept."""

    new: int
    again: int
    unmatched: int
