"""The languages that people are written to in: English and simplified Chinese."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Language = Literal["en", "zh"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "zh")

TAGS: Final[dict[Language, str]] = {"en": "en", "zh": "zh-CN"}
"""As BCP 47 writes them."""

_MOST_RANGES = 20


@dataclass(frozen=True, slots=True)
class Words:
    """The same said in every language."""

    en: str
    zh: str

    def text(self, language: Language) -> str:
        """In one of them."""
        return self.zh if language == "zh" else self.en

    def and_then(self, other: Words) -> Words:
        """Both sentences; Chinese has no space between them."""
        return Words(f"{self.en} {other.en}".strip(), f"{self.zh}{other.zh}")


def language_of(tag: str | None) -> Language:
    """The language that is nearest to a BCP 47 tag; English when none is near."""
    return "zh" if tag is not None and _primary(tag) == "zh" else "en"


def preferred(header: str | None) -> Language | None:
    """What an `Accept-Language` header asks for (RFC 9110, 12.5.4); None when it names none.

    Of equal weights the first one counts.
    """
    found: list[tuple[float, Language]] = []
    for part in (header or "").split(",")[:_MOST_RANGES]:
        tag, _, weight = part.strip().partition(";")
        primary = _primary(tag)
        if primary in LANGUAGES and (quality := _quality(weight)) > 0:
            found.append((quality, language_of(primary)))
    return max(found, key=lambda one: one[0])[1] if found else None


def _primary(tag: str) -> str:
    return tag.strip().lower().replace("_", "-").partition("-")[0]


def _quality(written: str) -> float:
    """A weight between 0 and 1; one that cannot be read counts as not wanted."""
    name, _, number = written.strip().partition("=")
    if not name:
        return 1.0
    whole, _, part = number.strip().partition(".")
    digits = whole + part
    if name.strip().lower() != "q" or not digits.isdecimal() or whole not in ("0", "1"):
        return 0.0
    return min(int(digits) / 10 ** len(part), 1.0)
