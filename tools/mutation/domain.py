"""Faults that are peculiar to this project, beside those that any Python code can have.

A mutant is a piece of a file's text replaced by another. The tables are what matters here: a row
that is missing, a state, event or verdict that is another one, money that goes the other way.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

NAMED_VALUES = ("State", "Event", "Verdict", "Finding", "Outcome", "Payer", "Category", "Proof")
"""Names of classes end so whose members may be taken for one another."""

ACCOUNTS = ("Account",)


class Edit(NamedTuple):
    """A piece of text to replace: offsets into the file, what comes there, and the fault's name."""

    start: int
    end: int
    text: str
    fault: str


def edits(source: str) -> Iterator[Edit]:
    """All faults of ours that fit into a file."""
    tree = ast.parse(source)
    at = _Offsets(source)
    members = _members(tree)
    begun = _beginnings(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Tuple(elts=[_, _, *_] as items):
                yield from _without_rows(at, items)
            case ast.Call(func=ast.Name(id="Move"), args=[_, _, _, recipe, *_]):
                yield Edit(*at.span(recipe), "None", "recipe-removed")
            case ast.Call(func=ast.Name(id="Posting"), args=[source_account, target, _]):
                yield _swapped(at, source, source_account, target)
            case ast.Attribute(value=ast.Name(id=name), attr=member) if (
                _is_value(name) and node not in begun
            ):
                others = [one for one in members.get(name, ()) if one != member]
                if others:
                    text = f"{name}.{others[hash_of(member) % len(others)]}"
                    yield Edit(*at.span(node), text, "another-member")
            case ast.Call(func=ast.Name(id="min" | "max" as name)):
                yield Edit(*at.span(node.func), "max" if name == "min" else "min", "min-max")
            case ast.Expr(value=ast.Await(value=ast.Call())):
                yield Edit(*at.span(node), "pass", "call-removed")
            case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
                yield Edit(*at.span(value), "None", "nothing-returned")
            case _:
                pass


def _beginnings(tree: ast.Module) -> set[ast.AST]:
    """Where moves begin and upon what: another one there is the same as a row that is missing."""
    return {
        argument
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Move"
        for argument in node.args[:2]
    }


def hash_of(word: str) -> int:
    """The same number for the same word, in every run."""
    return sum(place * ord(letter) for place, letter in enumerate(word, 1))


def _is_value(name: str) -> bool:
    return name.endswith(NAMED_VALUES)


def _members(tree: ast.Module) -> dict[str, list[str]]:
    """The members of each class of named values: those defined here, else those used here."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = node.value.id
            if _is_value(name) and node.attr.isupper():
                known = found.setdefault(name, [])
                if node.attr not in known:
                    known.append(node.attr)
    return {name: sorted(known) for name, known in found.items()}


def _without_rows(at: _Offsets, items: list[ast.expr]) -> Iterator[Edit]:
    """A table or an entry that lacks one of its rows."""
    for place, item in enumerate(items):
        if not (isinstance(item, ast.Call) and isinstance(item.func, ast.Name)):
            continue
        if item.func.id not in ("Move", "Posting", "Kind"):
            continue
        start, end = at.span(item)
        if place + 1 < len(items):
            end = at.span(items[place + 1])[0]
        yield Edit(start, end, "", f"{item.func.id.lower()}-removed")


def _swapped(at: _Offsets, source: str, first: ast.expr, second: ast.expr) -> Edit:
    (a, b), (c, d) = at.span(first), at.span(second)
    return Edit(a, d, source[c:d] + source[b:c] + source[a:b], "posting-turned-round")


class _Offsets:
    """Where the nodes of a tree stand in its text."""

    def __init__(self, source: str) -> None:
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Offsets of the first character and behind the last one."""
        return (
            self._at(node.lineno, node.col_offset),  # type: ignore[attr-defined]
            self._at(node.end_lineno, node.end_col_offset),  # type: ignore[attr-defined]
        )

    def _at(self, line: int, column: int) -> int:
        text = self._lines[line - 1].encode()[:column].decode()
        return self._starts[line - 1] + len(text)
