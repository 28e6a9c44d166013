"""XML read safely and written plainly.

Reading: no entities, no document type, no network, a size limit. Writing: text joined by hand, so
that the same books always give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from xml.sax.saxutils import escape

from lxml import etree as _etree  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

if TYPE_CHECKING:
    from collections.abc import Sequence

etree = cast("Any", _etree)

MAX_BYTES = 64 * 1024 * 1024


class NotXmlError(Exception):
    """The bytes are not a document that the bank is willing to read."""


@dataclass(frozen=True, slots=True)
class Node:
    """One element: local name, text without surrounding space, attributes, children in order."""

    name: str
    text: str
    attributes: dict[str, str]
    children: tuple[Node, ...]

    def find(self, path: str) -> Node | None:
        """The first descendant at a path of local names such as `Dbtr/Nm`."""
        node: Node | None = self
        for step in path.split("/"):
            node = next((child for child in node.children if child.name == step), None)
            if node is None:
                return None
        return node

    def read(self, path: str) -> str | None:
        """The text at a path, or None if there is no such element."""
        node = self.find(path)
        return None if node is None else node.text

    def each(self, name: str) -> Iterator[Node]:
        """The children of that name."""
        return (child for child in self.children if child.name == name)


def read(body: bytes) -> tuple[str, Node]:
    """The namespace of the root and the document.

    Raises:
        NotXmlError: not well-formed, too large, a document type, or a foreign namespace.
    """
    if len(body) > MAX_BYTES:
        raise NotXmlError("the file is too large")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True,
        remove_pis=True,
    )  # fmt: skip
    try:
        root = etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        raise NotXmlError(f"not well-formed: {error}") from error
    if root.getroottree().docinfo.doctype:
        raise NotXmlError("a document type is not allowed")
    namespace, _ = _split(root.tag)
    return namespace, _node(root, namespace)


def _split(tag: str) -> tuple[str, str]:
    return ("", tag) if tag[0] != "{" else cast("tuple[str, str]", tuple(tag[1:].split("}", 1)))


def _node(element: Any, namespace: str) -> Node:
    if not isinstance(element.tag, str):
        raise NotXmlError("entities are not allowed")
    found, name = _split(element.tag)
    if found != namespace:
        raise NotXmlError(f"{name} belongs to another namespace")
    children = tuple(_node(child, namespace) for child in element)
    text = cast("str | None", element.text) or ""
    return Node(name, text.strip(), dict(element.attrib), children)


def tag(name: str, *parts: str, **attributes: str) -> str:
    """An element around parts that are already XML; empty text if all parts are empty."""
    inner = "".join(parts)
    if not inner:
        return ""
    listed = "".join(f' {key}="{escape(value, {chr(34): "&quot;"})}"' for key, value in
                     attributes.items())  # fmt: skip
    return f"<{name}{listed}>{inner}</{name}>"


def leaf(name: str, text: str | int | None, **attributes: str) -> str:
    """An element with text, or nothing if there is no text."""
    return "" if text is None or text == "" else tag(name, escape(str(text)), **attributes)


def document(namespace: str, parts: Sequence[str]) -> bytes:
    """A whole ISO 20022 document."""
    inner = "".join(parts)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f'{head}<Document xmlns="{namespace}">{inner}</Document>\n'.encode()
