"""Which campaign a payment in is for: its funding reference, found in what the payer wrote.

People retype references: case, spaces and dashes do not count, and the bank may have broken the
text anywhere. A reference must stand as words of its own, so that it is never found by accident
inside a longer number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

SHORTEST = 6
"""A reference with fewer letters and digits would be found by accident, so it never is."""
_WORDS_JOINED = 6
_WORD = re.compile(r"[0-9A-Z]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Funding:
    """What a funding reference pays for."""

    campaign_id: int
    currency: str


class Catalogue:
    """All funding references of an environment, made once for many lines.

    References that read the same name all their campaigns; one with fewer than `SHORTEST` letters
    and digits is never found.
    """

    def __init__(self, references: Mapping[str, Funding]) -> None:
        self._by_text: dict[str, frozenset[Funding]] = {}
        for reference, funding in references.items():
            text = "".join(_WORD.findall(reference.upper()))
            if len(text) >= SHORTEST:
                self._by_text[text] = self._by_text.get(text, frozenset()) | {funding}

    def find(self, *texts: str | None) -> frozenset[Funding]:
        """Every campaign that the texts name."""
        found: set[Funding] = set()
        for text in texts:
            words = _WORD.findall((text or "").upper())
            for start in range(len(words)):
                joined = ""
                for word in words[start : start + _WORDS_JOINED]:
                    joined += word
                    found |= self._by_text.get(joined, frozenset())
        return frozenset(found)
