"""A statement over HTTP: a span of time, its pages, and where the archive begins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from tests.served import Served, credit, serve
from tests.world import PostgresServer

from paymaster.kernel.clock import rfc3339

PATH = "/v1/users/anna/statement"


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    """Five credits of 1 to 5 euro, an hour apart."""
    async with serve(postgres, tmp_path) as found:
        user = await found.ok("PUT", "/v1/users/anna", {})
        for amount in range(1, 6):
            await credit(found, user["id"], f"{amount}.00")
            found.world.clock.advance(timedelta(hours=1))
        yield found


def hours_ago(served: Served, hours: float) -> str:
    return rfc3339(served.world.clock.now() - timedelta(hours=hours))


async def amounts(served: Served, **params: str | int) -> list[str]:
    """All pages."""
    seen: list[str] = []
    cursor: str | None = None
    while True:
        asked = {"currency": "EUR", **params, **({"cursor": cursor} if cursor else {})}
        page = await served.ok("GET", PATH, params=asked)
        seen += [row["amount"]["amount"] for row in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            assert page["archived"] is None
            return seen


async def test_a_span_of_time_in_pages(served: Served) -> None:
    since, until = hours_ago(served, 4.5), hours_ago(served, 1.5)
    assert await amounts(served, limit=2) == ["5.00", "4.00", "3.00", "2.00", "1.00"]
    assert await amounts(served, limit=1, until=until) == ["4.00", "3.00", "2.00", "1.00"]
    span = {"from": since, "until": until}
    assert await amounts(served, limit=2, **span) == ["4.00", "3.00", "2.00"]
    assert await amounts(served, limit=2, **{"from": until, "until": since}) == []
    first = await served.ok("GET", PATH, params={"currency": "EUR", "limit": 1, **span})
    other = {"currency": "EUR", "limit": 1, "cursor": first["next_cursor"]}
    await served.refused(400, "cursor-invalid", "GET", PATH, params=other)


async def test_a_span_of_time_as_a_file(served: Served) -> None:
    params = {"currency": "EUR", "from": hours_ago(served, 4.5), "until": hours_ago(served, 1.5)}
    answer = await served.api.get(f"{PATH}/export", params=params)
    rows = [row.split(",")[4:6] for row in answer.text.splitlines()[1:]]
    assert rows == [["2.00", "3.00"], ["3.00", "6.00"], ["4.00", "10.00"]]
    wrong = {"currency": "EUR", "from": "yesterday"}
    assert (await served.api.get(f"{PATH}/export", params=wrong)).status_code == 400


async def test_a_statement_ends_where_the_archive_begins(served: Served) -> None:
    with psycopg.connect(served.world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        second = "(SELECT max(id) FROM posting WHERE amount = 200)"
        connection.execute(
            "INSERT INTO archive (month, low_id, high_id, entries, postings, last_seq,"
            " recorded_through, chain_sum, link_sum, file, sha256, actor, archived_at, commit_id,"
            " ordinal) SELECT '2026-11-01', 0, p.id + 1, 2, 2, 1, c.recorded_at, 0, 0, 'f.gz',"
            " '\\xab', 'x', c.recorded_at, 0, 0 FROM posting p JOIN entry e ON e.id = p.entry_id"
            " JOIN commit c ON c.id = e.commit_id WHERE p.id = " + second
        )
        connection.execute("DELETE FROM posting WHERE id <= " + second)
    page = await served.ok("GET", PATH, params={"currency": "EUR"})
    assert [row["amount"]["amount"] for row in page["data"]] == ["5.00", "4.00", "3.00"]
    assert (page["next_cursor"], page["archived"]) == (None, {"month": "2026-11", "sha256": "ab"})
    recent = {"currency": "EUR", "from": hours_ago(served, 2.5)}
    assert (await served.ok("GET", PATH, params=recent))["archived"] is None
    early = {"currency": "EUR", "at": hours_ago(served, 4.5)}
    await served.refused(400, "as-of-archived", "GET", "/v1/users/anna/balance-at", params=early)
    everything = {"currency": "EUR"}
    await served.refused(400, "export-archived", "GET", f"{PATH}/export", params=everything)
    answer = await served.api.get(f"{PATH}/export", params=recent)
    assert len(answer.text.splitlines()) == 3
