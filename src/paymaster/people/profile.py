"""A user's profile: what targeting needs to know, checked on the way in, sealed at rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from paymaster.kernel.errors import NotFound, Problem, Refusal, Unprocessable
from paymaster.kernel.ids import parse_text_id
from paymaster.settings.messages import is_mail_address

MAX_DEVICES = 50
_COUNTRY = re.compile(r"[A-Z]{2}\Z", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8}){0,3}\Z", re.ASCII)
_FIELDS = ("country", "city", "language", "birth_year", "devices", "email", "email_notices")
_DEVICE_FIELDS = ("id", "platform", "model")


class Device(msgspec.Struct, frozen=True, omit_defaults=True):
    """A device the app has seen the user on. `id` is the app's own."""

    id: str
    platform: str | None = None
    model: str | None = None


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """`country` is ISO 3166-1 alpha-2, `language` a BCP 47 tag such as `en` or `zh-CN`.

    `email_notices` false: the user wants no letters but those about security.
    """

    country: str | None = None
    city: str | None = None
    language: str | None = None
    birth_year: int | None = None
    devices: tuple[Device, ...] = ()
    email: str | None = None
    email_notices: bool = True

    def encoded(self) -> bytes:
        """The form that is sealed."""
        return msgspec.json.encode(self)

    @classmethod
    def decoded(cls, data: bytes) -> Profile:
        """Read what `encoded` made."""
        return msgspec.json.decode(data, type=cls)


def parse(value: Mapping[str, Any], year: int) -> Profile:
    """Check a profile as it came in JSON; `year` is the current one.

    Raises Unprocessable `profile-invalid` with a problem for each fault; pointers are relative to
    the profile.
    """
    problems = [
        Problem("/" + name.replace("~", "~0").replace("/", "~1"), "No such field.")
        for name in value
        if name not in _FIELDS
    ]
    country = _text(value, "country", 2, problems)
    if country is not None and not _COUNTRY.match(country):
        problems.append(Problem("/country", "Write two capital letters, such as DE."))
    language = _text(value, "language", 35, problems)
    if language is not None and not _LANGUAGE.match(language):
        problems.append(Problem("/language", "Write a language tag such as en or zh-CN."))
    birth_year = value.get("birth_year")
    if birth_year is not None and (
        not isinstance(birth_year, int)
        or isinstance(birth_year, bool)
        or not 1900 <= birth_year <= year
    ):
        problems.append(Problem("/birth_year", f"Write a year from 1900 to {year}."))
    city = _text(value, "city", 100, problems)
    devices = _devices(value.get("devices"), problems)
    email = _text(value, "email", 254, problems)
    if email is not None and not is_mail_address(email):
        problems.append(Problem("/email", "Write an address such as name@example.com, in ASCII."))
    notices = value.get("email_notices", True)
    if not isinstance(notices, bool):
        problems.append(Problem("/email_notices", "Write true or false."))
    if problems:
        raise Unprocessable("profile-invalid", "The profile has faults.", problems=problems)
    born = cast("int | None", birth_year)
    return Profile(country, city, language, born, devices, email, bool(notices))


def _text(
    value: Mapping[str, Any], name: str, longest: int, problems: list[Problem], at: str = ""
) -> str | None:
    text = value.get(name)
    if text is None:
        return None
    if not isinstance(text, str) or not 1 <= len(text) <= longest or not text.isprintable():
        problems.append(
            Problem(f"{at}/{name}", f"Write 1 to {longest} printable characters, or leave it out.")
        )
        return None
    return text


def _devices(value: object, problems: list[Problem]) -> tuple[Device, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(cast("Sequence[object]", value)) > MAX_DEVICES:
        problems.append(Problem("/devices", f"Write a list of at most {MAX_DEVICES} devices."))
        return ()
    devices: list[Device] = []
    for index, item in enumerate(cast("Sequence[object]", value)):
        at = f"/devices/{index}"
        if not isinstance(item, dict):
            problems.append(Problem(at, "Write an object with id, platform and model."))
            continue
        fields = cast("dict[str, Any]", item)
        if any(name not in _DEVICE_FIELDS for name in fields):
            problems.append(Problem(at, "A device has id, platform and model, nothing else."))
        identifier = _text(fields, "id", 128, problems, at)
        if fields.get("id") is None:
            problems.append(Problem(f"{at}/id", "This field is required."))
        platform = _text(fields, "platform", 32, problems, at)
        model = _text(fields, "model", 100, problems, at)
        if identifier is not None:
            devices.append(Device(identifier, platform, model))
    return tuple(devices)


def _is_ours(text: str) -> bool:
    try:
        parse_text_id("us", text)
    except NotFound:
        return False
    return True


def check_external_id(text: str, pointer: str = "/external_id") -> str:
    """The app's own id of a user: 1 to 128 printable characters; returned as it is.

    One that can be read as an id of ours is refused: whoever may choose a name would be found under
    the id of another. Raises Refusal `external-id-malformed`.
    """
    if _is_ours(text):
        raise Refusal(
            "external-id-malformed",
            "An external id must not look like an id of ours.",
            problems=[Problem(pointer, "Use something else than us_ and 15 digits and letters.")],
        )
    if not 1 <= len(text) <= 128 or not text.isprintable():
        raise Refusal(
            "external-id-malformed",
            "An external id has 1 to 128 printable characters.",
            problems=[Problem(pointer, "Use 1 to 128 printable characters.")],
        )
    return text
