"""Who calls: an app's server with its key, an earner, or a person of the staff."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paymaster.kernel.errors import Forbidden
from paymaster.kernel.ids import Ref

Kind = Literal["server", "user", "staff"]


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller who was recognised, in one environment.

    `caller_id` owns idempotency keys and is what requests are counted by: the id of the key, of the
    person, or minus the id of the earner. `actor` names the caller in audit and logs:
    `key:pk_test_1a2b3c4d`, `user:us_...` or `person:pe_...`.

    `person_id` is the human behind it, where one is known: of a session of the staff, or the owner
    of a key. Four eyes count persons. `user` is the earner; nobody else has one.

    `within` are the scopes of the key that had an earner's token made: with it he does no more than
    the key may. None means that no key stands behind him.
    """

    kind: Kind
    environment_id: int
    caller_id: int
    actor: str
    scopes: frozenset[str]
    person_id: int | None = None
    user: Ref | None = None
    within: frozenset[str] | None = None

    def require_own(self, scope: str) -> None:
        """Of an earner, about what is his. Raises Forbidden `scope-missing`."""
        if self.within is not None and scope not in self.within:
            raise Forbidden(
                "scope-missing", f"The key that this token was made by lacks the scope {scope!r}."
            )

    @property
    def reads_holds(self) -> bool:
        """Whether they may know of orders by authorities."""
        return "holds:read" in self.scopes

    def require(self, scope: str) -> None:
        """Raises Forbidden `scope-missing`."""
        if scope not in self.scopes:
            raise Forbidden("scope-missing", f"{_WHOSE[self.kind]} lacks the scope {scope!r}.")


_WHOSE: dict[Kind, str] = {
    "server": "The key",
    "user": "The token of a user",
    "staff": "The role of this person",
}
