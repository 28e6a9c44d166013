"""What the two Chinese wallets have in common: Beijing time, yuan in bills, the age of a number."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Final, cast

from paymaster.kernel.errors import RailError
from paymaster.kernel.ids import milliseconds_of, parse_reference
from paymaster.kernel.money import Money
from paymaster.rails import meaning
from paymaster.rails.base import RailAccount
from paymaster.rails.meaning import Kind
from paymaster.rails.transport import malformed

BEIJING: Final = timezone(timedelta(hours=8))
CNY: Final = "CNY"
TOPUPS: Final = ("ask", "own")
"""What a rail account's setting `topups` may say."""

_AMOUNT: Final = re.compile(r"([+-]?)([0-9]{1,13})(?:\.([0-9]{1,9}))?\Z", re.ASCII)
_FULL_WIDTH: Final = str.maketrans("\uff1a\uff0d\uff0f", ":-/")


class UnreadableError(Exception):
    """The provider's words do not have the shape they should."""


def text(found: Mapping[str, object], name: str) -> str:
    """A member that must be a non-empty string. Raises UnreadableError."""
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise UnreadableError(f"{name} is missing or not a text")
    return value


def some_text(found: Mapping[str, object], name: str) -> str | None:
    """A member that may be missing or empty. Raises UnreadableError if it is something else."""
    value = found.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise UnreadableError(f"{name} is not a text")
    return value


def members(value: object, name: str) -> Mapping[str, object]:
    """An object. Raises UnreadableError."""
    if not isinstance(value, dict):
        raise UnreadableError(f"{name} is not an object")
    return cast("Mapping[str, object]", value)


def an_object(written: bytes | str) -> Mapping[str, object]:
    """The JSON object in it; empty if there is none."""
    try:
        return members(json.loads(written), "it")
    except (ValueError, RecursionError, UnreadableError):
        return {}


def extra_of(code: str, retry_after: str | None) -> dict[str, str]:
    """What goes with an error: the provider's code, and when it wants to be asked again."""
    asked = {} if retry_after is None else {"retry_after_seconds": retry_after[:10]}
    return {"code": code, **asked}


def no_error(status: int, extra: Mapping[str, str]) -> RailError | None:
    """What an answer is that is neither what was asked for nor an error; None if it is one."""
    if status == 202:
        return meaning.error(Kind.SAME_KEY, "The provider asks for the same again.", extra)
    if status < 300:
        return meaning.error(Kind.MALFORMED, "The answer is not signed by the provider.")
    return None


def owns_topups(account: RailAccount) -> bool:
    """Whether money that is put onto the account is its owner's, without asking anybody."""
    return account.settings.get("topups", TOPUPS[0]).strip() == TOPUPS[1]


def report_infos(written: str, most: int) -> list[dict[str, str]]:
    """What a setting says is to be reported about each transfer. Raises ValueError, with how.

    Both providers want the reason of a transfer from users' money told in such pairs.
    """
    try:
        found: object = json.loads(written)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):  # the caller makes one problem of whatever is wrong
        raise ValueError(  # noqa: TRY004
            'write a JSON list: [{"info_type": "...", "info_content": "..."}]'
        )
    entries = cast("list[object]", found)
    if not 0 < len(entries) <= most:
        raise ValueError(f"give 1 to {most} entries")
    infos: list[dict[str, str]] = []
    for each in entries:
        given = _object(each)
        kind, content = given.get("info_type"), given.get("info_content")
        if len(given) != 2 or not isinstance(kind, str) or not isinstance(content, str):
            raise ValueError("each entry has info_type and info_content, and nothing else")
        if not 0 < len(kind) <= 15 or not 0 < len(content) <= 32:
            raise ValueError("info_type has 1 to 15 characters, info_content 1 to 32")
        infos.append({"info_type": kind, "info_content": content})
    return infos


def _object(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def fen(found: Mapping[str, object], name: str) -> Money:
    """A member that counts fen. Raises UnreadableError."""
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**15:
        raise UnreadableError(f"{name} is not a number of fen")
    return Money(value, CNY)


def yuan(written: str) -> Money:
    """Yuan as bills write them: a sign, and more decimals than there are fen, if those are zero.

    Raises UnreadableError.
    """
    match = _AMOUNT.match(written.strip())
    if match is None:
        raise UnreadableError(f"{written[:20]!r} is no amount")
    sign, whole, fraction = match.group(1), match.group(2), (match.group(3) or "").ljust(2, "0")
    if fraction[2:].strip("0"):
        raise UnreadableError(f"{written[:20]!r} has parts of a fen")
    minor = int(whole) * 100 + int(fraction[:2])
    return Money(-minor if sign == "-" else minor, CNY)


def booked_fen(written: str) -> int:
    """An amount in a bill, in fen. Raises Refusal `statement-malformed`."""
    try:
        return yuan(written).minor
    except UnreadableError as error:
        raise malformed(f"{error}.") from None


def beijing(moment: datetime) -> str:
    """`2025-03-12 20:00:00`, as the clock in Beijing shows it."""
    return moment.astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S")


def from_beijing(written: str | None) -> datetime | None:
    """A time of Beijing's clock, also in the full-width marks that occur; None if unreadable."""
    if written is None:
        return None
    try:
        found = datetime.fromisoformat(written.strip().translate(_FULL_WIDTH))
        return (found if found.tzinfo else found.replace(tzinfo=BEIJING)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def older_than(key: str, age: timedelta, now: datetime) -> bool:
    """Whether the payment of this number was made longer ago than that: numbers carry their time.

    Providers forget: what they do not find any more after their window proves nothing. A number
    that is not ours by its form counts as old.
    """
    found = parse_reference(key)
    if found is None:
        return True
    made = datetime.fromtimestamp(milliseconds_of(found.id) // 1000, UTC)
    return now - made > age


def plain(words: str, longest: int) -> str:
    """Words without what these providers refuse: control characters, signs of four UTF-8 bytes."""
    spaced = "".join(" " if one.isspace() else one for one in words)
    kept = "".join(one for one in spaced if one.isprintable() and ord(one) < 0x10000)
    return " ".join(kept.split())[:longest].strip()
