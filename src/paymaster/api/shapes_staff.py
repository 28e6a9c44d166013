"""What answers about persons, approvals and the audit trail look like; see `shapes`."""

from __future__ import annotations

from typing import Any

from paymaster.api.shapes import MoneyOut, Shape, Time


class ApprovalOut(Shape):
    """An act that waits for a second person, or did. `subject` is what it is about."""

    approval: str
    state: str
    act: str
    subject: str
    amount: MoneyOut | None
    body: dict[str, Any]
    reason: str
    proposer: str
    proposed_at: Time
    expires_at: Time
    decider: str | None
    decided_at: Time | None
    decision_reason: str | None
    trace_id: str


WAITING: dict[int | str, dict[str, Any]] = {
    202: {"model": ApprovalOut, "description": "Not done: it waits for a second person."}
}
"""What acts answer that may need a second person."""


class DecidedOut(Shape):
    """An approval that was decided; `result` is the answer of the act, where it was done."""

    approval: ApprovalOut
    result: dict[str, Any] | None


class LimitOut(Shape):
    """Above this amount the act needs a second person."""

    act: str
    limit: MoneyOut
    changed_at: Time


class LimitsOut(Shape):
    """All limits, and the acts that there can be limits for."""

    data: list[LimitOut]
    acts: dict[str, str]


class LentOut(Shape):
    """A role that was lent by break-glass and is not over."""

    id: str
    role: str
    reason: str
    started_by: str
    started_at: Time
    ends_at: Time


class MemberOut(Shape):
    """A person with a role in this environment."""

    id: str
    email: str
    name: str
    state: str
    role: str
    created_at: Time
    last_login_at: Time | None
    break_glass: list[LentOut]


class MembersOut(Shape):
    """Everybody with a role in this environment."""

    data: list[MemberOut]


class ProviderOut(Shape):
    """Where persons log in. `secret_name` names a secret, it does not hold it."""

    id: str
    tenant: str | None
    issuer: str
    client_id: str
    secret_name: str | None
    email_domains: list[str]
    groups_claim: str | None
    group_roles: dict[str, str]
    state: str
    created_at: Time


class ProvidersOut(Shape):
    """The providers by which persons of this environment may log in."""

    data: list[ProviderOut]


class SessionOut(Shape):
    """An open session of one's own."""

    id: str
    origin: str | None
    started_at: Time
    used_at: Time
    expires_at: Time
    current: bool


class SessionsOut(Shape):
    """All open sessions of one's own."""

    data: list[SessionOut]


class ActOut(Shape):
    """An act in the audit trail."""

    id: str
    actor: str
    action: str
    subject: str
    reason: str | None
    detail: dict[str, Any]
    origin: str | None
    trace_id: str
    acted_at: Time


class MeOut(Shape):
    """Who calls. `csrf_token` and `session` only with a session's cookie."""

    kind: str
    actor: str
    environment: dict[str, str]
    scopes: list[str]
    person: str | None
    user: str | None
    role: str | None
    break_glass: list[str]
    session: SessionOut | None
    csrf_token: str | None
