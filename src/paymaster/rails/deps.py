"""What a rail is given, and how it reads the account that it works for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import httpx

from paymaster.kernel.clock import Clock
from paymaster.kernel.errors import PaymasterError, Problem, Unprocessable
from paymaster.rails import meaning
from paymaster.rails.base import RailAccount
from paymaster.rails.http import client_with_identity, refuses_identity
from paymaster.rails.meaning import Kind


@dataclass(frozen=True, slots=True)
class RailDeps:
    """Everything a rail may use of the outside.

    `http` is shared and made by `paymaster.rails.http.new_client`. `secret` gives the current value
    of a named secret, so that a rotated one is used without a restart. `client_with` makes a client
    that shows a certificate of ours (PEM, with its key): for one call, to be closed after it.
    `refuses` says whether the server at an address breaks off because of such a certificate.
    """

    http: httpx.AsyncClient
    secret: Callable[[str], str]
    clock: Clock
    client_with: Callable[[str], httpx.AsyncClient] = client_with_identity
    refuses: Callable[[str, str], Awaitable[bool]] = refuses_identity


def setting(account: RailAccount, name: str) -> str:
    """A setting that must be there. Raises NeverSent `rail-account-invalid`."""
    value = account.settings.get(name, "").strip()
    if not value:
        raise meaning.error(
            Kind.ACCOUNT, f"The rail account {account.name} has no setting {name!r}."
        )
    return value


def secret(deps: RailDeps, account: RailAccount, name: str) -> str:
    """The account's secret of that name. Raises NeverSent `rail-secret-missing`."""
    stored_as = account.secrets.get(name)
    if stored_as is None:
        raise meaning.error(
            Kind.SECRET, f"The rail account {account.name} names no secret {name!r}."
        )
    try:
        value = deps.secret(stored_as)
    except (PaymasterError, LookupError, OSError, ValueError) as error:
        raise meaning.error(
            Kind.SECRET, f"The secret {name!r} of {account.name} cannot be read."
        ) from error
    if not value.strip():
        raise meaning.error(Kind.SECRET, f"The secret {name!r} of {account.name} is empty.")
    return value


def refuse_incomplete(
    account: RailAccount, settings: Iterable[str], secrets: Iterable[str], more: Iterable[Problem]
) -> None:
    """Raises Unprocessable `rail-account-invalid` if a name is missing or `more` is not empty."""
    problems = [
        Problem(f"/settings/{name}", "This setting is required.")
        for name in settings
        if not account.settings.get(name, "").strip()
    ]
    problems += [
        Problem(f"/secrets/{name}", "Name the secret that holds this value.")
        for name in secrets
        if not account.secrets.get(name, "").strip()
    ]
    problems += list(more)
    if problems:
        raise Unprocessable(
            "rail-account-invalid",
            f"The rail account {account.name} cannot be used as it stands.",
            problems=problems,
        )
