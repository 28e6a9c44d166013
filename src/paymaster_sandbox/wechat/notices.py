"""What the provider tells the merchant by itself: sealed and signed, and repeated until heard."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.notify import Addressed, Family, Heard, Outgoing
from paymaster_sandbox.wechat import crypto, mishaps, parties
from paymaster_sandbox.wechat.times import beijing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from paymaster_sandbox.chassis.base import Chassis
    from paymaster_sandbox.chassis.notify import Courier
    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.mishaps import Mishap
    from paymaster_sandbox.wechat.parties import Merchant
    from paymaster_sandbox.wechat.platform import Platform

TRANSFER: Final = "wechat-transfer"
PAY: Final = "wechat-pay"
PAY_V2: Final = "wechat-pay-v2"

_TRANSFER_WAITS: Final = (15,) * 10 + (300,) * 10 + (1800,) * 44
_PAY_WAITS: Final = (
    15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10800, 10800, 10800, 21600, 21600,
)  # fmt: skip


class Notices:
    """Makes notices and addresses them."""

    def __init__(self, chassis: Chassis, courier: Courier, platform: Platform) -> None:
        self._chassis = chassis
        self._courier = courier
        self._platform = platform
        for name, waits, heard in (
            (TRANSFER, _TRANSFER_WAITS, _by_status),
            (PAY, _PAY_WAITS, _by_status),
            (PAY_V2, _PAY_WAITS, _by_body),
        ):
            delays = tuple(wait * SECOND for wait in waits)
            courier.family(name, Family(self._address, delays, heard))

    def tell(
        self, tx: Tx, merchant: Merchant, url: str | None, event: str, original: str,
        facts: Mapping[str, object], family: str = TRANSFER,
    ) -> None:  # fmt: skip
        """Announce something under APIv3, and whatever false the mishaps want beside it."""
        url = url or merchant.notify_url
        if url is None:
            return
        notice = self._chassis.seed.id(tx, "wxn")
        body = self._sealed(tx, notice, merchant, event, original, facts)
        struck = mishaps.every(tx, self._chassis.seed, "notice", mishaps.NOTICES)
        self._queue(tx, notice, _channel(family, merchant, url, "-"), body, struck)
        for mishap in struck:
            self._plant(tx, merchant, url, family, mishap, (event, original, facts))
        self._courier.wake()

    def tell_v2(self, tx: Tx, merchant: Merchant, url: str, body: bytes) -> None:
        """Announce something under APIv2."""
        notice = self._chassis.seed.id(tx, "wxn")
        struck = mishaps.every(tx, self._chassis.seed, "notice", mishaps.NOTICES)
        self._queue(tx, notice, _channel(PAY_V2, merchant, url, "-"), body, struck)
        if any(mishap.kind in ("bad_signature", "tampered") for mishap in struck):
            notice = self._chassis.seed.id(tx, "wxn")
            tampered = body.replace(b"<total_fee>", b"<total_fee>1")
            channel = _channel(PAY_V2, merchant, url, "-")
            self._courier.queue(tx, notice, channel, tampered, genuine=False)
        self._courier.wake()

    def _queue(self, tx: Tx, notice: str, channel: str, body: bytes, struck: list[Mishap]) -> None:
        by_kind = {mishap.kind: mishap for mishap in struck}
        if "lost" in by_kind:
            self._courier.queue(tx, notice, channel, body, after=())
            return
        late = by_kind["late"].number if "late" in by_kind else 0
        copies = max(1, by_kind["copies"].number) if "copies" in by_kind else 1
        self._courier.queue(tx, notice, channel, body, after=(late,) * copies)

    def _plant(
        self, tx: Tx, merchant: Merchant, url: str, family: str, mishap: Mishap,
        told: tuple[str, str, Mapping[str, object]],
    ) -> None:  # fmt: skip
        """Queue something that must not be believed."""
        if mishap.kind in ("lost", "late", "copies"):
            return
        event, original, facts = told
        oddity = mishap.kind
        if oddity == "wrong_mchid":
            facts = {**facts, "mchid": "1" * len(merchant.mchid)}
        notice = self._chassis.seed.id(tx, "wxn")
        body = self._sealed(tx, notice, merchant, event, original, facts)
        if oddity == "tampered":
            body = body.replace(b'"event_type":"', b'"event_type":"X')
        if oddity == "replayed":
            old = tx.one(
                "SELECT id, body FROM notice WHERE channel LIKE ? ORDER BY rowid LIMIT 1",
                f"{family}/{merchant.mchid} %",
            )
            body = body if old is None else old[1]
        self._courier.queue(
            tx, notice, _channel(family, merchant, url, oddity), body, genuine=False
        )

    def _sealed(
        self, tx: Tx, notice: str, merchant: Merchant, event: str, original: str,
        facts: Mapping[str, object],
    ) -> bytes:  # fmt: skip
        nonce = self._chassis.seed.id(tx, "")[:12]
        associated = original
        plain = _encode(facts)
        envelope = {
            "id": notice,
            "create_time": beijing(tx.now),
            "resource_type": "encrypt-resource",
            "event_type": event,
            "summary": _SUMMARIES.get(event, event),
            "resource": {
                "original_type": original,
                "algorithm": "AEAD_AES_256_GCM",
                "ciphertext": crypto.seal(merchant.apiv3_key, nonce, associated, plain),
                "associated_data": associated,
                "nonce": nonce,
            },
        }
        return _encode(envelope)

    def _address(self, tx: Tx, out: Outgoing) -> Addressed | None:
        """Sign the notice now. Only receivers on this machine are ever called."""
        family, _, rest = out.channel.partition("/")
        mchid, oddity, url = rest.split(" ", 2)
        merchant = parties.merchant(tx, mchid)
        if merchant is None or urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
            return None
        if family == PAY_V2:
            headers = {"Content-Type": "text/xml", "User-Agent": "Mozilla/4.0"}
            return Addressed(url, headers)
        if oddity == "tampered":
            true = out.body.replace(b'"event_type":"X', b'"event_type":"')
            return Addressed(url, self._platform.notice_headers(tx, merchant, true, ""))
        if oddity == "replayed":
            return Addressed(url, self._platform.notice_headers(tx, merchant, out.body, "stale"))
        return Addressed(url, self._platform.notice_headers(tx, merchant, out.body, oddity))


_SUMMARIES: Final = {
    "MCHTRANSFER.BILL.FINISHED": "商家转账单据终态通知",
    "MCHTRANSFER.BATCH.FINISHED": "商家转账批次完成通知",
    "MCHTRANSFER.BATCH.CLOSED": "商家转账批次关闭通知",
    "MCHTRANSFER.AUTHORIZATION.CONFIRMED": "用户确认授权通知",
    "TRANSACTION.SUCCESS": "支付成功",
    "REFUND.SUCCESS": "退款成功",
    "REFUND.ABNORMAL": "退款异常",
    "REFUND.CLOSED": "退款关闭",
}


def _channel(family: str, merchant: Merchant, url: str, oddity: str) -> str:
    return f"{family}/{merchant.mchid} {oddity} {url}"


def _encode(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _by_status(heard: Heard) -> bool:
    return 200 <= heard.status < 300


def _by_body(heard: Heard) -> bool:
    """APIv2 wants to read SUCCESS."""
    return heard.status == 200 and b"<return_code><![CDATA[SUCCESS]]></return_code>" in (
        heard.body.replace(b"\n", b"").replace(b" ", b"")
    )
