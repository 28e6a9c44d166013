"""Where a request comes from: only proxies that are trusted are believed."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from paymaster.api.addresses import Addresses

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


def find(client: str, *values: str, header: Any = "x-forwarded-for") -> tuple[str, str]:
    """By what the request is counted, and the client's address in the scope."""
    scope: dict[str, Any] = {
        "client": (client, 4711),
        "headers": [(header.encode(), value.encode()) for value in values],
    }
    counted = Addresses(TRUSTED, header).find(scope)
    return counted, scope["client"][0]


@pytest.mark.parametrize(
    ("client", "values", "expected"),
    [
        ("192.0.2.1", (), "192.0.2.1"),
        ("192.0.2.1", ("198.51.100.9",), "192.0.2.1"),
        ("10.0.0.1", ("198.51.100.9",), "198.51.100.9"),
        ("10.0.0.1", ("203.0.113.5, 198.51.100.9",), "198.51.100.9"),
        ("10.0.0.1", ("203.0.113.5, 198.51.100.9, 10.0.0.7",), "198.51.100.9"),
        ("10.0.0.1", ("203.0.113.5", "198.51.100.9"), "198.51.100.9"),
        ("10.0.0.1", ("198.51.100.9:4711",), "198.51.100.9"),
        ("10.0.0.1", ("198.51.100.9, rubbish",), "10.0.0.1"),
        ("10.0.0.1", ("10.0.0.9",), "10.0.0.9"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("[2001:db8::1]:4711",), "2001:db8::/64"),
    ],
)
def test_the_header_is_read_from_its_end(
    client: str, values: tuple[str, ...], expected: str
) -> None:
    assert find(client, *values)[0] == expected


def test_an_ipv6_network_is_one_caller() -> None:
    assert find("2001:db8:0:1::1")[0] == find("2001:db8:0:1:ffff::2")[0] == "2001:db8:0:1::/64"
    assert find("2001:db8:0:2::1")[0] != find("2001:db8:0:1::1")[0]
    assert find("::ffff:192.0.2.1")[0] == "192.0.2.1"


def test_the_audit_trail_gets_the_whole_address() -> None:
    assert find("fd00::1", "2001:db8::7") == ("2001:db8::/64", "2001:db8::7")
    assert find("192.0.2.1", "198.51.100.9") == ("192.0.2.1", "192.0.2.1")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=198.51.100.9", "198.51.100.9"),
        ('For="[2001:db8::1]:80";proto=https', "2001:db8::/64"),
        ("for=203.0.113.5, for=198.51.100.9;by=10.0.0.1", "198.51.100.9"),
        ("for=_hidden", "10.0.0.1"),
        ("by=10.0.0.2", "10.0.0.1"),
    ],
)
def test_forwarded_is_read_where_it_is_chosen(value: str, expected: str) -> None:
    assert find("10.0.0.1", value, header="forwarded")[0] == expected


def test_the_other_header_is_never_read() -> None:
    scope: dict[str, Any] = {
        "client": ("10.0.0.1", 1),
        "headers": [(b"forwarded", b"for=203.0.113.5"), (b"x-forwarded-for", b"198.51.100.9")],
    }
    assert Addresses(TRUSTED, "x-forwarded-for").find(scope) == "198.51.100.9"


def test_without_an_address_there_is_one_name_for_all() -> None:
    assert Addresses([], "x-forwarded-for").find({"client": None, "headers": []}) == ""
