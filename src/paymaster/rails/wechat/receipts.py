"""Receipts of transfers: asked for, made by the provider after a while, and checked by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import quote

from paymaster.rails import meaning
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps
from paymaster.rails.meaning import Kind
from paymaster.rails.wechat import calls, codes, wire
from paymaster.rails.yuan import UnreadableError, some_text, text

PATH: Final = "/v3/fund-app/mch-transfer/elecsign/out-bill-no"


class ReceiptState(StrEnum):
    """How far the provider is with it."""

    GENERATING = "GENERATING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the provider says of a receipt."""

    key: str
    state: ReceiptState
    digest: str | None = None
    digest_kind: str | None = None
    url: str | None = None


async def get(deps: RailDeps, account: RailAccount, key: str) -> bytes | None:
    """The receipt of a transfer; None while it is being made. Asked for where it was not yet.

    Raises as `order`, and RailRefused `provider-refused` where the provider could not make it.
    """
    said = await calls.ask(deps, account, "GET", f"{PATH}/{quote(key)}")
    if said.genuine and said.status == 404 and said.code in codes.NOT_FOUND:
        await order(deps, account, key)
        return None
    found = _read(said, key)
    if found.state is ReceiptState.FAILED:
        raise meaning.error(Kind.REFUSED, "The provider could not make the receipt.")
    return None if found.state is ReceiptState.GENERATING else await download(deps, account, found)


async def order(deps: RailDeps, account: RailAccount, key: str) -> Receipt:
    """Ask for the receipt of a transfer; only transfers whose name was checked have one.

    Raises what `send` raises; no money moves in any case.
    """
    body = wire.canonical({"out_bill_no": key})
    return _read(await calls.ask(deps, account, "POST", PATH, body), key)


async def download(deps: RailDeps, account: RailAccount, receipt: Receipt) -> bytes:
    """The file of a finished receipt; its address is good for ten minutes.

    Raises RailUnknown `provider-answer-malformed` for what is not the announced file, or has a
    digest that we cannot compute (SM3).
    """
    if receipt.url is None or receipt.digest is None or receipt.digest_kind != "SHA256":
        raise meaning.error(Kind.MALFORMED, "The receipt has no address, or no SHA-256.")
    answer = await calls.download(deps, account, receipt.url)
    if answer.status != 200 or hashlib.sha256(answer.body).hexdigest() != receipt.digest.lower():
        raise meaning.error(Kind.MALFORMED, "The receipt is not what was announced.")
    return answer.body


def _read(said: calls.Said, key: str) -> Receipt:
    if said.genuine and 400 <= said.status < 500 and said.code not in codes.LATER:
        extra = {"code": said.code or str(said.status)}
        raise meaning.error(Kind.REFUSED, "The provider has no receipt.", extra)
    if not said.good:
        raise codes.failure(said)
    try:
        return _described(said.found, key)
    except (UnreadableError, ValueError) as error:
        raise meaning.error(Kind.MALFORMED, f"The answer cannot be read: {error}.") from None


def _described(found: Mapping[str, object], key: str) -> Receipt:
    if some_text(found, "out_bill_no") not in {None, key}:
        raise UnreadableError("it is about another transfer")
    return Receipt(
        key=key,
        state=ReceiptState(text(found, "state")),
        digest=some_text(found, "hash_value"),
        digest_kind=some_text(found, "hash_type"),
        url=some_text(found, "download_url"),
    )
