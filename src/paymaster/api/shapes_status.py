"""What answers about the state of a user's money look like, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from paymaster.api.shapes import DayText, MoneyOut, Shape, Time


class ToldOut(Shape):
    """A code for programs, with words for people."""

    message: str


class WhereOut(ToldOut):
    """`set-aside`, `on-its-way`, `with-payee` or `back`; `repaid` of it paid what was owed."""

    where: str
    repaid: MoneyOut | None


class NextOut(ToldOut):
    """Who acts next: `user`, `operator`, `provider`, `paymaster` or `nobody`."""

    who: str


class ExpectedOut(ToldOut):
    """By when it should be with the payee; `by` is null where nobody can tell."""

    by: Time | None
    late: bool


class FailureOut(ToldOut):
    """What went wrong. `code`, `category` and `operator` are for the staff."""

    fix: str
    retryable: bool
    code: str | None
    category: str | None
    operator: str | None
    closes_destination: bool | None


class StepOut(ToldOut):
    """Something that happened. The staff also gets `state`, `event`, `actor` and `reason`."""

    at: Time
    stage: str


class FiguresOut(Shape):
    """Amounts, references and dates, as far as there are any."""

    reference: str | None
    provider_id: str | None
    amount: MoneyOut
    fee: MoneyOut
    fee_payer: str
    total: MoneyOut
    payout: MoneyOut
    rate: str | None
    requested_at: Time
    sent_at: Time | None
    paid_at: Time | None
    booked_on: DayText | None
    returned_at: Time | None


class ExplainedOut(Shape):
    """How a withdrawal stands, and why."""

    language: str
    withdrawal: str
    user: str
    destination: str
    stage: str
    message: str
    challenge: Literal["asked", "answered"] | None
    money: WhereOut
    next: NextOut
    expected: ExpectedOut
    failure: FailureOut | None
    history: list[StepOut]
    receipt: FiguresOut
    staff: dict[str, Any] | None


class ConfirmationOut(Shape):
    """What opens the provider's page; `public` has the provider's own names."""

    withdrawal: str
    package: str
    expires_at: Time
    public: dict[str, str]


class ReceiptOut(FiguresOut):
    """The receipt of a payment."""

    withdrawal: str
    user: str
    destination: str
    destination_kind: str
    destination_mask: str
    state: str


class PartOut(Shape):
    """A total and what it is made of."""

    total: MoneyOut
    items: list[dict[str, Any]]


class ReturnedOut(Shape):
    """What failed or came back in the last 30 days."""

    items: list[dict[str, Any]]


class DebtOut(Shape):
    """What is owed, and what pays it back."""

    total: MoneyOut
    message: str | None


class CurrencyOut(Shape):
    """A user's money in one currency. `held` and `sent` together are what is set aside."""

    currency: str
    available: MoneyOut
    withdrawable: MoneyOut
    maturing: PartOut
    reserve: PartOut
    held: PartOut
    sent: PartOut
    in_transit: MoneyOut
    returned: ReturnedOut
    debt: DebtOut


class MoneyWhereOut(Shape):
    """Where a user's money is, from one snapshot."""

    user: str
    language: str
    as_of_seq: int
    data: list[CurrencyOut]
