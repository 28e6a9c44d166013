"""What we are at WeChat Pay and Alipay: numbers, keys and certificates, made once a process.

An RSA key takes a twentieth of a second to make, and longer to read than to sign with a hundred
times. So the providers' keys are made once as well, and lie in each run's world as copies.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from paymaster.dispatch.accounts import NewAccount
from paymaster_sandbox.alipay.certificates import Certificates
from paymaster_sandbox.chassis.clock import SECOND, Clock
from paymaster_sandbox.wechat.keys import Keys
from paymaster_sim.clock import START

CURRENCY = "CNY"
WECHAT, CONSENT, ALIPAY = "wechat", "consent", "alipay"
"""Our accounts: transfers that their payee confirms, transfers to payees who have agreed once and
for all, and Alipay. A run has one of the first two."""

MCHIDS: Mapping[str, str] = {WECHAT: "1900000001", CONSENT: "1900000002"}
APPID = "wx0123456789abcdef"
APP_ID, SELLER_ID = "2021000000000051", "2088000000000051"
SCENE = [
    {"info_type": "活动名称", "info_content": "有奖任务"},
    {"info_type": "奖励说明", "info_content": "完成任务的奖励"},
]
SCENE_ID, PERCEPTION = "1000", "现金奖励"
HOOKS = "http://127.0.0.1/"
"""Where they call: the account's name follows. Only receivers on this machine are ever called."""

PRODUCTS: Mapping[str, str] = {WECHAT: "transfer-bills", CONSENT: "authorised"}
KEYS = 3
"""So many keys of each kind there are: the first, and two more to change to."""


@dataclass(frozen=True, slots=True)
class Merchants:
    """Our side of both contracts. `folder` holds the providers' keys."""

    folder: Path
    private: str = field(repr=False)
    public: str
    apiv3_key: str = field(repr=False)
    serials: Mapping[str, str]
    certificates: Mapping[str, str]
    """Ours at WeChat Pay, by account."""
    app_certificate: str
    root: str

    def lay_out(self, data: Path) -> None:
        """Put the providers' keys where a world looks for them."""
        for name in ("wechat", "alipay"):
            shutil.copytree(self.folder / name, data / name)

    def secret(self, name: str) -> str | None:
        """One that never changes, by its name in our store."""
        return {
            "yuan-private": self.private,
            "yuan-apiv3": self.apiv3_key,
            "yuan-app": self.app_certificate,
            "yuan-root": self.root,
        }.get(name)

    def account(self, name: str) -> NewAccount:
        """One of our rail accounts, for the directory."""
        return self._alipay() if name == ALIPAY else self._wechat(name)

    def _wechat(self, name: str) -> NewAccount:
        settings = {
            "product": PRODUCTS[name],
            "url": "http://wechat.sim",
            "mchid": MCHIDS[name],
            "appid": APPID,
            "merchant_serial": self.serials[name],
            "notify_url": HOOKS + name,
            "scene_id": SCENE_ID,
            "scene_infos": json.dumps(SCENE),
            "perception": PERCEPTION,
        }
        kept = {
            "private_key": "yuan-private",
            "apiv3_key": "yuan-apiv3",
            "platform_keys": f"yuan-keys-{name}",
        }
        return NewAccount(name, "wechat-pay", CURRENCY, settings, kept)

    def _alipay(self) -> NewAccount:
        settings = {"url": "http://alipay.sim", "app_id": APP_ID}
        kept = {
            "private_key": "yuan-private",
            "app_certificate": "yuan-app",
            "alipay_root_certificate": "yuan-root",
            "alipay_certificates": f"yuan-keys-{ALIPAY}",
        }
        return NewAccount(ALIPAY, "alipay", CURRENCY, settings, kept)


class Safe:
    """Makes them when they are first asked for: most runs are without."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def merchants(self) -> Merchants:
        """Ours."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        began = round(START.timestamp()) * SECOND
        wechat = Keys(self._folder / "wechat", Clock(lambda: began))
        alipay = Certificates(self._folder / "alipay")
        for number in range(1, KEYS + 1):
            wechat.certificate(number)
            wechat.public_key(number)
            alipay.signing(number)
        issued = {
            name: wechat.issue_merchant(mchid, public.decode()) for name, mchid in MCHIDS.items()
        }
        return Merchants(
            self._folder,
            private.decode(),
            public.decode(),
            secrets.token_hex(16),
            {name: serial for name, (serial, _) in issued.items()},
            {name: certificate for name, (_, certificate) in issued.items()},
            alipay.issue(_request(key)).decode(),
            alipay.roots.decode(),
        )


def _request(key: rsa.RSAPrivateKey) -> bytes:
    """What the provider makes our certificate from."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Zahlstelle")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)
