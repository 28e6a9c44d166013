"""What each kind of failure means for a payment: one table, and nobody else decides.

    safe        nothing was executed, and nothing will be by this try: the same bytes may go again
    refused     the provider's definite no
    doubted     the provider's no, which it may take back: dead when it does not know the order
    put off     its "not now": when it does not know the order, the same bytes go again
    same key    it may have been executed; asking, or the same bytes under the same key, will tell
    unknown     it may have been executed; only a query, a replay or a report can tell

The page docs/concepts/dispatch.md shows the table, and a test holds one against the other. A call
that fails before a connection stands has sent nothing (httpx 0.28 exception tree); of a file the
bank has nothing before it is renamed.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import httpx

from paymaster.kernel.errors import (
    NeverSent,
    RailDoubted,
    RailError,
    RailPutOff,
    RailRefused,
    RailUnknown,
)


class Means(StrEnum):
    """What may be concluded."""

    SAFE = "safe"
    REFUSED = "refused"
    DOUBTED = "doubted"
    PUT_OFF = "put off"
    SAME_KEY = "same key"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """What happened, in the order of the table."""

    ADDRESS = "address"
    ACCOUNT = "account"
    SECRET = "secret"  # noqa: S105 - the name of a failure
    NO_SUCH_HOST = "no-such-host"
    REFUSED_CONNECTION = "refused-connection"
    TLS = "tls"
    CONNECT_TIMEOUT = "connect-timeout"
    NO_ROOM = "no-room"
    WRITE_BROKE = "write-broke"
    READ_TIMEOUT = "read-timeout"
    CUT_OFF = "cut-off"
    TOO_LARGE = "too-large"
    MALFORMED = "malformed"
    REDIRECTED = "redirected"
    TURNED_AWAY = "turned-away"
    SAME_KEY = "same-key"
    REFUSED = "refused"
    SAYS_NO = "says-no"
    NOT_NOW = "not-now"
    UNEXPLAINED = "unexplained"
    SERVER_FAULT = "server-fault"
    HOST_KEY = "host-key"
    LOGIN = "login"
    BANK_AWAY = "bank-away"
    NOT_WRITTEN = "not-written"
    NOT_RENAMED = "not-renamed"
    NAME_TAKEN = "name-taken"
    DELIVERY_UNPROVEN = "delivery-unproven"
    UNWRITABLE = "unwritable"
    CALL_TIMEOUT = "call-timeout"
    RAIL_FAULT = "rail-fault"
    LEASE_EXPIRED = "lease-expired"


@dataclass(frozen=True, slots=True)
class Meaning:
    """A row: `when` and `then` are words for the page, `slug` is the error that is raised."""

    kind: Kind
    means: Means
    slug: str
    when: str
    then: str


_AGAIN = "the same bytes are due again, after a growing pause"
_ASK = "the provider is asked; no other order is made"
_REPORT = "the bank's report or statement tells, or a person"
_NO = "the order is dead, with this as its proof"
_ONCE_ABSENT = (
    "the provider is asked; once it does not know the order the same bytes go again, and when they"
    " may not any more it is dead"
)
_IF_ABSENT = "the provider is asked; the order is dead once it does not know it, after its lag"

TABLE: Final[tuple[Meaning, ...]] = (
    Meaning(
        Kind.ADDRESS,
        Means.SAFE,
        "provider-unreachable",
        "the address is no address, or its proxy cannot be used",
        _AGAIN,
    ),
    Meaning(
        Kind.ACCOUNT,
        Means.SAFE,
        "rail-account-invalid",
        "the rail account lacks a setting",
        _AGAIN,
    ),
    Meaning(
        Kind.SECRET,
        Means.SAFE,
        "rail-secret-missing",
        "a secret is missing or unusable",
        _AGAIN,
    ),
    Meaning(
        Kind.NO_SUCH_HOST, Means.SAFE, "provider-unreachable", "the name has no address", _AGAIN
    ),
    Meaning(
        Kind.REFUSED_CONNECTION,
        Means.SAFE,
        "provider-unreachable",
        "the connection is refused",
        _AGAIN,
    ),
    Meaning(
        Kind.TLS,
        Means.SAFE,
        "provider-unreachable",
        "TLS fails: no certificate that we trust, or another version",
        _AGAIN,
    ),
    Meaning(
        Kind.CONNECT_TIMEOUT,
        Means.SAFE,
        "provider-unreachable",
        "no connection in time",
        _AGAIN,
    ),
    Meaning(
        Kind.NO_ROOM,
        Means.SAFE,
        "provider-unreachable",
        "all our own connections are in use",
        _AGAIN,
    ),
    Meaning(
        Kind.WRITE_BROKE,
        Means.UNKNOWN,
        "provider-silent",
        "the connection stands and breaks while the order is written, at whatever byte",
        _ASK,
    ),
    Meaning(Kind.READ_TIMEOUT, Means.UNKNOWN, "provider-silent", "no answer in time", _ASK),
    Meaning(
        Kind.CUT_OFF,
        Means.UNKNOWN,
        "provider-silent",
        "the connection ends without an answer or in the middle of one",
        _ASK,
    ),
    Meaning(
        Kind.TOO_LARGE,
        Means.UNKNOWN,
        "provider-answer-too-large",
        "an answer larger than we read",
        _ASK,
    ),
    Meaning(
        Kind.MALFORMED,
        Means.UNKNOWN,
        "provider-answer-malformed",
        "2xx that cannot be read, or that speaks of another payment",
        _ASK,
    ),
    Meaning(Kind.REDIRECTED, Means.UNKNOWN, "provider-error", "1xx, 3xx: never followed", _ASK),
    Meaning(
        Kind.TURNED_AWAY,
        Means.SAFE,
        "provider-turned-away",
        "401, 403, 425, 429: turned away at the door, for a reason that is not the payment's",
        _AGAIN,
    ),
    Meaning(
        Kind.SAME_KEY,
        Means.SAME_KEY,
        "provider-error",
        "408, 409: a request under this key is or was there",
        _ASK,
    ),
    Meaning(
        Kind.REFUSED,
        Means.REFUSED,
        "provider-refused",
        "400, 402, 404, 422 and other 4xx with the provider's own error",
        _NO,
    ),
    Meaning(
        Kind.SAYS_NO,
        Means.DOUBTED,
        "provider-refused",
        "WeChat Pay, Alipay: a listed error about this order alone, signed where answers are",
        _IF_ABSENT,
    ),
    Meaning(
        Kind.NOT_NOW,
        Means.PUT_OFF,
        "provider-turned-away",
        "WeChat Pay, Alipay: a listed error about our funds, rate, keys, rights, or a payee's day",
        _ONCE_ABSENT,
    ),
    Meaning(
        Kind.UNEXPLAINED,
        Means.UNKNOWN,
        "provider-error",
        "4xx without the provider's own error: a proxy, or another server",
        _ASK,
    ),
    Meaning(Kind.SERVER_FAULT, Means.UNKNOWN, "provider-error", "5xx", _ASK),
    Meaning(
        Kind.HOST_KEY,
        Means.SAFE,
        "sftp-host-key",
        "SFTP: the server is not the pinned one",
        _AGAIN,
    ),
    Meaning(
        Kind.LOGIN,
        Means.SAFE,
        "sftp-auth",
        "SFTP: our key is not accepted",
        _AGAIN,
    ),
    Meaning(
        Kind.BANK_AWAY,
        Means.SAFE,
        "transport-unreachable",
        "SFTP, folder: no connection, no folder",
        _AGAIN,
    ),
    Meaning(
        Kind.NOT_WRITTEN,
        Means.SAFE,
        "transport-refused",
        "SFTP, folder: it breaks before the file is renamed, at whatever byte",
        _AGAIN,
    ),
    Meaning(
        Kind.NOT_RENAMED,
        Means.SAFE,
        "transport-refused",
        "the rename fails or gets no answer, and the unfinished file could be taken away",
        _AGAIN,
    ),
    Meaning(
        Kind.NAME_TAKEN,
        Means.UNKNOWN,
        "transport-name-taken",
        "another file has the name of ours",
        _REPORT,
    ),
    Meaning(
        Kind.DELIVERY_UNPROVEN,
        Means.UNKNOWN,
        "transport-unproven",
        "the rename gets no answer, and neither file is there, or nobody can look",
        _REPORT,
    ),
    Meaning(
        Kind.UNWRITABLE,
        Means.REFUSED,
        "instruction-refused",
        "the rail cannot express the payment; no order is made of it",
        "the withdrawal fails; the other payments go",
    ),
    Meaning(
        Kind.CALL_TIMEOUT,
        Means.UNKNOWN,
        "call-timeout",
        "the rail does not come back in time",
        _ASK,
    ),
    Meaning(
        Kind.RAIL_FAULT,
        Means.UNKNOWN,
        "rail-fault",
        "a fault in the rail's code while it sends",
        _ASK,
    ),
    Meaning(
        Kind.LEASE_EXPIRED,
        Means.UNKNOWN,
        "lease-expired",
        "the process that was sending has ended or is late",
        _ASK,
    ),
)
"""Every kind once."""

OF: Final[Mapping[Kind, Meaning]] = {row.kind: row for row in TABLE}

_CLASSES: Final[Mapping[Means, type[RailError]]] = {
    Means.SAFE: NeverSent,
    Means.REFUSED: RailRefused,
    Means.DOUBTED: RailDoubted,
    Means.PUT_OFF: RailPutOff,
    Means.SAME_KEY: RailUnknown,
    Means.UNKNOWN: RailUnknown,
}
_TURNED_AWAY: Final = frozenset({401, 403, 425, 429})
_SAME_KEY: Final = frozenset({408, 409})


def error(kind: Kind, detail: str, extra: Mapping[str, str] | None = None) -> RailError:
    """The error that says what this kind of failure means, to be raised."""
    row = OF[kind]
    return _CLASSES[row.means](row.slug, detail, extra=extra)


def of_status(status: int, *, explained: bool) -> Kind:
    """What an HTTP answer is that does not confirm the order.

    `explained`: its body is one of the provider's own errors, and not a proxy's.
    """
    if 200 <= status < 300:
        return Kind.MALFORMED
    if status < 400:
        return Kind.REDIRECTED
    if status >= 500:
        return Kind.SERVER_FAULT
    if status in _TURNED_AWAY:
        return Kind.TURNED_AWAY
    if status in _SAME_KEY:
        return Kind.SAME_KEY
    return Kind.REFUSED if explained else Kind.UNEXPLAINED


_BEFORE: Final[Mapping[type[Exception], Kind]] = {
    httpx.ConnectTimeout: Kind.CONNECT_TIMEOUT,
    httpx.PoolTimeout: Kind.NO_ROOM,
    httpx.ProxyError: Kind.ADDRESS,
    httpx.UnsupportedProtocol: Kind.ADDRESS,
    httpx.InvalidURL: Kind.ADDRESS,
}
_LATER: Final[Mapping[type[Exception], Kind]] = {
    httpx.ReadTimeout: Kind.READ_TIMEOUT,
    httpx.WriteTimeout: Kind.WRITE_BROKE,
    httpx.WriteError: Kind.WRITE_BROKE,
}


def of_failure(failure: Exception, *, began: bool) -> Kind:
    """What kind a failed HTTP call is. `began`: bytes of the request were given to a connection.

    Once they were, no error is believed to have come before.
    """
    if not began:
        if isinstance(failure, httpx.ConnectError):
            return _connecting(failure)
        for known, kind in _BEFORE.items():
            if isinstance(failure, known):
                return kind
    for known, kind in _LATER.items():
        if isinstance(failure, known):
            return kind
    return Kind.CUT_OFF


def _connecting(failure: Exception) -> Kind:
    causes = list(_causes(failure))
    if any(isinstance(each, socket.gaierror) for each in causes):
        return Kind.NO_SUCH_HOST
    if any(isinstance(each, ssl.SSLError) for each in causes):
        return Kind.TLS
    return Kind.REFUSED_CONNECTION


def _causes(failure: BaseException | None) -> Iterator[BaseException]:
    while failure is not None:
        yield failure
        failure = failure.__cause__ or failure.__context__


def page() -> str:
    """The table as the documentation shows it."""
    rows = [f"| {row.when} | {row.means.value} | `{row.slug}` | {row.then} |" for row in TABLE]
    return "\n".join(["| What happens | Means | Slug | What follows |", "|---|---|---|---|", *rows])
