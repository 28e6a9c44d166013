import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.api.cursors import Cursors
from paymaster.kernel.errors import Refusal
from paymaster.secrets.environment import EnvironmentStore
from paymaster.secrets.file import FileStore
from paymaster.secrets.generated import ensure_generated
from paymaster.secrets.local import HmacSigner

ROUTE = "/v1/users/{id}/withdrawals"
FILTERS = {"environment": 7, "user": "us_1", "state": None}


def key() -> str:
    return "base64:" + base64.b64encode(os.urandom(32)).decode()


@pytest.fixture(scope="module")
def cursors() -> Cursors:
    return Cursors(HmacSigner(EnvironmentStore({"PAYMASTER_SECRET__CURSOR": key()})))


def refused(cursors: Cursors, route: str, filters: dict[str, str | int | None], text: str) -> bool:
    try:
        cursors.read(route, filters, text)
    except Refusal as refusal:
        return refusal.slug == "cursor-invalid"
    return False


PARTS = st.lists(
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=30)), max_size=4
)


@given(position=PARTS)
def test_a_position_comes_back(cursors: Cursors, position: list[str | int | None]):
    cursor = cursors.make(ROUTE, FILTERS, position)
    assert cursors.read(ROUTE, FILTERS, cursor) == tuple(position)
    assert cursor.replace("-", "").replace("_", "").isalnum()


def test_the_order_of_filters_does_not_matter(cursors: Cursors):
    cursor = cursors.make(ROUTE, FILTERS, [1])
    assert cursors.read(ROUTE, dict(reversed(FILTERS.items())), cursor) == (1,)


@pytest.mark.parametrize(
    ("route", "filters"),
    [
        ("/v1/users/{id}/rewards", FILTERS),
        (ROUTE, {**FILTERS, "user": "us_2"}),
        (ROUTE, {**FILTERS, "environment": 8}),
        (ROUTE, {**FILTERS, "environment": "7"}),
        (ROUTE, {**FILTERS, "state": "paid"}),
        (ROUTE, {**FILTERS, "more": 1}),
        (ROUTE, {}),
    ],
)
def test_a_cursor_of_another_list_is_refused(
    cursors: Cursors, route: str, filters: dict[str, str | int | None]
):
    cursor = cursors.make(ROUTE, FILTERS, [12345, "a"])
    assert not refused(cursors, ROUTE, FILTERS, cursor)
    assert refused(cursors, route, filters, cursor)


def test_every_altered_character_is_refused(cursors: Cursors):
    cursor = cursors.make(ROUTE, FILTERS, [12345, "a"])
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for position, letter in enumerate(cursor):
        for other in alphabet:
            if other != letter:
                altered = cursor[:position] + other + cursor[position + 1 :]
                assert refused(cursors, ROUTE, FILTERS, altered), (position, other)


@pytest.mark.parametrize("text", ["", "AA", "=", "AQ==", "a b", "ü", "\x00", "A" * 513, "A" * 512])
def test_what_is_no_cursor_is_refused(cursors: Cursors, text: str):
    assert refused(cursors, ROUTE, FILTERS, text)


@given(text=st.text(max_size=200))
def test_no_text_is_taken_for_a_cursor(cursors: Cursors, text: str):
    assert refused(cursors, ROUTE, FILTERS, text)


def test_a_cursor_of_another_installation_is_refused(cursors: Cursors):
    other = Cursors(HmacSigner(EnvironmentStore({"PAYMASTER_SECRET__CURSOR": key()})))
    assert refused(other, ROUTE, FILTERS, cursors.make(ROUTE, FILTERS, [1]))


def test_cursors_outlive_a_rotation_of_the_key(tmp_path: Path):
    ensure_generated(tmp_path)
    cursors = Cursors(HmacSigner(FileStore(tmp_path)))
    cursor = cursors.make(ROUTE, FILTERS, [1])
    (tmp_path / "cursor.2").write_text(key())
    (tmp_path / "cursor.2").chmod(0o600)
    assert cursors.read(ROUTE, FILTERS, cursor) == (1,)
    (tmp_path / "cursor").unlink()
    assert refused(cursors, ROUTE, FILTERS, cursor)
