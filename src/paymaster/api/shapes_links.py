"""What answers about links look like, for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from paymaster.api.shapes import Shape, Time


class ConsentOut(Shape):
    """A payee's consent; `package` opens the provider's page while it waits for the payee."""

    destination: str
    state: Literal["none", "waiting", "in_effect", "closed", "unknown"]
    package: str | None
    expires_at: Time | None
    public: dict[str, str]


class WayOut(Shape):
    """Where the browser goes now; its cookie must come back with it."""

    provider: str
    authorize_url: str
    expires_at: Time


class LinkOut(Shape):
    """A linked account; `usable_at` is when its destination may be paid to."""

    id: str
    user: str
    provider: str
    destination: str
    destination_state: str
    mask: str
    linked_at: Time
    usable_at: Time


class LinksOut(Shape):
    """The links of a user."""

    data: list[LinkOut]


class LinkProviderOut(Shape):
    """Where users of the environment link accounts; secrets go by their names."""

    provider: str
    settings: dict[str, str]
    secrets: dict[str, str]
    currency: str
    return_to: list[str]
    enabled: bool
    version: int
    changed_at: Time


class LinkProvidersOut(Shape):
    """All of them."""

    data: list[LinkProviderOut]
