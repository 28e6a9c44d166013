"""The one error of the embedded server; apart, so that each module here can raise it."""

from __future__ import annotations

from paymaster.kernel.errors import Broken


class EmbeddedPostgresError(Broken):
    """The embedded PostgreSQL cannot be found, started, reached or stopped.

    The message says what stands in the way and what to do about it. It never holds a password.
    """

    def __init__(self, message: str) -> None:
        super().__init__("embedded-postgres", message)
