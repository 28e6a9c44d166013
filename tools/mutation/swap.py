"""A fault put into functions that are already imported, so that nothing has to be imported again.

Only faults inside functions can be put in like this: all that holds a function then runs its other
code. What runs while a module is imported (tables, classes, defaults) needs a fresh process.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator
from inspect import CO_OPTIMIZED
from types import CodeType, FunctionType
from typing import NamedTuple


class Unfit(Exception):
    """The fault is not inside functions, or their functions are not to be found."""


class Place(NamedTuple):
    """What a function is known by."""

    file: str
    name: str
    row: int


class Functions:
    """Every function that is imported from files below a folder."""

    def __init__(self, folder: str) -> None:
        self._found: dict[Place, list[FunctionType]] = defaultdict(list)
        for one in gc.get_objects():
            if isinstance(one, FunctionType) and one.__code__.co_filename.startswith(folder):
                self._found[_place(one.__code__)].append(one)

    def swap(self, file: str, sound: str, faulty: str) -> None:
        """Let the functions of a file do what they do in the faulty text.

        Raises:
            Unfit: the fault is somewhere else.
        """
        swaps: list[tuple[FunctionType, CodeType]] = []
        for old, new in _changed(_compiled(sound, file), _compiled(faulty, file)):
            functions = self._found.get(_place(old), [])
            if not functions or old.co_freevars != new.co_freevars:
                raise Unfit(old.co_qualname)
            swaps += [(function, new) for function in functions]
        if not swaps:
            raise Unfit(file)
        for function, new in swaps:
            function.__code__ = new


def _place(code: CodeType) -> Place:
    return Place(code.co_filename, code.co_qualname, code.co_firstlineno)


def _compiled(text: str, file: str) -> CodeType:
    return compile(text, file, "exec", dont_inherit=True)


def _changed(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """The outermost functions that differ; both codes are of a module or of a class."""
    if _itself(old) != _itself(new):
        raise Unfit(old.co_qualname)
    for one, other in zip(_inner(old), _inner(new), strict=True):
        if one.co_qualname != other.co_qualname:
            raise Unfit(one.co_qualname)
        if not one.co_flags & CO_OPTIMIZED:
            yield from _changed(one, other)
        elif one != other:
            yield one, other


def _inner(code: CodeType) -> list[CodeType]:
    return [one for one in code.co_consts if isinstance(one, CodeType)]


def _itself(code: CodeType) -> tuple[object, ...]:
    """What a module or a class does, without what its functions do."""
    constants = [repr(one) for one in code.co_consts if not isinstance(one, CodeType)]
    return code.co_code, code.co_names, constants, len(_inner(code))
