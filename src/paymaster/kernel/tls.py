"""TLS contexts: 1.3 unless a caller must speak to somebody older; who may call, by certificate.

A context holds its certificate; `Reloaded` reads a changed file into it, for later handshakes.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paymaster.kernel.errors import Refusal

ALPN = ["http/1.1"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Files (PEM): a certificate with its chain, its private key, and the CA that others have."""

    certificate: Path
    key: Path
    ca: Path | None = None


def server_context(identity: Identity) -> ssl.SSLContext:
    """For those who listen: TLS 1.3; with a CA only clients that it signed.

    Raises Refusal `certificate-unusable`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(ALPN)
    _load(context, identity)
    if identity.ca is not None:
        trust(context, identity.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def client_context(identity: Identity) -> ssl.SSLContext:
    """For calls to our own: TLS 1.3, the peer's name verified against the CA, our certificate.

    Raises Refusal `certificate-unusable`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _load(context, identity)
    if identity.ca is None:
        raise Refusal("certificate-unusable", "Name the CA of the installation in peers.ca.")
    trust(context, identity.ca)
    return context


def names_in(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """The names a peer has proven: URI and DNS of its certificate as `ssl` shows it."""
    if not certificate:
        return frozenset()
    found: Collection[tuple[str, str]] = certificate.get("subjectAltName", ())
    return frozenset(name for kind, name in found if kind in ("URI", "DNS"))


class Reloaded:
    """Keeps a server's context at what lies in its files.

    The new pair is tried in a context of its own first: half of it in the running one would end
    every handshake until the other half has come.
    """

    def __init__(self, context: ssl.SSLContext, identity: Identity) -> None:
        self._context = context
        self._identity = identity
        self._seen = _stamp(identity)

    def look(self) -> bool:
        """Read changed files; whether there were any. Raises Refusal `certificate-unusable`.

        Files that cannot be used are not looked at again until they change.
        """
        now = _stamp(self._identity)
        if now == self._seen:
            return False
        self._seen = now
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self._identity)
        _load(self._context, self._identity)
        if self._identity.ca is not None:
            trust(self._context, self._identity.ca)
        return True


def _load(context: ssl.SSLContext, identity: Identity) -> None:
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(identity.certificate, identity.key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise Refusal(
            "certificate-unusable",
            f"{identity.certificate} with {identity.key.name} cannot be used: {_why(error)}.",
        ) from None


def trust(context: ssl.SSLContext, ca: Path) -> None:
    """Trust the certificates of a file (PEM) too. Raises Refusal `certificate-unusable`."""
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError) as error:
        raise Refusal("certificate-unusable", f"{ca} cannot be used: {_why(error)}.") from None


def show(context: ssl.SSLContext, identity: str) -> None:
    """Prove who we are with a certificate and its key (PEM in one text), without a file of it.

    OpenSSL reads keys from files only: this one lies in memory and has no name. Where the system
    has no such files the key is not written to a disk instead, but refused.

    Raises Refusal `certificate-unusable`.
    """
    if not hasattr(os, "memfd_create"):
        raise Refusal("certificate-unusable", "Client certificates from a secret need Linux.")
    held = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        with os.fdopen(held, "wb", closefd=False) as file:
            file.write(identity.encode())
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(f"/proc/self/fd/{held}", password=lambda: b"")
    except (OSError, ValueError) as error:
        raise Refusal(
            "certificate-unusable", f"The client certificate cannot be used: {_why(error)}."
        ) from None
    finally:
        os.close(held)


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM"
    return getattr(error, "strerror", None) or "not PEM"


def _stamp(identity: Identity) -> tuple[tuple[int, int, int] | None, ...]:
    stamps: list[tuple[int, int, int] | None] = []
    for path in (identity.certificate, identity.key, identity.ca):
        try:
            found = None if path is None else path.stat()
        except OSError:
            found = None
        stamps.append(None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(stamps)
