"""What the tests of the sandbox share: its clients, a webhook receiver, payment files."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import httpx
import pytest
from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
from tests.calling import NOBODY

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("PAYMASTER_DATA", ROOT.parent / "shared" / "data"))
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def iban(number: int, country: str = "DE") -> str:
    """A German-looking IBAN with right check digits."""
    body = f"{number:018}"
    value = int("".join(str(ALPHABET.index(char)) for char in f"{body}{country}00"))
    return f"{country}{98 - value % 97:02}{body}"


def wallet(number: int) -> str:
    """A wallet number with the right check character."""
    nine = "".join(ALPHABET[(number // 36**place) % 36] for place in range(9))
    total = sum((place + 1) * ALPHABET.index(char) for place, char in enumerate(nine))
    return f"SW-{nine}{ALPHABET[total % 36]}"


OURS = iban(1)
PSP = iban(2)


@dataclass(frozen=True)
class Pay:
    """One transfer of a test's payment file."""

    reference: str
    creditor: str
    amount: str
    currency: str = "EUR"
    name: str = "Payee"
    note: str = "Reward"


def pain001(
    message_id: str,
    pays: list[Pay],
    *,
    debtor: str = OURS,
    version: str = "09",
    count: int | None = None,
    total: str | None = None,
) -> bytes:
    """A payment file as a client's software writes it."""
    cents = sum(int(pay.amount.replace(".", "")) for pay in pays)
    total = total or f"{cents // 100}.{cents % 100:02}"
    number = len(pays) if count is None else count
    when = "<ReqdExctnDt><Dt>2026-01-05</Dt></ReqdExctnDt>" if version == "09" else (
        "<ReqdExctnDt>2026-01-05</ReqdExctnDt>"
    )  # fmt: skip
    bic = "BICFI" if version == "09" else "BIC"
    transfers = "".join(
        f"<CdtTrfTxInf><PmtId><InstrId>{pay.reference}</InstrId>"
        f"<EndToEndId>{pay.reference}</EndToEndId></PmtId>"
        f'<Amt><InstdAmt Ccy="{pay.currency}">{pay.amount}</InstdAmt></Amt>'
        f"<Cdtr><Nm>{pay.name}</Nm></Cdtr><CdtrAcct><Id><IBAN>{pay.creditor}</IBAN></Id></CdtrAcct>"
        f"<RmtInf><Ustrd>{pay.note}</Ustrd></RmtInf></CdtTrfTxInf>"
        for pay in pays
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.001.001.{version}">'
        f"<CstmrCdtTrfInitn><GrpHdr><MsgId>{message_id}</MsgId>"
        f"<CreDtTm>2026-01-05T08:00:00Z</CreDtTm><NbOfTxs>{number}</NbOfTxs>"
        f"<CtrlSum>{total}</CtrlSum><InitgPty><Nm>Client</Nm></InitgPty></GrpHdr>"
        f"<PmtInf><PmtInfId>{message_id}-1</PmtInfId><PmtMtd>TRF</PmtMtd>"
        f"<NbOfTxs>{number}</NbOfTxs><CtrlSum>{total}</CtrlSum>{when}"
        f"<Dbtr><Nm>Client</Nm></Dbtr><DbtrAcct><Id><IBAN>{debtor}</IBAN></Id></DbtrAcct>"
        f"<DbtrAgt><FinInstnId><{bic}>SANDDEFFXXX</{bic}></FinInstnId></DbtrAgt>"
        f"{transfers}</PmtInf></CstmrCdtTrfInitn></Document>"
    ).encode()


def schema(name: str) -> etree.XMLSchema:
    """A published ISO 20022 schema."""
    path = DATA / "iso20022" / "xsd" / f"{name}.xsd"
    if not path.exists():
        pytest.skip(f"{path} is not here (set PAYMASTER_DATA)")
    return etree.XMLSchema(etree.parse(path))


@dataclass
class Heard:
    """One webhook as it arrived."""

    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def event(self) -> dict[str, Any]:
        return json.loads(self.body)

    def genuine(self, secret: str) -> bool:
        signed = f"{self.headers['sandpay-id']}.{self.headers['sandpay-timestamp']}.".encode()
        right = hmac.new(secret.encode(), signed + self.body, hashlib.sha256).hexdigest()
        return self.headers["sandpay-signature"] == f"v1={right}"


