"""Every mutant of a file: the faults of cosmic-ray's operators and those of `domain`."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tools.mutation import domain

_trees: Any = import_module("cosmic_ray.ast")
_mutating: Any = import_module("cosmic_ray.mutating")
_plugins: Any = import_module("cosmic_ray.plugins")

_COMPARED = (
    "Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_Gt", "Gt_Lt", "Is_IsNot",
    "IsNot_Is",
)  # fmt: skip
_COMPUTED = ("Add_Sub", "Sub_Add", "Mul_FloorDiv", "FloorDiv_Mul", "Mod_FloorDiv", "BitOr_BitAnd")
OPERATORS = (
    *(f"core/ReplaceComparisonOperator_{pair}" for pair in _COMPARED),
    *(f"core/ReplaceBinaryOperator_{pair}" for pair in _COMPUTED),
    "core/ReplaceUnaryOperator_Delete_Not",
    "core/ReplaceUnaryOperator_Delete_USub",
    "core/AddNot",
    "core/ReplaceTrueWithFalse",
    "core/ReplaceFalseWithTrue",
    "core/ReplaceAndWithOr",
    "core/ReplaceOrWithAnd",
    "core/ReplaceBreakWithContinue",
    "core/ReplaceContinueWithBreak",
    "core/NumberReplacer",
    "core/ZeroIterationForLoop",
)


class Mutant(NamedTuple):
    """One fault in one file; `line` is the text it stands in, which names it across edits.

    `turn` counts those that look the same; `idle` is what nothing ever evaluates.
    """

    module: str
    fault: str
    number: int
    row: int
    line: str
    turn: int = 1
    idle: bool = False

    @property
    def key(self) -> str:
        """Names it for as long as its line stays as it is."""
        turn = f" ({self.turn})" if self.turn > 1 else ""
        return f"{self.module}: {self.fault}: {self.line}{turn}"


def find(root: Path, module: str) -> Iterator[Mutant]:
    """Every mutant of a file, in a fixed order; those that look the same are counted."""
    seen: Counter[str] = Counter()
    for mutant in _found(root, module):
        seen[mutant.key] += 1
        yield mutant._replace(turn=seen[mutant.key])


def _found(root: Path, module: str) -> Iterator[Mutant]:
    source = (root / module).read_text(encoding="utf-8")
    lines = source.splitlines()
    unread, annotated = _unread(source), _annotated(source)
    for name in OPERATORS:
        for number, row in enumerate(_rows(name, source)):
            if row not in unread:
                idle = name.endswith("BitOr_BitAnd") and row in annotated
                yield Mutant(module, name, number, row, lines[row - 1].strip(), idle=idle)
    for number, edit in enumerate(domain.edits(source)):
        row = source.count("\n", 0, edit.start) + 1
        yield Mutant(module, edit.fault, number, row, lines[row - 1].strip())


def _rows(name: str, source: str) -> Iterator[int]:
    """Where an operator finds something to do."""
    operator = _operator(name)
    for node in _trees.ast_nodes(_trees.get_ast(source)):
        for (row, _), _ in operator.mutation_positions(node):
            yield int(row)


@cache
def _operator(name: str) -> Any:
    return _plugins.get_operator(name)()


def mutated(root: Path, mutant: Mutant) -> str:
    """The file's text with the fault. Raises ValueError when the file has changed since."""
    source = (root / mutant.module).read_text(encoding="utf-8")
    if mutant.fault.startswith("core/"):
        text: str | None = _mutating.mutate_code(source, _operator(mutant.fault), mutant.number)
        if text is None:
            raise ValueError(f"{mutant.module} changed: {mutant.fault} {mutant.number}")
        return text
    edit = list(domain.edits(source))[mutant.number]
    return source[: edit.start] + edit.text + source[edit.end :]


def _unread(source: str) -> set[int]:
    """Rows that only tools read, or that make no difference: annotations, decorators of classes."""
    rows: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                if node.body:
                    rows.update(range(node.lineno, node.body[0].lineno))
            case ast.ClassDef():
                rows.update(one.lineno for one in node.decorator_list)
            case ast.AnnAssign(value=None):
                rows.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                rows.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            case ast.Call(func=ast.Name(id="TypeVar" | "lru_cache" | "cast")):
                rows.add(node.lineno)
            case _:
                pass
    return rows


def _annotated(source: str) -> set[int]:
    """Rows with an annotation of a variable: `|` stands there between types."""
    return {
        row
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.AnnAssign)
        for row in range(node.annotation.lineno, (node.annotation.end_lineno or 0) + 1)
    }
