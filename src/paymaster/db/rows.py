"""Rows into dataclasses, quickly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from psycopg.cursor_async import AsyncCursor
from psycopg.rows import args_row, class_row

T = TypeVar("T")


def rows_as(row: type[T]) -> Callable[[AsyncCursor[Any]], Callable[[Sequence[Any]], T]]:
    """A row factory: each row as a `row`, its columns given to the fields of their names.

    Columns that stand in the order of the fields are given by place, which takes half the time.
    """
    by_name, by_place = class_row(row), args_row(row)
    fields: tuple[str, ...] | None = getattr(row, "__match_args__", None)

    def make(cursor: AsyncCursor[Any]) -> Callable[[Sequence[Any]], T]:
        columns = tuple(column.name for column in cursor.description or ())
        return (by_place if columns == fields else by_name)(cursor)

    return make
