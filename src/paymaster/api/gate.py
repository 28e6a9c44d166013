"""Who may come in at all: addresses that ask too much without being anybody, and guessers."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.types import Scope

from paymaster.api.addresses import Addresses
from paymaster.api.guesses import KeyGuesses, prefix_in
from paymaster.api.limiter import Limiter, Shared
from paymaster.settings import Web

_WRONG_SECRET = "credential-invalid"  # noqa: S105 - the slug of the refusal
_REMEMBERED = 10_000


class Gate:
    """Judges a request by where it comes from, before and after it is answered.

    Requests without a valid credential are counted by address, when they are answered. An address
    that is over its limit gets nothing answered but requests with a key that was valid from there
    before: a guesser beside an app's server, behind the same address, does not shut it out.
    """

    def __init__(
        self, settings: Web, shared: Shared, strangers: Limiter[str], guesses: KeyGuesses | None
    ) -> None:
        self.settings = settings
        self._shared = shared
        self._strangers = strangers
        self._guesses = guesses
        self._addresses = Addresses(settings.proxies, settings.forwarded_header)
        self._alone = not settings.trusted_proxies
        self._valid: set[tuple[str, str]] = set()

    async def close(self) -> None:
        """Charge what was counted."""
        await self._shared.close()

    def find(self, scope: Scope, headers: dict[bytes, bytes]) -> str:
        """By what the request's address is counted; puts the client's address into the scope."""
        if self._alone:
            self._addresses.distrusted(headers)
        return self._addresses.find(scope)

    def check(self, address: str, headers: dict[bytes, bytes]) -> None:
        """Raises RateLimited `rate-limited` or `locked-out`."""
        guesses = self._guesses
        if guesses is not None and guesses.locks:
            guesses.check(prefix_in(headers.get(b"authorization", b"")), address)
        left = self._strangers.over(address)
        if left is not None and (self._named(headers), address) not in self._valid:
            raise self._strangers.refusal(left)

    def answered(
        self,
        address: str,
        headers: dict[bytes, bytes],
        state: MutableMapping[str, Any],
        status: int,
    ) -> None:
        """Count what was answered."""
        actor: str | None = state.get("actor")
        if actor is None:
            if status != 429:
                self._strangers.note(address)
            if status == 401 and state.get("refused") == _WRONG_SECRET:
                self._failed(address, headers)
        elif self._strangers.knows(address) and actor.startswith("key:"):
            if len(self._valid) >= _REMEMBERED:
                self._valid.clear()
            self._valid.add((actor[4:], address))

    def _failed(self, address: str, headers: dict[bytes, bytes]) -> None:
        prefix = self._named(headers)
        if self._guesses is not None and prefix:
            self._guesses.failed(prefix, address)

    def _named(self, headers: dict[bytes, bytes]) -> str:
        return prefix_in(headers.get(b"authorization", b"")) or ""
