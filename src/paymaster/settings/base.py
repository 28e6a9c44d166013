"""What all groups of settings have in common."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode

Port = Annotated[int, Field(ge=1, le=65535)]


class Group(BaseModel):
    """What all groups have in common: unknown names are faults, inputs are not echoed."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _split(given: object) -> object:
    return (
        [part for part in re.split(r"[\s,]+", given) if part] if isinstance(given, str) else given
    )


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A list of words; in the environment variable separated by commas."""
