"""Reading XML from a bank: no DTD, no entities, no network, bounded size, local names only."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime
from typing import Any, Protocol, cast

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

from paymaster.kernel.errors import Refusal
from paymaster.kernel.money import MAX_MINOR, Money, exponent
from paymaster.rails.transport import MAX_FILE_BYTES, malformed

_iterparse = cast("Callable[..., Iterable[tuple[str, Element]]]", etree.iterparse)  # pyright: ignore[reportUnknownMemberType]
_syntax_error = cast("type[Exception]", etree.XMLSyntaxError)


class Element(Protocol):
    """The part of an lxml element that the readers use."""

    tag: Any
    text: str | None

    def __iter__(self) -> Iterator[Element]: ...

    def get(self, key: str) -> str | None:
        """An attribute."""
        ...

    def clear(self) -> None:
        """Drop children and text, to free memory."""
        ...

    def getparent(self) -> Element | None:
        """The element around it."""
        ...

    def getroottree(self) -> Any:
        """The document."""
        ...


def local(element: Element) -> str:
    """The name without its namespace; empty for comments and processing instructions."""
    tag: object = element.tag
    return tag[tag.rfind("}") + 1 :] if isinstance(tag, str) else ""


def elements(body: bytes, names: frozenset[str]) -> Iterator[tuple[str, str, Element]]:
    """Walk a document: `(event, local name, element)` for elements of these names.

    Each is given as it starts and as it ends; the caller clears what it has used.

    Raises Refusal `statement-malformed` for what is not well-formed or brings a DTD.
    """
    if len(body) > MAX_FILE_BYTES:
        raise malformed(f"The file is larger than {MAX_FILE_BYTES} bytes.")
    walk = _iterparse(
        io.BytesIO(body),
        events=("start", "end"),
        tag=[f"{{*}}{name}" for name in names],
        load_dtd=False,
        no_network=True,
        resolve_entities=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    first = True
    try:
        for event, element in walk:
            if first:
                first = False
                if element.getroottree().docinfo.doctype:
                    raise malformed("The file brings its own document type; banks do not.")
            yield event, local(element), element
    except _syntax_error as error:
        raise malformed(f"The file is not well-formed XML: {error}") from None


def child(element: Element | None, *path: str) -> Element | None:
    """The first descendant along the path of local names; None where the path ends early."""
    for name in path:
        if element is None:
            return None
        element = next((each for each in element if local(each) == name), None)
    return element


def children(element: Element | None, name: str) -> list[Element]:
    """All direct children of a name."""
    return [] if element is None else [each for each in element if local(each) == name]


def text(element: Element | None, *path: str) -> str | None:
    """The text at a path, blanks trimmed; None when it is absent or empty."""
    found = child(element, *path)
    if found is None or found.text is None:
        return None
    return " ".join(found.text.split()) or None


def first_text(element: Element | None, *paths: tuple[str, ...]) -> str | None:
    """The text at the first path that has one."""
    return next((found for path in paths if (found := text(element, *path))), None)


def amount(element: Element | None) -> Money:
    """An unsigned amount with its `Ccy`. Raises Refusal `statement-malformed`.

    The schema allows up to five decimals and any number of leading or trailing zeros.
    """
    written, currency = text(element) or "", element.get("Ccy") if element is not None else None
    if currency is None:
        raise malformed("An amount is missing or has no currency.")
    whole, _, fraction = written.removeprefix("+").partition(".")
    try:
        decimals = exponent(currency)
    except Refusal:
        raise malformed(f"{currency[:8]!r} is not a currency.") from None
    fraction = fraction.rstrip("0")
    digits = (whole or "0") + fraction.ljust(decimals, "0")
    if not (digits.isascii() and digits.isdigit()) or len(fraction) > decimals or not written:
        raise malformed(f"{written[:40]!r} is not an amount of {currency}.")
    if len(digits) > 40 or int(digits) > MAX_MINOR:
        raise malformed(f"The amount {written[:40]!r} is too large.")
    return Money(int(digits), currency)


def sign(element: Element | None) -> int:
    """+1 for CRDT, -1 for DBIT. Raises Refusal `statement-malformed`."""
    indicator = text(element, "CdtDbtInd")
    if indicator == "CRDT":
        return 1
    if indicator == "DBIT":
        return -1
    raise malformed("An amount has no credit or debit indicator.")


def day(element: Element | None) -> date | None:
    """The day of a `Dt` or `DtTm` choice, as the bank wrote it (its own time zone)."""
    written = first_text(element, ("Dt",), ("DtTm",))
    if written is None:
        return None
    try:
        return date.fromisoformat(written[:10])
    except ValueError:
        raise malformed(f"{written[:40]!r} is not a date.") from None


def moment(written: str | None) -> datetime | None:
    """An ISO moment with an offset; None when it has none, because its zone would be a guess."""
    if written is None:
        return None
    try:
        found = datetime.fromisoformat(written)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
