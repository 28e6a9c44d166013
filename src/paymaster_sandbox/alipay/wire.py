"""Refusals, amounts and times as the provider writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta, timezone
from typing import Any, Final

from paymaster_sandbox.chassis.clock import microseconds, moment
from paymaster_sandbox.chassis.money import format_minor
from paymaster_sandbox.chassis.store import Tx

BEIJING: Final = timezone(timedelta(hours=8))
CNY: Final = "CNY"
_AMOUNT: Final = re.compile(r"(0|[1-9][0-9]{0,10})(?:\.([0-9]{1,2}))?")

_MESSAGES: Final = {
    "20000": "Service Currently Unavailable",
    "20001": "Insufficient Token Permissions",
    "40001": "Missing Required Arguments",
    "40002": "Invalid Arguments",
    "40003": "Insufficient Conditions",
    "40004": "Business Failed",
    "40005": "Call Limited",
    "40006": "Insufficient Permissions",
}
_STATUS: Final = {"20000": 500, "20001": 401, "40003": 403, "40005": 429, "40006": 403}

Fields = Mapping[str, Any]


class ProblemError(Exception):
    """A refusal. `status` is what the new interface answers; `then` is done although refused."""

    def __init__(
        self, code: str, sub_code: str, sub_msg: str, *, status: int | None = None,
        then: Callable[[Tx], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(f"{sub_code}: {sub_msg}")
        self.code = code
        self.sub_code = sub_code
        self.sub_msg = sub_msg
        self.status = status or _STATUS.get(code, 400)
        self.then = then

    @property
    def message(self) -> str:
        """The text that belongs to the outer code."""
        return _MESSAGES[self.code]

    @property
    def rest_code(self) -> str:
        """The code as the new interface writes it."""
        _, dot, tail = self.sub_code.partition(".")
        known = self.sub_code.startswith(("isv.", "isp.")) and dot
        return tail.replace("-", "_").upper() if known else self.sub_code


def refused(sub_code: str, sub_msg: str, then: Callable[[Tx], None] | None = None) -> ProblemError:
    """The business said no."""
    status = 500 if sub_code == "SYSTEM_ERROR" else None
    return ProblemError("40004", sub_code, sub_msg, status=status, then=then)


def missing(name: str) -> ProblemError:
    """A parameter is not there."""
    return ProblemError("40001", f"isv.missing-{name.replace('_', '-')}", f"缺少参数 {name}")


def invalid(name: str) -> ProblemError:
    """A parameter has a value that cannot be."""
    return ProblemError("40002", "isv.invalid-parameter", f"参数无效 {name}")


def text(fields: Fields, name: str, longest: int, *, needed: bool = True) -> str:
    """A text of one to `longest` characters; empty if it is not needed and not there.

    Raises:
        ProblemError: missing, too long, or no text.
    """
    value = fields.get(name)
    if value is None or value == "":
        if needed:
            raise missing(name)
        return ""
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise invalid(name)
    return value


def amount(value: object, name: str) -> int:
    """Minor units of a yuan amount with up to two decimals. Raises ProblemError."""
    found = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise invalid(name)
    return int(found[1] + (found[2] or "").ljust(2, "0"))


def yuan(minor: int) -> str:
    """Minor units as yuan with two decimals."""
    return format_minor(minor, CNY)


def beijing(at: int) -> str:
    """Microseconds since 1970 as the provider writes times."""
    return moment(at).astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S")


def from_beijing(value: object, name: str) -> int:
    """Microseconds since 1970 of a time as the provider writes it. Raises ProblemError."""
    try:
        found = datetime.strptime(str(value), "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - set below
    except ValueError as error:
        raise invalid(name) from error
    return microseconds(found.replace(tzinfo=BEIJING))


def day_of(at: int) -> date:
    """The Chinese day of a moment."""
    return moment(at).astimezone(BEIJING).date()
