"""The order that is stored: every parameter in the clear, nothing that changes between tries.

What is personal is encrypted when it is sent, with other bytes every time; the provider compares
what it decrypts. So the same order is the same order, days later and by another process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from paymaster.kernel.errors import Broken, PaymasterError, Problem, RailRefused
from paymaster.rails.base import Instruction, Prepared, RailAccount
from paymaster.rails.deps import setting
from paymaster.rails.destinations import check
from paymaster.rails.wechat import wire
from paymaster.rails.wechat.settings import Product, pays_out, product, scene_infos
from paymaster.rails.yuan import CNY, plain

NAME_NEEDED_FROM: Final = 200_000
NAME_ALLOWED_FROM: Final = 30
RED_PACKET_MOST: Final = 20_000
_REMARK: Final = 32
_DESCRIPTION: Final = 100


def prepare(account: RailAccount, batch_key: str, batch: Sequence[Instruction]) -> Prepared:
    """See Rail."""
    if len(batch) != 1:
        raise Broken("batch-malformed", "A WeChat transfer holds exactly one payment.")
    item = batch[0]
    if not pays_out(account):
        said = "This rail account only takes money in."
        raise RailRefused("instruction-refused", said, problems=[Problem("/" + item.key, said)])
    kind = product(account)
    fault, payee = _fault(account, item)
    fault = fault or _name_fault(account, kind, item, payee.get("name"))
    if fault is not None:
        raise RailRefused("instruction-refused", fault, problems=[Problem("/" + item.key, fault)])
    make = {
        Product.BILLS: _bill,
        Product.AUTHORISED: _authorised,
        Product.BATCHES: _batch,
        Product.V2: _old,
    }[kind]
    order = {"product": kind.value, "openid": payee["openid"], "params": make(account, item, payee)}
    return Prepared(batch_key, wire.canonical(order), (item.key,))


def _fault(account: RailAccount, item: Instruction) -> tuple[str | None, Mapping[str, str]]:
    """Why it cannot be paid, or who is paid."""
    if item.payee.kind != "wechat":
        return f"WeChat Pay cannot pay a destination of kind {item.payee.kind!r}.", {}
    if item.amount.currency != CNY or account.currency != CNY:
        return f"WeChat Pay pays CNY, not {item.amount.currency}.", {}
    if item.amount.minor <= 0:
        return "The amount is not positive.", {}
    try:
        payee = check("wechat", item.payee.details).details
    except PaymasterError as error:
        return error.detail, {}
    if payee["appid"] != account.settings.get("appid", "").strip():
        return "This openid was given out by another app than the account's.", {}
    return None, payee


def _name_fault(
    account: RailAccount, kind: Product, item: Instruction, name: str | None
) -> str | None:
    if item.amount.minor >= NAME_NEEDED_FROM and name is None and kind is not Product.V2:
        return "From 2,000 yuan on WeChat Pay asks for the payee's name."
    if kind is Product.V2 and _checks_name(account) and name is None:
        return "This account has names checked, and the destination has none."
    red = account.settings.get("style") == "RED_PACKET"
    if kind is Product.BILLS and red and item.amount.minor > RED_PACKET_MOST:
        return "A red packet holds at most 200 yuan."
    return None


def _checks_name(account: RailAccount) -> bool:
    return account.settings.get("check_name", "NO_CHECK") == "FORCE_CHECK"


def _given(account: RailAccount, *names: str) -> dict[str, str]:
    """Optional settings that go out under their own name."""
    found = {name: account.settings.get(name, "").strip() for name in names}
    return {name: value for name, value in found.items() if value}


def _name(item: Instruction, payee: Mapping[str, str]) -> dict[str, str]:
    """The name, where the provider takes it."""
    name = payee.get("name")
    return {} if name is None or item.amount.minor < NAME_ALLOWED_FROM else {"user_name": name}


def _remark(item: Instruction, longest: int = _REMARK) -> str:
    return plain(item.purpose, longest) or item.key


def _common(account: RailAccount, item: Instruction, payee: Mapping[str, str]) -> dict[str, Any]:
    perception = account.settings.get("perception", "").strip()
    try:
        infos = scene_infos(account)
    except ValueError:
        raise Broken("rail-account-invalid", "The account's scene_infos cannot be read.") from None
    return {
        "out_bill_no": item.key,
        "transfer_amount": item.amount.minor,
        "transfer_remark": _remark(item),
        "transfer_scene_id": setting(account, "scene_id"),
        "transfer_scene_report_infos": infos,
        **({"user_recv_perception": perception} if perception else {}),
        **_name(item, payee),
        **_given(account, "notify_url"),
    }


def _bill(account: RailAccount, item: Instruction, payee: Mapping[str, str]) -> dict[str, Any]:
    style = account.settings.get("style", "").strip()
    return {
        **_common(account, item, payee),
        "appid": payee["appid"],
        "openid": payee["openid"],
        **({"user_recv_style": {"type": style}} if style else {}),
    }


def _authorised(
    account: RailAccount, item: Instruction, payee: Mapping[str, str]
) -> dict[str, Any]:
    """Which consent stands is looked up when it is sent: payees close one and give another."""
    return {**_common(account, item, payee), "appid": payee["appid"]}


def _batch(account: RailAccount, item: Instruction, payee: Mapping[str, str]) -> dict[str, Any]:
    """A batch of one: number and transfer have the same key, so either finds the other."""
    scene = account.settings.get("scene_id", "").strip()
    return {
        "appid": payee["appid"],
        "out_batch_no": item.key,
        "batch_name": _remark(item),
        "batch_remark": _remark(item),
        "total_amount": item.amount.minor,
        "total_num": 1,
        "transfer_detail_list": [
            {
                "out_detail_no": item.key,
                "transfer_amount": item.amount.minor,
                "transfer_remark": _remark(item),
                "openid": payee["openid"],
                **_name(item, payee),
            }
        ],
        **({"transfer_scene_id": scene} if scene else {}),
        **_given(account, "notify_url"),
    }


def _old(account: RailAccount, item: Instruction, payee: Mapping[str, str]) -> dict[str, Any]:
    forced = _checks_name(account)
    return {
        "mch_appid": payee["appid"],
        "mchid": setting(account, "mchid"),
        "partner_trade_no": item.key,
        "openid": payee["openid"],
        "check_name": "FORCE_CHECK" if forced else "NO_CHECK",
        **({"re_user_name": payee["name"]} if forced else {}),
        "amount": str(item.amount.minor),
        "desc": _remark(item, _DESCRIPTION),
        "spbill_create_ip": account.settings.get("client_ip", "").strip() or "127.0.0.1",
    }
