"""What a transfer order must look like."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from paymaster_sandbox.alipay.apps import App, Call
from paymaster_sandbox.alipay.wire import (
    Fields,
    ProblemError,
    amount,
    invalid,
    missing,
    refused,
    text,
)

SCENES: Final[Mapping[str, frozenset[str]]] = {
    "现金营销": frozenset({"活动名称", "奖励说明"}),
    "佣金报酬": frozenset({"岗位类型", "报酬说明"}),
    "业务结算": frozenset({"结算款项名称"}),
}
"""What must be reported for each scene."""

_PRODUCTS: Final = {"TRANS_ACCOUNT_NO_PWD": "transfer", "TRANS_BANKCARD_NO_PWD": "bank-transfer"}
_ACCOUNTS: Final = ("ALIPAY_USER_ID", "ALIPAY_OPEN_ID", "ALIPAY_LOGON_ID")
_KNOWN: Final = frozenset(
    {
        "out_biz_no", "trans_amount", "product_code", "biz_scene", "order_title", "payee_info",
        "remark", "business_params", "transfer_scene_name", "transfer_scene_report_infos",
        "original_order_id", "sign_data", "passback_params", "mutiple_currency_detail",
    }
)  # fmt: skip
_OUT_BIZ_NO: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
_CARD: Final = re.compile(r"[0-9]{12,19}")
_REMARK_FROM: Final = 5_000_000
_FORBIDDEN: Final = ("赌博", "洗钱")


@dataclass(frozen=True, slots=True)
class Payee:
    """Who is paid: the key in the books, and whether it is a card."""

    key: str
    card: bool
    verified: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A transfer order that has the right shape."""

    out_biz_no: str
    amount: int
    product: str
    scene: str
    title: str
    identity: str
    identity_type: str
    name: str
    content: str
    """Everything that was asked for, to compare a second request with."""

    @property
    def needs(self) -> str:
        """The contract that the order needs."""
        return _PRODUCTS[self.product]


def read_order(call: Call) -> Order:
    """The order of a call. Raises ProblemError."""
    fields = call.fields
    if call.app.options.public_key_mode:
        raise ProblemError("40006", "isv.insufficient-isv-permissions", "该接口仅支持证书模式")
    number = text(fields, "out_biz_no", 64)
    if _OUT_BIZ_NO.fullmatch(number) is None:
        raise invalid("out_biz_no")
    if fields.get("trans_amount") is None:
        raise missing("trans_amount")
    minor = amount(fields["trans_amount"], "trans_amount")
    product, scene = text(fields, "product_code", 64), text(fields, "biz_scene", 64)
    if product not in _PRODUCTS:
        raise invalid("product_code")
    if scene != "DIRECT_TRANSFER":
        raise invalid("biz_scene")
    unknown = sorted(set(fields) - _KNOWN)
    if unknown:
        raise invalid(unknown[0])
    title = text(fields, "order_title", 128, needed=product == "TRANS_ACCOUNT_NO_PWD")
    remark = text(fields, "remark", 200, needed=False)
    if minor >= _REMARK_FROM and not remark:
        raise refused("MEMO_REQUIRED_IN_TRANSFER_ERROR", "转账金额达到 50000 元时备注必填")
    if any(word in remark + title for word in _FORBIDDEN):
        raise refused("REMARK_HAS_SENSITIVE_WORD", "备注有敏感词")
    _check_scene(call.app, fields)
    identity, kind, name = _payee(fields, product)
    return Order(
        out_biz_no=number, amount=minor, product=product, scene=scene, title=title,
        identity=identity, identity_type=kind, name=name,
        content=json.dumps({**fields, "trans_amount": minor}, sort_keys=True),
    )  # fmt: skip


def _payee(fields: Fields, product: str) -> tuple[str, str, str]:
    info = fields.get("payee_info")
    if not isinstance(info, dict):
        raise missing("payee_info")
    payee = cast("dict[str, Any]", info)
    identity = text(payee, "identity", 64)
    kind = text(payee, "identity_type", 64)
    name = text(payee, "name", 128, needed=False)
    if product == "TRANS_BANKCARD_NO_PWD":
        if kind != "BANKCARD_ACCOUNT":
            raise invalid("identity_type")
        if _CARD.fullmatch(identity) is None:
            raise refused("PAYEE_CARD_INFO_ERROR", "收款方银行卡信息有误")
    elif kind not in _ACCOUNTS:
        raise invalid("identity_type")
    if kind in ("ALIPAY_LOGON_ID", "BANKCARD_ACCOUNT") and not name:
        raise missing("name")
    return identity, kind, name


def _check_scene(app: App, fields: Fields) -> None:
    """Raises ProblemError unless the scene is one of the customer's, with all that it asks for."""
    name = text(fields, "transfer_scene_name", 64, needed=bool(app.options.scenes))
    if not name:
        return
    if name not in SCENES or (app.options.scenes and name not in app.options.scenes):
        raise refused("TRANSFER_SCENE_NOT_SIGN", "尚未获取该转账场景")
    infos = fields.get("transfer_scene_report_infos")
    reported: list[tuple[str, str]] = []
    for info in cast("list[Any]", infos) if isinstance(infos, list) else []:
        if not isinstance(info, dict):
            raise invalid("transfer_scene_report_infos")
        entry = cast("dict[str, Any]", info)
        reported.append((text(entry, "info_type", 15), text(entry, "info_content", 32)))
    if sorted(kind for kind, _ in reported) != sorted(SCENES[name]):
        raise refused("TRANSFER_SCENE_INFO_ERROR", "未传入完整且对应的转账场景报备信息")
