"""Who may do a task: conditions on the profile, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from paymaster.kernel.errors import Problem
from paymaster.people.profile import Profile

_COUNTRY = re.compile(r"[A-Z]{2}\Z", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}\Z", re.ASCII)
MAX_AGE = 150


class Requirements(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every condition that is given must hold; a user whose profile does not tell fails it.

    `languages` are primary subtags: `zh` is met by `zh-CN`. Ages are whole years, reckoned from the
    birth year as if the birthday were the last day of the year, so that nobody is taken for older.
    """

    countries: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    minimum_age: int | None = None
    maximum_age: int | None = None

    def __bool__(self) -> bool:
        return bool(
            self.countries
            or self.languages
            or self.minimum_age is not None
            or self.maximum_age is not None
        )

    def met_by(self, profile: Profile | None, year: int) -> bool:
        """Whether a user with this profile may do it in this year."""
        if not self:
            return True
        if profile is None:
            return False
        if self.countries and profile.country not in self.countries:
            return False
        if self.languages:
            spoken = (profile.language or "").partition("-")[0]
            if spoken not in self.languages:
                return False
        if self.minimum_age is None and self.maximum_age is None:
            return True
        if profile.birth_year is None:
            return False
        youngest, oldest = year - profile.birth_year - 1, year - profile.birth_year
        return (self.minimum_age is None or youngest >= self.minimum_age) and (
            self.maximum_age is None or oldest <= self.maximum_age
        )

    def stored(self) -> dict[str, Any]:
        """As it is stored and shown."""
        return msgspec.json.decode(msgspec.json.encode(self))

    def problems(self, at: str) -> list[Problem]:
        """What is wrong with the conditions themselves."""
        found = [
            Problem(f"{at}/countries/{index}", "Write two capital letters, such as DE.")
            for index, country in enumerate(self.countries)
            if not _COUNTRY.match(country)
        ]
        found.extend(
            Problem(f"{at}/languages/{index}", "Write a primary language tag such as en.")
            for index, language in enumerate(self.languages)
            if not _LANGUAGE.match(language)
        )
        for name, age in (("minimum_age", self.minimum_age), ("maximum_age", self.maximum_age)):
            if age is not None and not 0 <= age <= MAX_AGE:
                found.append(Problem(f"{at}/{name}", f"Write whole years from 0 to {MAX_AGE}."))
        return found


def read(value: Mapping[str, Any], at: str, problems: list[Problem]) -> Requirements:
    """Read conditions as they came in JSON; faults are added to `problems`."""
    try:
        found = msgspec.convert(dict(value), Requirements)
    except msgspec.ValidationError as error:
        problems.append(Problem(at, f"{error}."))
        return Requirements()
    problems.extend(found.problems(at))
    return found
