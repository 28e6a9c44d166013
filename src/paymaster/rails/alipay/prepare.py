"""The order that is stored: the very content that is sent, with nothing that changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from paymaster.kernel.errors import Broken, PaymasterError, Problem, RailRefused
from paymaster.rails.alipay.settings import PRODUCT, SCENE, scene_infos
from paymaster.rails.base import Instruction, Prepared, RailAccount
from paymaster.rails.destinations import check
from paymaster.rails.yuan import CNY, plain

_TITLE: Final = 128
_REMARK: Final = 200
_IDENTITIES: Final[Mapping[str, str]] = {
    "user_id": "ALIPAY_USER_ID",
    "open_id": "ALIPAY_OPEN_ID",
    "logon_id": "ALIPAY_LOGON_ID",
}


def prepare(account: RailAccount, batch_key: str, batch: Sequence[Instruction]) -> Prepared:
    """See Rail."""
    if len(batch) != 1:
        raise Broken("batch-malformed", "An Alipay transfer holds exactly one payment.")
    item = batch[0]
    fault, payee = _fault(account, item)
    if fault is not None:
        raise RailRefused("instruction-refused", fault, problems=[Problem("/" + item.key, fault)])
    return Prepared(batch_key, canonical(_order(account, item, payee)), (item.key,))


def canonical(found: Mapping[str, object]) -> bytes:
    """The one way to write content: sorted names, no blanks, UTF-8."""
    return json.dumps(
        found, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _fault(account: RailAccount, item: Instruction) -> tuple[str | None, Mapping[str, str]]:
    """Why it cannot be paid, or who is paid."""
    if item.payee.kind != "alipay":
        return f"Alipay cannot pay a destination of kind {item.payee.kind!r}.", {}
    if item.amount.currency != CNY or account.currency != CNY:
        return f"Alipay pays CNY, not {item.amount.currency}.", {}
    if item.amount.minor <= 0:
        return "The amount is not positive.", {}
    try:
        return None, check("alipay", item.payee.details).details
    except PaymasterError as error:
        return error.detail, {}


def _order(account: RailAccount, item: Instruction, payee: Mapping[str, str]) -> dict[str, Any]:
    which = next(name for name in _IDENTITIES if name in payee)
    words = plain(item.purpose, _TITLE) or item.key
    scene = account.settings.get("scene_name", "").strip()
    try:
        infos = scene_infos(account)
    except ValueError:
        raise Broken("rail-account-invalid", "The account's scene_infos cannot be read.") from None
    return {
        "out_biz_no": item.key,
        "trans_amount": item.amount.text(),
        "product_code": PRODUCT,
        "biz_scene": SCENE,
        "order_title": words,
        "remark": plain(item.purpose, _REMARK) or item.key,
        "payee_info": {
            "identity": payee[which],
            "identity_type": _IDENTITIES[which],
            **({"name": payee["name"]} if "name" in payee else {}),
        },
        **({"transfer_scene_name": scene} if scene else {}),
        **({"transfer_scene_report_infos": infos} if infos else {}),
    }
