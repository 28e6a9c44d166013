"""Every mutant of a file: the faults of cosmic-ray's operators and those of `domain`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from tools.mutation import domain

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
    """One fault in one file; `line` is the text it stands in, which names it across edits."""

    module: str
    fault: str
    number: int
    row: int
    line: str

    @property
    def key(self) -> str:
        """Names it for as long as its line stays as it is."""
        return f"{self.module}: {self.fault}: {self.line}"


def find(root: Path, module: str) -> Iterator[Mutant]:
    """Every mutant of a file, in a fixed order."""
    source = (root / module).read_text(encoding="utf-8")
    lines = source.splitlines()
    unread = _unread(source)
    for name in OPERATORS:
        operator, number = get_operator(name)(), 0
        for node in ast_nodes(get_ast(source)):
            for (row, _), _ in operator.mutation_positions(node):
                if row not in unread:
                    yield Mutant(module, name, number, row, lines[row - 1].strip())
                number += 1
    for number, edit in enumerate(domain.edits(source)):
        row = source.count("\n", 0, edit.start) + 1
        yield Mutant(module, edit.fault, number, row, lines[row - 1].strip())


@cache
def _operator(name: str) -> Any:
    return get_operator(name)()


def mutated(root: Path, mutant: Mutant) -> str:
    """The file's text with the fault. Raises ValueError when the file has changed since."""
    source = (root / mutant.module).read_text(encoding="utf-8")
    if mutant.fault.startswith("core/"):
        text = mutate_code(source, _operator(mutant.fault), mutant.number)
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
