"""The catalogue lint: what keeps the schema legal on Citus and cells apart; the app's rights."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors
from tests.world import PostgresServer, World, make_world

from paymaster.db.privileges import APPEND_ONLY, DELETABLE, READ_ONLY, UPDATABLE

FORBIDDEN = {
    "a trigger": """
        SELECT t.tgname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = ANY(%s) AND NOT t.tgisinternal
    """,
    "a sequence or identity": """
        SELECT c.relname, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = ANY(%s) AND c.relkind = 'S'
    """,
    "a default with a function": """
        SELECT c.relname, pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
        JOIN pg_class c ON c.oid = d.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = ANY(%s) AND pg_get_expr(d.adbin, d.adrelid) LIKE '%%(%%'
    """,
    "a table without primary key": """
        SELECT c.relname, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p') AND NOT EXISTS (
            SELECT 1 FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p')
    """,
    "a foreign key that leaves its schema": """
        SELECT k.conname, b.relname FROM pg_constraint k
        JOIN pg_class a ON a.oid = k.conrelid JOIN pg_class b ON b.oid = k.confrelid
        JOIN pg_namespace n ON n.oid = a.relnamespace
        WHERE n.nspname = ANY(%s) AND k.contype = 'f' AND a.relnamespace <> b.relnamespace
    """,
    "a function or procedure": """
        SELECT p.proname, n.nspname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = ANY(%s)
    """,
    "a second index on postings": """
        SELECT i.relname, c.relname FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid
        JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = ANY(%s) AND c.relname LIKE 'posting%%' AND NOT x.indisprimary
    """,
    "a time without zone": """
        SELECT a.attname, c.relname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = ANY(%s) AND a.atttypid = 'timestamp'::regtype AND a.attnum > 0
    """,
    "a floating point number": """
        SELECT a.attname, c.relname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY(%s)
        AND a.atttypid IN ('float4'::regtype, 'float8'::regtype, 'money'::regtype)
        AND a.attnum > 0 AND c.relkind IN ('r', 'p')
    """,
}

SCHEMAS = ["control", "cell_1"]


@pytest.fixture
async def world(postgres: PostgresServer):
    async with make_world(postgres, moves=[]) as made:
        yield made


async def test_the_catalogue_lint_passes(world: World) -> None:
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        for what, statement in FORBIDDEN.items():
            found = connection.execute(statement.encode(), (SCHEMAS,)).fetchall()
            assert found == [], f"there is {what}"


async def test_the_lint_sees_what_it_forbids(world: World) -> None:
    bad = [
        "CREATE TABLE cell_1.bad_a (id serial, at timestamp, f float8)",
        """CREATE TABLE cell_1.bad_b (id bigint PRIMARY KEY DEFAULT random(),
            e bigint REFERENCES control.environment)""",
        "CREATE FUNCTION cell_1.bad() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        """CREATE TRIGGER bad BEFORE INSERT ON cell_1.account FOR EACH ROW
            EXECUTE FUNCTION cell_1.bad()""",
        "CREATE INDEX bad ON cell_1.posting (source_id)",
    ]
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        for statement in bad:
            connection.execute(statement.encode())
        for what, statement in FORBIDDEN.items():
            assert connection.execute(statement.encode(), (SCHEMAS,)).fetchall(), what


async def test_every_table_and_partition_has_exactly_the_rights_listed(
    world: World, postgres: PostgresServer
) -> None:
    role = postgres.app_role
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT n.nspname, c.relname, c.oid, c.relispartition FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p')",
            (SCHEMAS,),
        ).fetchall()
        assert len(tables) > 50
        for schema, name, oid, partition in tables:
            rights = {
                right
                for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
                if connection.execute(
                    "SELECT has_table_privilege(%s, %s::oid, %s)", (role, oid, right)
                ).fetchone()
                == (True,)
            }
            columns = {
                row[0]
                for row in connection.execute(
                    "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0"
                    " AND NOT attisdropped"
                    " AND has_column_privilege(%s, %s::oid, attname, 'UPDATE')",
                    (oid, role, oid),
                ).fetchall()
            }
            if partition:
                assert (rights, columns) == (set(), set()), name
                continue
            expected = {"SELECT"} | (set() if name in READ_ONLY else {"INSERT"})
            assert rights == expected | ({"DELETE"} if name in DELETABLE else set()), name
            assert columns == set(UPDATABLE.get(name, ())), (schema, name)
            assert (name in APPEND_ONLY) <= (not columns)


async def test_facts_cannot_be_changed_by_the_application(world: World) -> None:
    for table in ("entry", "posting", "audit", "outbox", "withdrawal_move"):
        for verb in ("UPDATE {} SET commit_id = 1", "DELETE FROM {}", "SELECT 1 FROM {} FOR SHARE"):

            async def attempt(tx, table=table, verb=verb):
                await tx.execute(verb.format(table))

            column_less = verb.startswith("UPDATE") and table == "posting"
            expected = (errors.UndefinedColumn if column_less else errors.InsufficientPrivilege,)
            with pytest.raises((*expected, errors.InsufficientPrivilege)):
                await world.run(attempt)
