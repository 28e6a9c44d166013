"""Messages to the app's gateway address: a signed form, in the charset that it names itself."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import parse_qsl

from paymaster.kernel.errors import NeverSent, Refusal, Unauthenticated
from paymaster.rails.alipay import wire
from paymaster.rails.alipay.calls import canonical, is_fresh
from paymaster.rails.alipay.settings import PRODUCT, SCENE, keys
from paymaster.rails.base import Notice, RailAccount, WebhookAnswer
from paymaster.rails.deps import RailDeps
from paymaster.rails.yuan import UnreadableError, members, some_text

MAX_BYTES: Final = 64 * 1024
_MAX_FIELDS: Final = 100
TRIED_FOR: Final = timedelta(hours=26)
"""The provider tries for a day, with the time of its first try. What came before is told apart by
its number."""
CHANGED: Final = "alipay.fund.trans.order.changed"
_UNSIGNED: Final = frozenset({"sign", "sign_type"})
_CHARSETS: Final = frozenset({"utf-8", "gbk", "gb2312", "gb18030"})


def read(deps: RailDeps, account: RailAccount, body: bytes, now: datetime) -> Sequence[Notice]:
    """See ReadsWebhooks."""
    params = signed_form(deps, account, body)
    if not is_fresh(params.get("utc_timestamp", ""), now, TRIED_FOR):
        raise Unauthenticated("webhook-stale", "The message was not made within the last day.")
    try:
        return _notices(account, params)
    except (UnreadableError, ValueError, RecursionError) as error:
        raise Refusal("webhook-malformed", f"The message cannot be read: {error}") from None


def signed_form(deps: RailDeps, account: RailAccount, body: bytes) -> dict[str, str]:
    """The parameters of a form that the provider signed.

    Raises Unauthenticated `webhook-signature`, Refusal `webhook-malformed`.
    """
    if len(body) > MAX_BYTES:
        raise Refusal("webhook-malformed", f"The message is larger than {MAX_BYTES} bytes.")
    try:
        keyring = keys(deps, account)
        params, charset = _params(body)
        message = canonical(params, _UNSIGNED).encode(charset)
    except NeverSent as error:
        raise Unauthenticated("webhook-signature", error.detail) from None
    except (ValueError, LookupError):
        raise Unauthenticated("webhook-signature", "The message is not a signed form.") from None
    if params.get("sign_type") != "RSA2" or not keyring.genuine_by_any(
        params.get("sign", ""), message
    ):
        raise Unauthenticated("webhook-signature", "The signature does not match the form.")
    return params


def answer(*, taken: bool) -> WebhookAnswer:
    """See AnswersWebhooks: nothing but this word counts."""
    return WebhookAnswer(
        200 if taken else 400, "text/plain; charset=utf-8", b"success" if taken else b"fail"
    )


def _params(body: bytes) -> tuple[dict[str, str], str]:
    """The form, each name once. Raises ValueError or LookupError."""
    form = body.decode("ascii")
    found = dict(parse_qsl(form, keep_blank_values=True, errors="replace"))
    charset = codecs.lookup(found.get("charset", "utf-8")).name
    if charset not in _CHARSETS:
        raise ValueError("another charset")
    pairs = parse_qsl(
        form,
        keep_blank_values=True,
        strict_parsing=True,
        encoding=charset,
        errors="strict",
        max_num_fields=_MAX_FIELDS,
    )
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name twice")
    return dict(pairs), charset


def _notices(account: RailAccount, params: Mapping[str, str]) -> list[Notice]:
    if params.get("app_id") != account.settings.get("app_id"):
        raise UnreadableError("it is about another app")
    if params.get("msg_method") != CHANGED:
        return []
    number = params.get("notify_id", "")
    if not number:
        raise UnreadableError("it has no number")
    found = members(json.loads(params.get("biz_content", "")), "biz_content")
    product, scene = some_text(found, "product_code"), some_text(found, "biz_scene")
    if product not in {None, PRODUCT} or scene not in {None, SCENE}:
        return []
    return [Notice(number, wire.transfer(found))]
