"""Values that must be found nowhere in the clear, and the search for them in all their shapes."""

from __future__ import annotations

import base64
import io
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

import psycopg
from psycopg import sql

_LEAST = 8


def new_iban() -> str:
    """A German one with the right check digits, of an account that nobody has."""
    account = "".join(str(secrets.randbelow(10)) for _ in range(18))
    return f"DE{98 - int(account + '131400') % 97:02d}{account}"


def new_word(prefix: str = "") -> str:
    """Something that cannot be there by chance, of letters alone."""
    return prefix + "".join(secrets.choice("bcdfghjkmnpqrstvwxz") for _ in range(14))


def shapes(value: str) -> Iterator[tuple[str, str]]:
    """Every way in which a value could lie somewhere: its name, and the text in lower case."""
    raw = value.encode()
    yield "plain", value
    yield "reversed", value[::-1]
    yield "quoted", quote(value, safe="")
    yield "escaped", value.encode("unicode_escape").decode()
    yield "hex", raw.hex()
    yield "hex of utf-16", value.encode("utf-16-le").hex()
    for lead in range(3):
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            # What stands before and after shifts the letters: only the middle is certain.
            text = encode(b"\0" * lead + raw).decode().rstrip("=")
            yield f"{name} at {lead}", text[4 if lead else 0 : len(text) - 2]
    if re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]+", value):
        groups = [value[at : at + 4] for at in range(0, len(value), 4)]
        for gap in (" ", "-", "."):
            yield f"grouped by {gap!r}", gap.join(groups)
        yield "account number alone", value[4:]
        yield "hex in groups", " ".join(groups).encode().hex()


@dataclass
class Planted:
    """What was put in, by a name that says what it is."""

    values: dict[str, str] = field(default_factory=dict)

    def plant(self, name: str, value: str) -> str:
        """Remember it, and give it back to be put somewhere."""
        assert len(value) >= _LEAST, name
        self.values[name] = value
        return value

    def found_in(self, text: str) -> set[str]:
        """The names of what is in a text, with the shape in which it lies there."""
        low = text.lower()
        return {
            f"{name} ({shape})"
            for name, value in self.values.items()
            for shape, looked_for in shapes(value)
            if len(looked_for) >= _LEAST and looked_for.lower() in low
        }


def dump(dsn: str) -> Mapping[str, str]:
    """Every table of every schema of ours as text, by name; bytes as they are and in hex."""
    found: dict[str, str] = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n"
            " ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm', 't') AND n.nspname NOT IN"
            " ('pg_catalog', 'information_schema') AND NOT (n.nspname = 'pg_toast')"
        ).fetchall()
        for schema, table in tables:
            whole = io.BytesIO()
            statement = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(schema, table))
            with connection.cursor().copy(statement) as rows:
                for part in rows:
                    whole.write(part)
            text = whole.getvalue().decode()
            as_bytes = (bytes.fromhex(one) for one in re.findall(r"\\\\x([0-9a-f]+)", text))
            opened = "\n".join(one.decode("utf-8", "replace") for one in as_bytes)
            found[f"{schema}.{table}"] = f"{text}\n{opened}"
    return found
