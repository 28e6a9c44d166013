"""Secrets from environment variables: `PAYMASTER_SECRET__NAME`, later versions `...__NAME__2`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from paymaster.secrets.port import SecretVersion, checked_name, decoded

PREFIX = "PAYMASTER_SECRET__"
_VERSION = re.compile(r"(?:__([1-9][0-9]{0,8}))?\Z", re.ASCII)


class EnvironmentStore:
    """Reads the environment at every call. The highest number is the newest version.

    The name is written in upper case with `_` for `-`. A variable without a number is version 1.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ

    def get(self, name: str) -> Sequence[SecretVersion]:
        """See SecretStore."""
        stem = PREFIX + checked_name(name).upper().replace("-", "_")
        found: dict[int, str] = {}
        for variable in self._environ:
            if not variable.startswith(stem):
                continue
            match = _VERSION.match(variable, len(stem))
            value = self._environ.get(variable)
            if match is not None and value:
                found[int(match.group(1) or 1)] = value
        return [
            SecretVersion(
                str(number),
                decoded(found[number].encode("utf-8", "surrogateescape"), name),
                store="environment",
            )
            for number in sorted(found, reverse=True)
        ]