@dataclass
class Receiver:
    """A webhook receiver on loopback that can be told how to answer, and can go down."""

    status: int = 204
    words: bytes = b""
    heard: list[Heard] = field(default_factory=list)
    port: int = 0
    server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    async def up(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        assert self.server is not None
        self.server.close()
        await self.server.wait_closed()
        self.server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = [line.split(": ", 1) for line in head.split("\r\n")[1:] if line]
        headers = {name.lower(): value for name, value in lines}
        body = await reader.readexactly(int(headers["content-length"]))
        self.heard.append(Heard(headers, body, time.monotonic()))
        writer.write(
            f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(self.words)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + self.words
        )
        await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def eventually(condition: Callable[[], Any], seconds: float = 8.0) -> Any:
    """Wait until the condition gives something true; fails with a message after a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        await asyncio.sleep(0.01)
    pytest.fail(f"did not happen within {seconds} s")


class Sftp:
    """The customer's side of the bank's SFTP server."""

    def __init__(self, client: asyncssh.SFTPClient) -> None:
        self.client = client

    async def put(self, name: str, body: bytes) -> None:
        async with self.client.open(f"/in/.{name}.part", "wb") as file:
            await file.write(body)
        await self.client.rename(f"/in/.{name}.part", f"/in/{name}.xml")

    async def get(self, name: str) -> bytes:
        async with self.client.open(f"/out/{name}", "rb") as file:
            return await file.read()

    async def names(self, prefix: str) -> list[str]:
        return sorted(
            str(name) for name in await self.client.listdir("/out") if str(name).startswith(prefix)
        )

    async def answer(self, stem: str) -> etree._Element:
        """The pain.002 that answers the newest file of that name."""
        found = await eventually(lambda: self.names(f"pain002_{stem}_"))
        return etree.fromstring(await self.get(found[-1]))


@contextlib.asynccontextmanager
async def sftp_session(address: str, host_key: str, key_file: Path) -> AsyncGenerator[Sftp]:
    host, _, port = address.partition(":")
    known = asyncssh.import_known_hosts(f"[{host}]:{port} {host_key}\n")
    async with (
        asyncssh.connect(
            host, int(port), username="paymaster", client_keys=[str(key_file)], known_hosts=known,
            config=None, agent_path=None,
        ) as connection,
        connection.start_sftp_client() as client,
    ):  # fmt: skip
        yield Sftp(client)


def texts(node: etree._Element, name: str) -> list[str]:
    """The texts of every element of that local name."""
    return [str(found.text) for found in node.iter(f"{{*}}{name}")]


class Client:
    """The customer's side of both HTTP faces."""

    def __init__(self, http: httpx.AsyncClient, api_key: str) -> None:
        self.http = http
        self.auth = {"Authorization": f"Bearer {api_key}"}

    async def control(self, path: str, **body: Any) -> dict[str, Any]:
        answer = await self.http.post(f"/_control/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    async def books(self) -> dict[str, Any]:
        return (await self.http.get("/_control/books")).json()

    async def pay(
        self, key: str, reference: str, to: str, amount: str = "1.23", currency: str = "EUR"
    ) -> httpx.Response:
        body = {"reference": reference, "wallet": to, "amount": amount, "currency": currency}
        return await self.http.post(
            "/v1/payouts", json=body, headers={**self.auth, "Idempotency-Key": key}
        )

    async def get(self, path: str, **params: str) -> httpx.Response:
        return await self.http.get(path, params=params, headers=self.auth)

    async def settled(self) -> dict[str, Any]:
        """The books once no payout is pending."""

        async def done() -> dict[str, Any] | None:
            books = await self.books()
            return None if books["pending"] else books

        return await eventually(done)


async def set_up(client: Client, webhook_url: str) -> None:
    await client.control(
        "accounts", iban=OURS, currency="EUR", opening_balance="10000.00", holder="Client"
    )
    await client.control(
        "wallet-merchant", currency="EUR", iban=PSP, opening_balance="1000.00",
        webhook_url=webhook_url,
    )  # fmt: skip


@dataclass
class Process:
    """The sandbox as a process of its own."""

    process: subprocess.Popen[bytes]
    ready: dict[str, str]

    def client(self) -> Client:
        http = httpx.AsyncClient(base_url=self.ready["http"], trust_env=False, verify=NOBODY)
        return Client(http, Path(self.ready["api_key_file"]).read_text())

    def kill(self) -> None:
        """SIGKILL: nothing can be put in order any more."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


async def start(data: Path, *more: str) -> Process:
    """Start `python -m paymaster_sandbox serve` and wait until it is ready."""
    return await asyncio.to_thread(_start, data, *more)


def _start(data: Path, *more: str) -> Process:
    command = [sys.executable, "-m", "paymaster_sandbox", "serve", "--data", str(data), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        process.stdout.close()
        pytest.fail("the sandbox did not start")
    return Process(process, json.loads(line))
