"""What the answers about funding look like, for the OpenAPI document; see `shapes`."""

from __future__ import annotations

from paymaster.api.shapes import DayText, MoneyOut, Shape, Time


class ForecastOut(Shape):
    """When an account runs dry. Null where too few days are known, or it is beyond 60 days.

    `top_up` covers what is queued, the minimum, and the next `cover_days` days.
    """

    history_days: int
    per_day: MoneyOut | None
    runs_dry_on: DayText | None
    cover_days: int
    top_up: MoneyOut


class FloatOut(Shape):
    """An account that pays. `free` is settled, less leaving, under way and unanswered."""

    rail_account: str
    id: str
    currency: str
    settled: MoneyOut
    leaving: MoneyOut
    under_way: MoneyOut
    unanswered: MoneyOut
    free: MoneyOut
    queued: MoneyOut
    minimum: MoneyOut
    queued_payments: int
    queued_since: Time | None
    forecast: ForecastOut


class PositionOut(Shape):
    """A currency. `short`: users are owed more than `cover`, by `missing`.

    `cover` is settled, less what was paid or given back and is on no statement yet, less our own
    income. `incoming` was paid to us and is on no statement yet: it covers nothing so far.
    """

    currency: str
    short: bool
    missing: MoneyOut
    settled: MoneyOut
    incoming: MoneyOut
    refunding: MoneyOut
    leaving: MoneyOut
    transit: MoneyOut
    between_cells: MoneyOut
    owed: MoneyOut
    debts: MoneyOut
    receivable: MoneyOut
    budgets: MoneyOut
    commission: MoneyOut
    fees: MoneyOut
    suspense: MoneyOut
    equity: MoneyOut
    fx: MoneyOut
    rail_fees: MoneyOut
    losses: MoneyOut
    other: MoneyOut
    cover: MoneyOut
    owed_by_kind: dict[str, MoneyOut] | None


class FundingOut(Shape):
    """How the environment stands. `waiting` counts withdrawals that a float does not cover."""

    mode: str
    as_of_seqs: dict[str, int]
    currencies: list[PositionOut]
    rail_accounts: list[FloatOut]
    waiting: int
