"""What answers about policies, reversals and debts look like, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from paymaster.api.shapes import MoneyOut, RewardOut, Shape, Time


class EarningPolicyOut(Shape):
    """A version of a source's policy."""

    source: str
    version: int
    terms: dict[str, Any]
    reason: str
    actor: str
    created_at: Time


class EarningPolicyHistoryOut(EarningPolicyOut):
    """The version in force, and all of them, newest first."""

    versions: list[EarningPolicyOut]


class ClawBackOut(Shape):
    """`reversed` with the reward, or `kept` until the event or its reward comes."""

    state: str
    reward: RewardOut | None


class EarlyReversalOut(Shape):
    """A claw-back whose event or reward never came."""

    source: str
    event_id: str
    reference: str
    user: str
    amount: MoneyOut | None
    reason: str
    received_at: Time


class DebtPartOut(Shape):
    """Part of a debt and the reversal that made it; `bearer` is who bears it when given up."""

    amount: MoneyOut
    reward: str
    campaign: str
    bearer: str
    reason: str
    opened_at: Time


class DebtOut(Shape):
    """What a user owes in one currency; the newest part first. `since` null: of unknown age."""

    user: str
    owed: MoneyOut
    since: Time | None
    age_days: int | None
    parts: list[DebtPartOut]


class BorneOut(Shape):
    """What one bears; `campaign` null is the house. `from_budget` came out of its budget."""

    campaign: str | None
    amount: MoneyOut
    from_budget: MoneyOut


class WriteOffOut(Shape):
    """A debt, or part of one, that was given up."""

    id: str
    user: str
    amount: MoneyOut
    state: str
    reason: str
    actor: str
    written_off_at: Time
    undone_reason: str | None
    undone_at: Time | None
    borne_by: list[BorneOut]


class UserDebtOut(Shape):
    """What a user owes, and what of it was given up before."""

    debts: list[DebtOut]
    write_offs: list[WriteOffOut]
