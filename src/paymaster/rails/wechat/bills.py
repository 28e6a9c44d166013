"""The provider's daily files: asked for by day, checked against their digest, then read.

A bill is ready at ten in the morning, Beijing, of the day after; it never changes later. A day that
was read is not asked for again. Transfers are in the fund-flow bill only.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from datetime import date
from typing import Final

from paymaster.kernel.guard import forbid_network
from paymaster.rails import bill_days, meaning
from paymaster.rails.base import Notice, RailAccount, RemoteFile, Statement
from paymaster.rails.deps import RailDeps, setting
from paymaster.rails.meaning import Kind
from paymaster.rails.transport import MAX_FILE_BYTES
from paymaster.rails.wechat import calls, codes, flow
from paymaster.rails.wechat.settings import BILL_ACCOUNTS, Product, pays_out, product
from paymaster.rails.yuan import UnreadableError, text

READY_HOUR: Final = 10
_NOT_THERE: Final = frozenset({
    "NO_STATEMENT_EXIST", "STATEMENT_CREATING", "NO_BILL_EXIST", "BILL_CREATING", "NOT_FOUND",
})  # fmt: skip


async def fetch(deps: RailDeps, account: RailAccount, seen: frozenset[str]) -> Sequence[RemoteFile]:
    """See FetchesFiles. A merchant that has nothing to do with APIv3 needs its keys for it."""
    forbid_network()
    old = not pays_out(account) or product(account) is Product.V2
    if old and "platform_keys" not in account.secrets:
        return ()
    mchid, which = setting(account, "mchid"), _account(account)
    known = {flow.day_of(name, mchid, which) for name in seen}

    async def get(day: date) -> RemoteFile | None:
        body = await _bill(deps, account, day, which)
        if body is None:
            return None
        digest = hashlib.sha256(body).hexdigest()
        return RemoteFile(flow.file_name(mchid, which, day, digest), body)

    days = bill_days.recent(deps.clock.now(), READY_HOUR)
    return await bill_days.fetch(account.name, days, known, get)


def read(
    account: RailAccount, name: str, body: bytes
) -> tuple[Sequence[Notice], Sequence[Statement]]:
    """See FetchesFiles. No notices: a booked row proves no payment, see `flow`."""
    return (), flow.read(account, _account(account), name, body)


def _account(account: RailAccount) -> str:
    return account.settings.get("bill_account", "").strip() or BILL_ACCOUNTS[1]


async def _bill(deps: RailDeps, account: RailAccount, day: date, which: str) -> bytes | None:
    """The file of a day as it is when unpacked; None if there is none yet.

    Raises NeverSent or RailUnknown when it cannot be had.
    """
    target = f"/v3/bill/fundflowbill?bill_date={day.isoformat()}&account_type={which}&tar_type=GZIP"
    said = await calls.ask(deps, account, "GET", target)
    if said.genuine and said.code in _NOT_THERE:
        return None
    if not said.good:
        raise codes.failure(said)
    try:
        kind, digest = text(said.found, "hash_type"), text(said.found, "hash_value")
        url = text(said.found, "download_url")
    except UnreadableError as error:
        raise meaning.error(Kind.MALFORMED, f"The answer cannot be read: {error}.") from None
    answer = await calls.download(deps, account, url)
    body = _unpacked(answer.body) if answer.status == 200 else b""
    # The digest was signed, the file is not: it is what makes the file the provider's.
    ours = hashlib.sha1(body, usedforsecurity=False).hexdigest()
    if kind != "SHA1" or ours != digest.lower():
        raise meaning.error(Kind.MALFORMED, f"The bill of {day} is not what was announced.")
    return body


def _unpacked(packed: bytes) -> bytes:
    """What was compressed, up to the largest file that we read."""
    if not packed.startswith(b"\x1f\x8b"):
        return packed
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        body = unzip.decompress(packed, MAX_FILE_BYTES)
    except zlib.error:
        raise meaning.error(Kind.MALFORMED, "The bill cannot be unpacked.") from None
    if unzip.unconsumed_tail or not unzip.eof:
        raise meaning.error(Kind.TOO_LARGE, "The bill is too large, or cut off.")
    return body
