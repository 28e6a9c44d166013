"""What is prepared on a connection."""

from __future__ import annotations

from psycopg._preparing import Prepare, PrepareManager
from psycopg._queries import PostgresQuery


class Prepared(PrepareManager):
    """What a connection keeps prepared for one schema, under names of its own."""

    prepared_max = 1000

    def __init__(self, place: int) -> None:
        super().__init__()
        self._prepared_idx = place * 1_000_000

    def get(self, query: PostgresQuery, prepare: bool | None = None) -> tuple[Prepare, bytes]:
        """What has parameters is planned once: it comes again, and planning is half of the work."""
        if prepare is None and query.params is not None:
            prepare = True
        return super().get(query, prepare)

    def clear(self) -> bool:
        """Nothing is forgotten at a rollback: no table is made in a transaction here."""
        return False
