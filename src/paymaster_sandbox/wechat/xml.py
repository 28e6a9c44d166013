"""The flat XML of APIv2: names and texts, one level deep, and nothing that a parser could run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from lxml import etree as _etree  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

etree = cast("Any", _etree)

_MAX_BYTES: Final = 64 * 1024


class NotXmlError(Exception):
    """The bytes are not a message of APIv2."""


def read(body: bytes) -> dict[str, str]:
    """The fields of a message.

    Raises:
        NotXmlError: not well-formed, nested, a name twice, a document type, or too large.
    """
    if len(body) > _MAX_BYTES:
        raise NotXmlError("too large")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True,
        remove_pis=True,
    )  # fmt: skip
    try:
        root = etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        raise NotXmlError(str(error)) from error
    if root.tag != "xml" or root.getroottree().docinfo.doctype:
        raise NotXmlError("the root must be xml, without a document type")
    found: dict[str, str] = {}
    for child in root:
        if not isinstance(child.tag, str) or len(child) or child.tag in found:
            raise NotXmlError("only plain fields, each once")
        found[child.tag] = cast("str | None", child.text) or ""
    return found


def write(fields: Mapping[str, str], root: str = "xml") -> bytes:
    """A message; texts are kept from the parser."""
    inner = "".join(
        f"<{name}><![CDATA[{text.replace(']]>', ']]]]><![CDATA[>')}]]></{name}>\n"
        for name, text in fields.items()
    )
    return f"<{root}>\n{inner}</{root}>".encode()
