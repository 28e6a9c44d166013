"""What bodies look like. Unknown fields are refused; amounts are decimal strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Any

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from paymaster.kernel.clock import parse_rfc3339
from paymaster.kernel.money import Money


class Body(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Amount(Body):
    """Money on the wire."""

    amount: Annotated[
        str,
        StringConstraints(max_length=32),
        Field(description="Decimal string.", examples=["1.23"]),
    ]
    currency: Annotated[
        str,
        StringConstraints(max_length=12),
        Field(description="ISO 4217 code.", examples=["EUR"]),
    ]

    def money(self) -> Money:
        """Raises Refusal `currency-unknown`, `amount-malformed` or `amount-precision`."""
        return Money.parse(self.amount, self.currency)


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("the character U+0000 is not allowed")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("lone surrogates are not allowed") from None
    return text


Text = Annotated[str, AfterValidator(_storable)]
Name = Annotated[Text, StringConstraints(min_length=1, max_length=200)]
ExternalId = Annotated[Text, StringConstraints(min_length=1, max_length=128)]
Reason = Annotated[
    Text, StringConstraints(min_length=1, max_length=500), Field(description="Kept in the audit.")
]


def _moment(text: str) -> str:
    parse_rfc3339(text)
    return text


Moment = Annotated[
    str,
    StringConstraints(max_length=40),
    AfterValidator(_moment),
    Field(description="RFC 3339 with an offset.", examples=["2026-01-31T12:00:00Z"]),
]


def moment(text: str | None) -> datetime | None:
    """The time of a validated field."""
    return parse_rfc3339(text) if text is not None else None


def _day(text: str) -> str:
    if date.fromisoformat(text).isoformat() != text:
        raise ValueError("write a day as 2026-01-31")
    return text


Day = Annotated[
    str,
    StringConstraints(max_length=10),
    AfterValidator(_day),
    Field(
        description="A business day.",
        examples=["2026-01-31"],
        json_schema_extra={"format": "date"},
    ),
]


class Reasoned(Body):
    """An act that needs a reason."""

    reason: Reason


class MaybeReasoned(Body):
    """An act whose reason may go without saying."""

    reason: Reason | None = None


class Nothing(Body):
    """No fields: the act needs no words."""


class Reply(Response):
    """A JSON answer, already in the form that the wire has."""

    media_type = "application/json"

    def __init__(self, content: object, status_code: int = 200) -> None:
        super().__init__(msgspec.json.encode(content), status_code)


def wire(money: Money) -> dict[str, str]:
    """Money for JSON."""
    return {"amount": money.text(), "currency": money.currency}


def listing(data: Sequence[Mapping[str, Any]], next_cursor: str | None = None) -> Reply:
    """A page of a list."""
    return Reply({"data": data, "next_cursor": next_cursor})
