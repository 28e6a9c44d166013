"""Which addresses may be called: never one of our own network by way of a stranger's URL.

An app's server is named by whoever makes an endpoint, and names change what they mean. So the same
question is asked when an endpoint is made and at every connection: what does the name lead to now,
and is each of these addresses one of the open internet? The connection then goes to exactly the
address that was looked at (`connect`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from paymaster.kernel.errors import Problem, Unprocessable
from paymaster.messages.lookups import Lookups

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses as text. Raises OSError when there are none."""

MAX_URL_CHARACTERS: Final = 2048
RESOLVE_SECONDS: Final = 5.0
"""How long a name may take to be looked up while somebody waits for the answer."""

_LOW_PORTS: Final = frozenset({80, 443})
_LEAST_PORT: Final = 1024
_MOST_PORT: Final = 65535
_VISIBLE = re.compile(r"[!-~]+\Z", re.ASCII)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_NEVER: Final[tuple[Network, ...]] = (
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # hides an address of another kind (RFC 8215)
    ipaddress.IPv6Network("2001::/32"),  # the same: Teredo
    ipaddress.IPv6Network("fec0::/10"),  # was site-local
    ipaddress.IPv6Network("3fff::/20"),  # documentation (RFC 9637)
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocols; what a cloud tells its machines
    ipaddress.IPv4Network("168.63.129.16/32"),  # the same of another cloud
    ipaddress.IPv4Network("192.88.99.0/24"),  # was the way to 6to4
)
"""Never of the open internet, although registries or Python's lists say so."""


class AddressRefused(OSError):
    """The name leads to an address that must not be called."""


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a URL that a connection needs."""

    scheme: str
    host: str
    port: int


resolve: Final = Lookups().find
"""What the system's resolver says now."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The rule of this installation: `allowed` are networks that may be called although private."""

    allowed: tuple[Network, ...] = ()
    resolve: Resolve = resolve

    async def addresses(self, host: str, port: int) -> list[str]:
        """What a host leads to, all of it open to be called.

        Raises AddressRefused when any of it is not, OSError when it leads nowhere.
        """
        found = await self.resolve(host, port)
        if not found:
            raise OSError(f"{host} has no address")
        for text in found:
            if not self.permits(text):
                raise AddressRefused(f"{host} leads to an address that must not be called")
        return list(found)

    def permits(self, text: str) -> bool:
        """Whether an address is of the open internet, or allowed by the settings."""
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        forms = [address, *_hidden(address)]
        if any(form in network for form in forms for network in self.allowed):
            return True
        return all(_open(form) for form in forms)

    async def check(self, url: str, *, live: bool) -> Target:
        """A URL that an endpoint may have.

        Raises Unprocessable `webhook-url-invalid`, `webhook-target-unknown` when the name leads
        nowhere, `webhook-target-refused` when it leads into a network that is not open.
        """
        target = parse(url, live=live)
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                await self.addresses(target.host, target.port)
        except AddressRefused:
            raise _fault(
                "webhook-target-refused",
                "The host leads into a private or reserved network; an operator can allow "
                "networks with the setting webhooks.allowed_networks.",
            ) from None
        except (OSError, UnicodeError):
            raise _fault("webhook-target-unknown", "The host's name leads nowhere.") from None
        return target


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks such as `10.1.0.0/16`. Raises ValueError."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def parse(url: str, *, live: bool) -> Target:
    """The parts of a URL of the right form. Raises Unprocessable `webhook-url-invalid`."""
    if len(url) > MAX_URL_CHARACTERS or _VISIBLE.match(url) is None:
        raise _fault("webhook-url-invalid", "Write at most 2048 visible ASCII characters.")
    try:
        parsed = httpx.URL(url)
        known_host = parsed.host  # reads what is not ASCII out of `xn--`
    except (httpx.InvalidURL, ValueError):
        raise _fault("webhook-url-invalid", "Write a URL, https://host/path.") from None
    if parsed.scheme not in (("https",) if live else ("https", "http")):
        known = "https" if live else "https or http"
        raise _fault("webhook-url-invalid", f"The scheme must be {known}.")
    if not known_host or parsed.userinfo or parsed.fragment:
        raise _fault("webhook-url-invalid", "Give a host, and neither a user nor a fragment.")
    usual = 443 if parsed.scheme == "https" else 80
    port = usual if parsed.port is None else parsed.port
    if port not in _LOW_PORTS and not _LEAST_PORT <= port <= _MOST_PORT:
        raise _fault("webhook-url-invalid", "Use port 80, 443, or one from 1024 on.")
    return Target(parsed.scheme, parsed.raw_host.decode("ascii"), port)


def _hidden(address: Address) -> list[Address]:
    """The IPv4 address that an IPv6 address stands for, if any."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    inside = address.ipv4_mapped or address.sixtofour
    return [] if inside is None else [inside]


def _open(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped is not None or address in _NAT64
    ):
        return True  # judged by the address it stands for
    return (
        not any(address in network for network in _NEVER)
        and address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
    )


def _fault(slug: str, detail: str) -> Unprocessable:
    return Unprocessable(slug, detail, problems=[Problem("/url", detail)])
