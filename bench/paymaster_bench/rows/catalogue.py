"""All families of rows, in the order in which they run and are shown."""

from __future__ import annotations

from paymaster_bench.bench import Family
from paymaster_bench.rows import growth, holds, http, intake, orm, posting, requests, saga, single

FAMILIES: tuple[Family, ...] = (
    Family(posting.ROWS, posting.run),
    Family(single.ROWS, single.run, web=True),
    Family(holds.ROWS, holds.run, web=True),
    Family(requests.ROWS, requests.run, web=True),
    Family(http.ROWS, http.run),
    Family(saga.ROWS, saga.run),
    Family(intake.ROWS, intake.run, web=True),
    Family(growth.ROWS, growth.run),
    Family(orm.ROWS, orm.run),
)


def names() -> list[str]:
    """Every row that can be asked for."""
    return [name for family in FAMILIES for name in family.rows]
