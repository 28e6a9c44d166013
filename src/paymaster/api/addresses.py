"""Where a request comes from: the peer, or what a trusted proxy says of it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal

from starlette.types import Scope

from paymaster.observe import get_logger

Network = IPv4Network | IPv6Network
Header = Literal["x-forwarded-for", "forwarded"]

_PREFIX_BITS = 64
_REMEMBERED = 10_000

log = get_logger("paymaster.api")


class Addresses:
    """Finds the client behind the proxies that are trusted; nobody else's word counts.

    The header is read from its end: each proxy adds whom it was called by, and what stands before
    the first address that is not a proxy of ours was written by that one.
    """

    def __init__(self, trusted: Sequence[Network], header: Header) -> None:
        self._trusted = tuple(trusted)
        self._header = header.encode()
        self._known: dict[str, tuple[bool, str]] = {}
        self._warned = False

    def find(self, scope: Scope) -> str:
        """The address that is counted: an IPv6 one by its network. Puts the client in the scope."""
        client = scope.get("client")
        host = client[0] if client else ""
        is_proxy, counted = self._known.get(host) or self._look_at(host)
        if not is_proxy:
            return counted
        for hop in reversed(list(self._hops(scope["headers"]))):
            is_proxy, counted = self._known.get(hop) or self._look_at(hop)
            if not counted:
                break
            host = hop
            if not is_proxy:
                break
        scope["client"] = (host, 0)
        return (self._known.get(host) or self._look_at(host))[1]

    def distrusted(self, headers: Container[bytes]) -> None:
        """Say once that a header of a proxy came although no proxy is trusted."""
        if not self._warned and self._header in headers:
            self._warned = True
            log.warning("forwarded_by_stranger", header=self._header.decode())

    def _look_at(self, host: str) -> tuple[bool, str]:
        """Whether it is a trusted proxy, and by what it is counted: '' when it is no address."""
        try:
            address = ip_address(host)
        except ValueError:
            return False, ""
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        counted = str(address)
        if isinstance(address, IPv6Address):
            counted = str(IPv6Network((address, _PREFIX_BITS), strict=False))
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        found = any(address in network for network in self._trusted), counted
        self._known[host] = found
        return found

    def _hops(self, headers: Iterable[tuple[bytes, bytes]]) -> Iterable[str]:
        """The addresses of the header, the farthest first."""
        for name, value in headers:
            if name != self._header:
                continue
            for element in value.decode("latin-1").split(","):
                yield _without_port(_for(element) if name == b"forwarded" else element.strip())


def _for(element: str) -> str:
    """`for=` of an element of Forwarded (RFC 7239); '' when there is none."""
    for pair in element.split(";"):
        name, _, value = pair.strip().partition("=")
        if name.lower() == "for":
            return value.strip('"')
    return ""


def _without_port(node: str) -> str:
    if node.startswith("["):
        return node[1:].partition("]")[0]
    return node.partition(":")[0] if node.count(":") == 1 else node
