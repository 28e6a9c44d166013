"""Settings of second factors."""

from __future__ import annotations

import re
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from paymaster.settings.groups import Group

_LOCAL = ("localhost", "127.0.0.1")
_APP = "android:apk-key-hash:"


class StepUp(Group):
    """Second factors of earners: authenticator apps, passkeys, recovery codes."""

    name: str = Field(
        default="Paymaster",
        min_length=1,
        max_length=60,
        pattern=r"^[^:]+$",
        description="Whose codes and passkeys these are, as authenticator apps and browsers show.",
    )
    relying_parties: dict[str, str] = Field(
        default_factory=dict,
        description="Domain that passkeys belong to (the relying party's id), by environment: "
        "`tenant/mode` to domain. An environment without one offers no passkeys.",
    )
    origins: dict[str, str] = Field(
        default_factory=dict,
        description="Where passkeys may be used, by environment: `tenant/mode` to origins "
        "separated by blanks, such as `https://app.example.com` or `android:apk-key-hash:...`.",
    )
    challenge_seconds: int = Field(
        default=300,
        ge=30,
        le=3600,
        description="How long a step-up may be answered, and then be used.",
    )
    answer_hours: int = Field(
        default=72,
        ge=1,
        le=24 * 90,
        description="How long a withdrawal waits for the proof that screening asked for; then it "
        "is denied and the money is available again.",
    )
    remind_hours: int = Field(
        default=24,
        ge=0,
        le=24 * 90,
        description="After which the user is reminded of that proof, once; 0: never.",
    )
    cooling_off_seconds: int = Field(
        default=86_400,
        ge=0,
        le=30 * 86_400,
        description="How long a first factor, or a reset by staff, keeps step-ups from moving "
        "money.",
    )
    wrong_codes: int = Field(
        default=5, ge=2, le=20, description="Wrong codes of a user before codes are locked."
    )
    lock_seconds: int = Field(
        default=900,
        ge=60,
        le=86_400,
        description="Within which wrong codes count, and how long codes are locked then.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Each relying party has origins, and each origin is the relying party's."""
        if self.relying_parties.keys() != self.origins.keys():
            raise ValueError("relying_parties and origins name different environments")
        for environment, domain in self.relying_parties.items():
            if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)*", domain):
                raise ValueError(f"the relying party of {environment} is no domain")
            if not self.origins[environment].split():
                raise ValueError(f"{environment} has no origin")
            for origin in self.origins[environment].split():
                if not _belongs(origin, domain):
                    raise ValueError(f"the origin {origin} is none of {domain}")
        return self


def _belongs(origin: str, domain: str) -> bool:
    """Whether pages of an origin may use passkeys of a domain (WebAuthn 5.1.3, 13.4.9)."""
    if origin.startswith(_APP):
        return len(origin) > len(_APP)
    parts = urlsplit(origin)
    host = parts.hostname or ""
    exact = origin == f"{parts.scheme}://{parts.netloc}" and "@" not in parts.netloc
    safe = parts.scheme == "https" or (parts.scheme == "http" and host in _LOCAL)
    return exact and safe and (host == domain or host.endswith(f".{domain}"))
