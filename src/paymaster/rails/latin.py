# ruff: noqa: RUF001 - letters that look like Latin ones are what this table is about
"""Writing any name in the characters that payment systems carry.

SEPA guarantees only `a-z A-Z 0-9 / - ? : ( ) . , ' +` and the blank (EPC132-08, section 1.4). A
character outside the set is replaced, never dropped in silence: by its Latin spelling where there
is one, by a full stop where there is none.
"""

from __future__ import annotations

import unicodedata

ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-?:().,'+ ")
"""The SEPA character set."""

_PAIRS = """ß:ss ẞ:SS æ:ae Æ:AE œ:oe Œ:OE ø:o Ø:O ł:l Ł:L đ:d Đ:D ð:d Ð:D þ:th Þ:TH ħ:h Ħ:H ı:i ĸ:k
ŋ:n Ŋ:N ŧ:t Ŧ:T ſ:s ə:e Ə:E ƒ:f α:a β:v γ:g δ:d ε:e ζ:z η:i θ:th ι:i κ:k λ:l μ:m ν:n ξ:x ο:o π:p
ρ:r σ:s ς:s τ:t υ:y φ:f χ:ch ψ:ps ω:o Α:A Β:V Γ:G Δ:D Ε:E Ζ:Z Η:I Θ:TH Ι:I Κ:K Λ:L Μ:M Ν:N Ξ:X Ο:O
Π:P Ρ:R Σ:S Τ:T Υ:Y Φ:F Χ:CH Ψ:PS Ω:O а:a б:b в:v г:g д:d е:e ж:zh з:z и:i й:y к:k л:l м:m н:n о:o
п:p р:r с:s т:t у:u ф:f х:h ц:ts ч:ch ш:sh щ:sht ъ:a ы:y ь:y э:e ю:yu я:ya А:A Б:B В:V Г:G Д:D Е:E
Ж:ZH З:Z И:I Й:Y К:K Л:L М:M Н:N О:O П:P Р:R С:S Т:T У:U Ф:F Х:H Ц:TS Ч:CH Ш:SH Щ:SHT Ъ:A Ы:Y Ь:Y
Э:E Ю:YU Я:YA і:i І:I ї:yi Ї:YI є:ye Є:YE ґ:g Ґ:G ђ:dj Ђ:DJ ј:j Ј:J љ:lj Љ:LJ њ:nj Њ:NJ ћ:c Ћ:C
џ:dz Џ:DZ ѓ:gj Ѓ:GJ ќ:kj Ќ:KJ ѕ:dz Ѕ:DZ ў:u Ў:U ё:yo Ё:YO"""
_TABLE: dict[str, str] = {pair[0]: pair[2:] for pair in _PAIRS.split()}
_TABLE.update({"&": "+", "_": "-", "`": "'", "´": "'", "’": "'", "‘": "'", "“": "'", "”": "'"})
_TABLE.update({'"': "'", "<": "(", ">": ")", "[": "(", "]": ")", "{": "(", "}": ")", ";": ","})
_TABLE.update({"‐": "-", "‑": "-", "–": "-", "—": "-", "\\": "/", "€": "EUR", "|": "/"})


def transliterate(text: str) -> str:
    """Text in the SEPA character set, blanks collapsed, without `//` or a `/` at either end."""
    written = "".join(_letter(letter) for letter in unicodedata.normalize("NFC", text))
    written = " ".join(written.split())
    while "//" in written:
        written = written.replace("//", "/-")
    if written.startswith("/"):
        written = "-" + written[1:]
    if written.endswith("/"):
        written = written[:-1] + "-"
    return written


def _letter(letter: str) -> str:
    if letter in ALLOWED:
        return letter
    if letter.isspace():
        return " "
    if letter in _TABLE:
        return _TABLE[letter]
    if unicodedata.combining(letter):
        return ""
    found: list[str] = []
    for part in unicodedata.normalize("NFKD", letter):
        if part in ALLOWED:
            found.append(part)
        elif part in _TABLE:
            found.append(_TABLE[part])
        elif not unicodedata.combining(part):
            return "."
    return "".join(found) or "."
