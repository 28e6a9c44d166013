"""Which of its keys the provider uses when, and the answers about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.wechat import crypto, mishaps
from paymaster_sandbox.wechat.errors import V3Error, wrong
from paymaster_sandbox.wechat.times import beijing

if TYPE_CHECKING:
    from paymaster_sandbox.chassis.base import Chassis
    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.keys import Keys, PlatformKey
    from paymaster_sandbox.wechat.mishaps import Mishap
    from paymaster_sandbox.wechat.parties import Merchant

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_rotation (kind TEXT PRIMARY KEY, number INTEGER NOT NULL);
"""

_UNKNOWN: Final = "0123456789ABCDEF0123456789ABCDEF01234567"
_STALE_SECONDS: Final = 600


class Platform:
    """The provider's keyring."""

    def __init__(self, chassis: Chassis, keys: Keys) -> None:
        self._chassis = chassis
        self._keys = keys

    def seconds(self, tx: Tx) -> int:
        """The provider's own clock, which may be wrong."""
        return self._chassis.clock.transport_seconds() + (
            mishaps.setting(tx, "clock_skew_seconds") // SECOND
        )

    def rotate(self, tx: Tx, kind: str) -> str:
        """Begin to use a new key of the kind; its serial. Older ones still decrypt."""
        tx.run(
            "INSERT INTO wechat_rotation (kind, number) VALUES (?, 2)"
            " ON CONFLICT (kind) DO UPDATE SET number = number + 1",
            kind,
        )
        return self._current(tx, kind).serial

    def ring(self, tx: Tx, merchant: Merchant) -> dict[str, PlatformKey]:
        """Every key that the merchant may meet, by serial; the newest of each kind last."""
        kinds = ("certificate", "public-key") if merchant.platform == "both" else (
            merchant.platform,
        )  # fmt: skip
        found = [
            self._key(kind, number)
            for kind in kinds
            for number in range(1, self._number(tx, kind) + 1)
        ]
        return {key.serial: key for key in found}

    def for_merchant(self, tx: Tx, merchant: Merchant, asked: str) -> PlatformKey:
        """The key that answers are signed with: of the kind that the request named."""
        kind = merchant.platform
        if kind == "both":
            kind = "public-key" if asked.startswith("PUB_KEY_ID_") else "certificate"
        return self._current(tx, kind)

    def for_notice(self, tx: Tx, merchant: Merchant) -> PlatformKey:
        """The key that a notice is signed with: while keys change, now one, now the other."""
        kind = merchant.platform
        if kind == "both":
            mixed = self._chassis.seed.below(tx, "wechat.mixed", 100) < merchant.mixed_percent
            kind = "public-key" if mixed else "certificate"
        return self._current(tx, kind)

    def answer_headers(
        self, tx: Tx, merchant: Merchant, asked: str, body: bytes, mishap: Mishap | None
    ) -> dict[str, str]:
        """The headers of an answer, its signature among them."""
        request_id = self._chassis.seed.id(tx, "wxr")
        if mishap is not None and mishap.kind == "no_signature":
            return {"Request-ID": request_id}
        signed = self._signed(
            tx, self.for_merchant(tx, merchant, asked), body, mishap.kind if mishap else ""
        )
        return {"Request-ID": request_id, **signed}

    def notice_headers(
        self, tx: Tx, merchant: Merchant, body: bytes, oddity: str
    ) -> dict[str, str]:
        """The headers of a notice."""
        return {
            "Content-Type": "application/json",
            "User-Agent": "Mozilla/4.0",
            "Accept": "*/*",
            **self._signed(tx, self.for_notice(tx, merchant), body, oddity),
        }

    def _signed(self, tx: Tx, key: PlatformKey, body: bytes, oddity: str) -> dict[str, str]:
        late = _STALE_SECONDS if oddity == "stale" else 0
        timestamp = str(self.seconds(tx) - late)
        nonce = self._chassis.seed.id(tx, "n")
        signature = crypto.sign(key.private, crypto.answer_message(timestamp, nonce, body))
        if oddity == "bad_signature":
            signature = crypto.sign(key.private, b"something else")
        if oddity == "signtest":
            signature = f"WECHATPAY/SIGNTEST/{signature[20:]}"
        return {
            "Wechatpay-Timestamp": timestamp,
            "Wechatpay-Nonce": nonce,
            "Wechatpay-Serial": _UNKNOWN if oddity == "unknown_serial" else key.serial,
            "Wechatpay-Signature": signature,
            "Wechatpay-Signature-Type": "WECHATPAY2-SHA256-RSA2048",
        }

    def decrypt(self, tx: Tx, merchant: Merchant, serial: str, field: str, text: str) -> str:
        """A sensitive field of a request, encrypted for the key that its header names.

        Raises:
            V3Error: the header names no key of ours, or the field was encrypted for another.
        """
        key = self.ring(tx, merchant).get(serial)
        if key is None:
            raise V3Error(400, "PARAM_ERROR", "Http头Wechatpay-Serial有误, 无法解密敏感字段")
        found = crypto.decrypt_field(key.private, text)
        if found is None:
            raise wrong(field, "敏感字段解密失败")
        return found

    def certificates(self, tx: Tx, merchant: Merchant) -> dict[str, object]:
        """The certificates that the merchant may meet, each sealed with its APIv3 key.

        Raises:
            V3Error: the merchant has none, because it verifies with a public key.
        """
        ring = self.ring(tx, merchant).values()
        if not any(key.certificate for key in ring):
            raise V3Error(404, "RESOURCE_NOT_EXISTS", "无可用的平台证书, 请使用微信支付公钥")
        data: list[dict[str, object]] = []
        for key in ring:
            if key.certificate is None:
                continue
            nonce = self._chassis.seed.id(tx, "")[:12]
            sealed = crypto.seal(merchant.apiv3_key, nonce, "certificate", key.certificate.encode())
            data.append(
                {
                    "serial_no": key.serial,
                    "effective_time": beijing(key.not_before * SECOND),
                    "expire_time": beijing(key.not_after * SECOND),
                    "encrypt_certificate": {
                        "algorithm": "AEAD_AES_256_GCM",
                        "nonce": nonce,
                        "associated_data": "certificate",
                        "ciphertext": sealed,
                    },
                }
            )
        return {"data": data}

    def _current(self, tx: Tx, kind: str) -> PlatformKey:
        return self._key(kind, self._number(tx, kind))

    def _number(self, tx: Tx, kind: str) -> int:
        row = tx.one("SELECT number FROM wechat_rotation WHERE kind = ?", kind)
        return 1 if row is None else int(row[0])

    def _key(self, kind: str, number: int) -> PlatformKey:
        if kind == "certificate":
            return self._keys.certificate(number)
        return self._keys.public_key(number)
