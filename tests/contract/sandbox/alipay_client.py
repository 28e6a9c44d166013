"""A customer of the Alipay sandbox that shares no code with it: it signs and verifies by itself."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import urllib.parse
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

APP_ID = "2021000123456789"
SELLER = "2088000000000001"
ADA = "2088000000000101"
BOB = "2088000000000102"
CARD = "6222020000000000001"
SCHEME = "ALIPAY-SHA256withRSA"

_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
"""Made once for all tests: making one takes a tenth of a second."""


def sn(pem: str) -> str:
    """What the published tools compute of a certificate."""
    read = x509.load_pem_x509_certificate(pem.encode())
    parts = {
        name: read.issuer.get_attributes_for_oid(oid)[0].value
        for name, oid in (
            ("CN", NameOID.COMMON_NAME),
            ("OU", NameOID.ORGANIZATIONAL_UNIT_NAME),
            ("O", NameOID.ORGANIZATION_NAME),
            ("C", NameOID.COUNTRY_NAME),
        )
    }
    name = "CN={CN},OU={OU},O={O},C={C}".format(**parts)
    return hashlib.md5(f"{name}{read.serial_number}".encode()).hexdigest()  # noqa: S324 - theirs


def root_sn(bundle: str) -> str:
    found = [
        sn(read.public_bytes(Encoding.PEM).decode())
        for read in x509.load_pem_x509_certificates(bundle.encode())
        if isinstance(read.public_key(), rsa.RSAPublicKey)
    ]
    return "_".join(found)


def rsa_sign(message: bytes) -> str:
    return base64.b64encode(_KEY.sign(message, padding.PKCS1v15(), hashes.SHA256())).decode()


def certificate_request() -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "customer")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(_KEY, hashes.SHA256())
    return made.public_bytes(Encoding.PEM).decode()


def verified(pem: str, message: bytes, signature: str) -> bool:
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    try:
        key.verify(base64.b64decode(signature), message, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def sorted_params(params: dict[str, str], *without: str) -> str:
    return "&".join(f"{k}={params[k]}" for k in sorted(params) if params[k] and k not in without)


def inner_text(whole: str, name: str) -> str:
    """The very characters of one member of a JSON object."""
    start = whole.index(f'"{name}":') + len(name) + 3
    _, end = json.JSONDecoder().raw_decode(whole, start)
    return whole[start:end]


@dataclass
class Answer:
    """An answer of the new interface."""

    status: int
    body: Any
    raw: bytes
    headers: httpx.Headers


@dataclass
class Customer:
    """One app of one customer."""

    http: httpx.AsyncClient
    url: str
    app_certificate: str
    roots: str
    alipay: dict[str, str]
    app_id: str = APP_ID
    extra: dict[str, str] = field(default_factory=dict)

    def proven(self, answer: httpx.Response) -> bool:
        heads = answer.headers
        message = f"{heads['alipay-timestamp']}\n{heads['alipay-nonce']}\n".encode()
        pem = self.alipay[heads["alipay-sn"]]
        return verified(pem, message + answer.content + b"\n", heads["alipay-signature"])

    def headers(
        self, method: str, uri: str, body: bytes, *, nonce: str = "", at: float | None = None
    ) -> dict[str, str]:
        stamp = int((time.time() if at is None else at) * 1000)
        auth = (
            f"app_id={self.app_id},app_cert_sn={sn(self.app_certificate)},"
            f"nonce={nonce or uuid.uuid4()},timestamp={stamp}"
        )
        signature = rsa_sign(f"{auth}\n{method}\n{uri}\n".encode() + body + b"\n")
        return {
            "Authorization": f"{SCHEME} {auth},sign={signature}",
            "alipay-root-cert-sn": root_sn(self.roots),
            "Content-Type": "application/json",
        }

    async def raw(self, method: str, path: str, **content: Any) -> httpx.Response:
        uri, body = f"/v3/alipay{path}", b""
        if method == "GET":
            uri += f"?{urllib.parse.urlencode(content)}" if content else ""
        else:
            body = json.dumps(content, ensure_ascii=False).encode()
        headers = self.headers(method, uri, body)
        return await self.http.request(method, self.url + uri, content=body, headers=headers)

    async def call(self, method: str, path: str, **content: Any) -> Answer:
        answer = await self.raw(method, path, **content)
        assert self.proven(answer), answer.text
        return Answer(answer.status_code, answer.json(), answer.content, answer.headers)

    async def transfer(self, number: str, amount: str = "12.34", **more: Any) -> Answer:
        return await self.call("POST", "/fund/trans/uni/transfer", **order(number, amount, **more))

    async def query(self, number: str, **more: str) -> Answer:
        wanted = {
            "out_biz_no": number,
            "product_code": "TRANS_ACCOUNT_NO_PWD",
            "biz_scene": "DIRECT_TRANSFER",
            **more,
        }
        return await self.call("GET", "/fund/trans/common/query", **wanted)

    async def balance(self) -> str:
        wanted = {"alipay_user_id": SELLER, "account_type": "ACCTRANS_ACCOUNT"}
        return (await self.call("GET", "/fund/account/query", **wanted)).body["available_amount"]

    def gateway_params(
        self, method: str, content: dict[str, Any] | None, charset: str = "utf-8", **more: str
    ) -> dict[str, str]:
        beijing = datetime.now(UTC) + timedelta(hours=8)
        params = {
            "app_id": self.app_id,
            "method": method,
            "format": "JSON",
            "charset": charset,
            "sign_type": "RSA2",
            "timestamp": beijing.strftime("%Y-%m-%d %H:%M:%S"),
            "version": "1.0",
            "app_cert_sn": sn(self.app_certificate),
            "alipay_root_cert_sn": root_sn(self.roots),
            **more,
        }
        if content is not None:
            params["biz_content"] = json.dumps(content, ensure_ascii=False)
        return {**params, "sign": rsa_sign(sorted_params(params, "sign").encode(charset))}

    async def gateway(
        self, method: str, content: dict[str, Any] | None, charset: str = "utf-8", **more: str
    ) -> dict[str, Any]:
        """Call the old interface; the inner object, after its characters were verified."""
        params = self.gateway_params(method, content, charset, **more)
        return self.opened(await self.post(params, charset), method, charset)

    async def post(self, params: dict[str, str], charset: str = "utf-8") -> httpx.Response:
        body = urllib.parse.urlencode(params, encoding=charset)
        headers = {"Content-Type": f"application/x-www-form-urlencoded;charset={charset}"}
        return await self.http.post(f"{self.url}/gateway.do", content=body, headers=headers)

    def opened(self, answer: httpx.Response, method: str, charset: str = "utf-8") -> dict[str, Any]:
        assert answer.status_code == 200
        whole = answer.content.decode(charset)
        name = f"{method.replace('.', '_')}_response"
        envelope = json.loads(whole)
        text = inner_text(whole, name)
        pem = self.alipay[envelope["alipay_cert_sn"]]
        assert verified(pem, text.encode(charset), envelope["sign"]), whole
        return envelope[name]


def order(number: str, amount: str = "12.34", **more: Any) -> dict[str, Any]:
    """A good transfer order."""
    return {
        "out_biz_no": number,
        "trans_amount": amount,
        "product_code": "TRANS_ACCOUNT_NO_PWD",
        "biz_scene": "DIRECT_TRANSFER",
        "order_title": "工资 {一月}",
        "payee_info": {"identity": ADA, "identity_type": "ALIPAY_USER_ID", "name": "艾达"},
        **more,
    }


def card_order(number: str, amount: str = "12.34", **more: Any) -> dict[str, Any]:
    card = {"identity": CARD, "identity_type": "BANKCARD_ACCOUNT", "name": "艾达"}
    return order(
        number, amount, **{"product_code": "TRANS_BANKCARD_NO_PWD", "payee_info": card, **more}
    )


async def open_customer(
    http: httpx.AsyncClient, control: str, url: str, **options: Any
) -> Customer:
    """Open the app with 10,000.00, and two people."""
    body = {
        "app_id": APP_ID, "seller_id": SELLER, "request": certificate_request(),
        "opening_minor": 1_000_000, **options,
    }  # fmt: skip
    answer = await http.post(f"{control}/_control/alipay/apps", json=body)
    assert answer.is_success, answer.text
    made = answer.json()
    for user_id, logon_id, name in (
        (ADA, "ada@example.com", "艾达"),
        (BOB, "13800000002", "鲍勃"),
    ):
        user = {"user_id": user_id, "logon_id": logon_id, "name": name, "app_id": APP_ID}
        added = await http.post(f"{control}/_control/alipay/users", json=user)
        assert added.is_success, added.text
    certificate = made["alipay_certificate"]
    return Customer(
        http, url, made["app_certificate"], made["alipay_root_certificate"],
        {sn(certificate): certificate},
    )  # fmt: skip
