"""A merchant of WeChat Pay, written without a line of the sandbox or of the product."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.contract.sandbox.support import Heard, Receiver

from paymaster_sandbox import World

APPID = "wx0123456789abcdef"
MCHID = "1900000001"
BILLS = "/v3/fund-app/mch-transfer/transfer-bills"
SHA1 = hashes.SHA1()  # noqa: S303 - what the provider demands
OAEP = padding.OAEP(padding.MGF1(SHA1), SHA1, None)
SCENE = [
    {"info_type": "活动名称", "info_content": "新人礼"},
    {"info_type": "奖励说明", "info_content": "完成任务"},
]


def pem(public: rsa.RSAPublicKey) -> str:
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def public_of(text: str) -> rsa.RSAPublicKey:
    """The key in a certificate or in a public key's PEM."""
    if "CERTIFICATE" in text:
        found = x509.load_pem_x509_certificate(text.encode()).public_key()
    else:
        found = serialization.load_pem_public_key(text.encode())
    assert isinstance(found, rsa.RSAPublicKey)
    return found


@dataclass
class Merchant:
    """Signs requests, verifies answers and notices, opens what is sealed."""

    http: httpx.AsyncClient
    control: httpx.AsyncClient
    private: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(65537, 2048)
    )
    mchid: str = MCHID
    serial: str = ""
    certificate: str = ""
    apiv3_key: str = field(default_factory=lambda: secrets.token_hex(16))
    apiv2_key: str = field(default_factory=lambda: secrets.token_hex(16))
    platform: dict[str, str] = field(default_factory=dict)
    asks_for: str = ""

    async def register(self, **more: Any) -> dict[str, Any]:
        body = {
            "mchid": self.mchid, "public_key": pem(self.private.public_key()),
            "apiv3_key": self.apiv3_key, "apiv2_key": self.apiv2_key, "appids": [APPID],
            "balances": {"OPERATION": 1_000_000}, **more,
        }  # fmt: skip
        found = await self.knob("merchants", **body)
        self.serial, self.certificate = found["serial"], found["certificate"]
        self.platform = found["platform_keys"]
        return found

    async def knob(self, path: str, **body: Any) -> dict[str, Any]:
        answer = await self.control.post(f"/_control/wechat/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    async def read(self, path: str) -> dict[str, Any]:
        answer = await self.control.get(f"/_control/wechat/{path}")
        assert answer.is_success, answer.text
        return answer.json()

    async def user(self, person: str = "ada", **more: Any) -> str:
        body = {"appid": APPID, "person": person, "real_name": "张三", **more}
        return (await self.knob("users", **body))["openid"]

    async def mishap(self, call: str, kind: str, **more: Any) -> None:
        await self.knob("mishaps", call=call, kind=kind, **more)

    async def act(self, reference: str, act: str = "confirm", **more: Any) -> str:
        body = {"mchid": self.mchid, "reference": reference, "act": act, **more}
        return (await self.knob("act", **body))["state"]

    async def books(self) -> dict[str, Any]:
        return await self.read("books")

    def headers(self, method: str, target: str, body: bytes, **change: str) -> dict[str, str]:
        timestamp = change.get("timestamp", str(int(time.time())))
        nonce = change.get("nonce", secrets.token_hex(16))
        message = f"{method}\n{target}\n{timestamp}\n{nonce}\n".encode() + body + b"\n"
        raw = self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())
        signature = change.get("signature", base64.b64encode(raw).decode())
        token = (
            f'mchid="{change.get("mchid", self.mchid)}",nonce_str="{nonce}",'
            f'timestamp="{timestamp}",serial_no="{change.get("serial", self.serial)}",'
            f'signature="{signature}"'
        )
        headers = {
            "Authorization": f"WECHATPAY2-SHA256-RSA2048 {token}",
            "Accept": "application/json", "User-Agent": "test",
        }  # fmt: skip
        if body:
            headers["Content-Type"] = "application/json"
        serial = change.get("asks_for", self.asks_for)
        return {**headers, "Wechatpay-Serial": serial} if serial else headers

    async def call(
        self, method: str, target: str, content: Any = None, **change: str
    ) -> httpx.Response:
        body = b"" if content is None else json.dumps(content, ensure_ascii=False).encode()
        headers = self.headers(method, target, body, **change)
        return await self.http.request(method, target, content=body, headers=headers)

    async def get(self, target: str, **change: str) -> httpx.Response:
        return await self.call("GET", target, **change)

    async def transfer(self, out_no: str, openid: str, fen: int = 100, **more: Any) -> Any:
        return await self.call("POST", BILLS, bill(out_no, openid, fen, **more))

    async def state(self, out_no: str) -> str:
        answer = await self.get(f"{BILLS}/out-bill-no/{out_no}")
        assert answer.status_code == 200, answer.text
        return answer.json()["state"]

    def encrypted(self, text: str, serial: str) -> str:
        return base64.b64encode(
            public_of(self.platform[serial]).encrypt(text.encode(), OAEP)
        ).decode()

    def genuine(self, heard: Heard | httpx.Response) -> bool:
        """Whether the answer or the notice is signed with a key that we know, just now."""
        body = heard.content if isinstance(heard, httpx.Response) else heard.body
        headers = {name.lower(): value for name, value in heard.headers.items()}
        text = self.platform.get(headers.get("wechatpay-serial", ""))
        if text is None:
            return False
        stamp = headers["wechatpay-timestamp"]
        if abs(time.time() - int(stamp)) > 300:
            return False
        message = f"{stamp}\n{headers['wechatpay-nonce']}\n".encode() + body + b"\n"
        try:
            raw = base64.b64decode(headers["wechatpay-signature"], validate=True)
            public_of(text).verify(raw, message, padding.PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, ValueError):
            return False
        return True

    def opened(self, resource: dict[str, str]) -> bytes:
        """The plain text of a sealed resource."""
        return AESGCM(self.apiv3_key.encode()).decrypt(
            resource["nonce"].encode(), base64.b64decode(resource["ciphertext"]),
            resource["associated_data"].encode(),
        )  # fmt: skip

    def told(self, receiver: Receiver) -> list[dict[str, Any]]:
        """The contents of the genuine notices so far."""
        return [
            json.loads(self.opened(heard.event["resource"]))
            for heard in receiver.heard
            if self.genuine(heard)
        ]

    def digest(self, fields: dict[str, str], method: str = "MD5") -> str:
        """The sign of APIv2."""
        names = sorted(name for name, text in fields.items() if text and name != "sign")
        text = "&".join(f"{name}={fields[name]}" for name in names) + f"&key={self.apiv2_key}"
        if method == "MD5":
            return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().upper()
        key = self.apiv2_key.encode()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest().upper()


def bill(out_no: str, openid: str | None, fen: int = 100, **more: Any) -> dict[str, Any]:
    """The body of a transfer; a field that is None is left out."""
    body = {
        "appid": APPID, "out_bill_no": out_no, "transfer_scene_id": "1000", "openid": openid,
        "transfer_amount": fen, "transfer_remark": "活动奖励",
        "transfer_scene_report_infos": SCENE, **more,
    }  # fmt: skip
    return {name: value for name, value in body.items() if value is not None}


async def clock(world: World, seconds: float) -> None:
    """Move the world's time."""
    with world.chassis.tx() as tx:
        now = tx.now
    world.move_clock(now + round(seconds * 1_000_000), 0)
