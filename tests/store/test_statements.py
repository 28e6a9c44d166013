"""Every SQL literal of the project is prepared by a real PostgreSQL against the migrated schema."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from tests.world import PostgresServer, make_world

SOURCES = Path(__file__).resolve().parents[2] / "src" / "paymaster"
CALLS = {"ask", "fetch", "maybe", "only", "tuples", "value", "execute", "send", "copy"}
VERB = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|COPY)\b")
COPY_OUT = re.compile(r"\s*COPY\s*\((.*)\)\s*TO STDOUT.*", re.DOTALL)

PARTS: dict[str, tuple[str, ...]] = {
    "db/worker.py": ("_LEASE",),
    "db/seal_strays.py": ("_EVENT", "_LEG"),
    "ledger/proof_sql.py": ("_ACCOUNT_STEPS", "_POSTING_STEPS", "_LATE_STEPS"),
}
"""Constants that are put into statements whose text is only known when they run."""


@dataclass(frozen=True)
class Statement:
    """A literal and where it stands."""

    place: str
    text: str


def literal(node: ast.expr, names: dict[str, str]) -> str | None:
    """The text of a literal, a sum of literals and constants, or an f-string of constants."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = literal(node.left, names), literal(node.right, names)
        return None if left is None or right is None else left + right
    if isinstance(node, ast.JoinedStr):
        parts = [
            literal(part.value if isinstance(part, ast.FormattedValue) else part, names)
            for part in node.values
        ]
        return None if None in parts else "".join(part or "" for part in parts)
    return None


def statements() -> list[Statement]:
    found: list[Statement] = []
    for path in sorted(SOURCES.rglob("*.py")):
        if path.name in ("migrate.py", "partitions.py", "installation.py", "run.py"):
            continue
        if "embedded" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        names: dict[str, str] = {}
        for node in tree.body:
            target = node.target if isinstance(node, ast.AnnAssign) else None
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                target = node.targets[0]
            value = getattr(node, "value", None)
            if isinstance(target, ast.Name) and value is not None:
                text = literal(value, names)
                if text is not None:
                    names[target.id] = text
            if isinstance(value, ast.Dict):
                for item in value.values:
                    text = literal(item, names)
                    if text:
                        names[f"{node.lineno}/{item.lineno}"] = text
        whole = [
            text
            for name, text in names.items()
            if VERB.match(text) and name not in PARTS.get(f"{path.relative_to(SOURCES)}", ())
        ]
        texts = {(0, t) for t in whole if not any(t != o and t in o for o in names.values())}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in CALLS
                and node.args
            ):
                text = literal(node.args[0], names)
                if text and VERB.match(text):
                    texts.add((node.lineno, text))
        found += [
            Statement(f"{path.relative_to(SOURCES)}:{line}", text) for line, text in sorted(texts)
        ]
    return found


def numbered(text: str) -> str:
    """psycopg's placeholders as PostgreSQL's."""
    names: dict[str, int] = {}
    count = 0

    def place(match: re.Match[str]) -> str:
        nonlocal count
        if match[0] == "%%":
            return "%"
        if match[1] is None:
            count += 1
            return f"${count}"
        return f"${names.setdefault(match[1], len(names) + 1)}"

    return re.sub(r"%(?:\((\w+)\))?[sbt]|%%", place, text)


async def test_every_statement_prepares(postgres: PostgresServer) -> None:
    found = statements()
    assert len(found) > 150
    async with make_world(postgres, moves=[]) as world:
        with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
            faults: list[str] = []
            for number, statement in enumerate(found):
                said = [
                    fault
                    for schema in ("cell_1", "control")
                    if (fault := prepare(connection, schema, f"s{number}", statement)) is not None
                ]
                if len(said) == 2:
                    faults.append(f"{statement.place}: {said}")
            assert faults == []


def prepare(
    connection: psycopg.Connection, schema: str, name: str, statement: Statement
) -> str | None:
    """None when it prepares, else what PostgreSQL said."""
    connection.execute(f"SET search_path TO {schema}".encode())
    out = COPY_OUT.fullmatch(statement.text)
    if out is not None:
        statement = Statement(statement.place, out[1])
    try:
        verb = VERB.match(statement.text)
        assert verb is not None
        if verb[1] == "COPY":
            with connection.cursor().copy(statement.text.encode()):
                return None
        connection.execute(f"PREPARE {name}_{schema} AS {numbered(statement.text)}".encode())
    except (errors.IndeterminateDatatype, errors.AmbiguousFunction):
        return None  # parsed and bound; only the type of a parameter is left to the driver
    except psycopg.Error as error:
        return str(error).splitlines()[0]
    return None


@pytest.mark.parametrize(
    "bad", ["SELECT nothing FROM account", "UPDATE account SET balance = balance WHERE no = %s"]
)
async def test_a_statement_that_does_not_fit_the_schema_is_seen(
    postgres: PostgresServer, bad: str
) -> None:
    async with make_world(postgres, moves=[]) as world:
        with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
            assert prepare(connection, "cell_1", "bad", Statement("here", bad))
