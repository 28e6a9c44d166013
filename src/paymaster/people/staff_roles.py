"""What persons of the staff may do: a role in an environment is a set of scopes."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from paymaster.people.scopes import SCOPES


class Role(StrEnum):
    """A person has one role in each environment, or none there."""

    SUPPORT = "support"
    """Helps users: reads, and changes users and their destinations."""
    FINANCE = "finance"
    """Moves money: reviews, transfers, reconciles, closes the day."""
    RISK = "risk"
    """Reviews, holds, reverses, obeys orders of authorities, and changes the rules."""
    ADMIN = "admin"
    """Everything, and who else may what."""
    AUDITOR = "auditor"
    """Reads everything, the audit trail too, and changes nothing."""


SCOPES_OF: dict[Role, frozenset[str]] = {
    Role.SUPPORT: frozenset({"read", "users"}),
    Role.FINANCE: frozenset({"read", "operate", "withdrawals", "holds:read"}),
    Role.RISK: frozenset({"read", "operate", "risk", "holds:read"}),
    Role.ADMIN: frozenset(SCOPES),
    Role.AUDITOR: frozenset({"read", "audit", "holds:read"}),
}
"""What each role may do."""


OF_STAFF = frozenset({"operate", "risk", "holds:read", "audit", "staff"})
"""What the staff does; the other scopes are the work of an app's server too."""


def scopes_of(role: str, lent: Iterable[str] = ()) -> frozenset[str]:
    """The scopes of a person's role, and of those that are lent to the person.

    What is lent for minutes gives no say in who may what: that would outlive the loan.
    """
    given = (SCOPES_OF[Role(one)] - {"staff"} for one in lent)
    return SCOPES_OF[Role(role)].union(*given)
