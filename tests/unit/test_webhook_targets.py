"""Which addresses a webhook may go to: judged by name and again at each connection."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.contract.http_server import Answering, Reply
from tests.tls import certificate

from paymaster.kernel.errors import Refusal, Unprocessable
from paymaster.messages.connect import JudgedTransport, tls_context
from paymaster.messages.post import post
from paymaster.messages.targets import Targets, networks, parse
from paymaster.rails.http import new_client

REFUSED = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",  # noqa: S104 - an address to be refused
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "192.0.0.1",
    "192.0.0.192",  # what some clouds tell their machines
    "168.63.129.16",
    "192.88.99.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:c0a8:101::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "3fff::1",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "not-an-address",
]
PERMITTED = ["93.184.215.14", "1.1.1.1", "2606:4700::1111", "64:ff9b::5db8:d70e", "::ffff:1.1.1.1"]


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_of_the_open_internet_is_refused(address: str) -> None:
    assert not Targets().permits(address)


@pytest.mark.parametrize("address", PERMITTED)
def test_the_open_internet_is_permitted(address: str) -> None:
    assert Targets().permits(address)


def test_networks_can_be_allowed_also_in_disguise() -> None:
    targets = Targets(networks(["10.1.0.0/16"]))
    assert targets.permits("10.1.2.3")
    assert targets.permits("::ffff:10.1.2.3")
    assert not targets.permits("10.2.0.1")
    assert not targets.permits("::ffff:10.2.0.1")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://app.example/x",
        "https://",
        "https:///x",
        "//app.example/x",
        "https://user:secret@app.example/",
        "https://app.example/#part",
        "https://app.example:22/",
        "https://app.example:0/",
        "https://app.example:99999/",
        "https://app.example/a b",
        "https://app.example/\r\nHost: other",
        "https://äpp.example/",
        "https://app.example/" + "a" * 2048,
        "javascript:alert(1)",
        "https://[::1",
        "https://xn--a/",
        "https://xn--/x",
    ],
)
def test_urls_of_another_form_are_refused(url: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        parse(url, live=False)
    assert refused.value.slug == "webhook-url-invalid"
    assert refused.value.problems[0].pointer == "/url"


def test_live_wants_https() -> None:
    assert parse("http://app.example/x", live=False).port == 80
    assert parse("https://app.example:8443/x", live=True).port == 8443
    with pytest.raises(Unprocessable):
        parse("http://app.example/x", live=True)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
    ],
)
async def test_this_machine_in_every_spelling(host: str) -> None:
    """The system's resolver reads more spellings than people do."""
    with pytest.raises(Unprocessable) as refused:
        await Targets().check(f"http://{host}:8080/", live=False)
    assert refused.value.slug in ("webhook-target-refused", "webhook-url-invalid")


class Names:
    """A resolver that answers differently each time."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_one_bad_address_among_good_ones_is_enough() -> None:
    targets = Targets(resolve=Names(["1.1.1.1", "10.0.0.1"]))
    with pytest.raises(Unprocessable) as refused:
        await targets.check("https://app.example/", live=True)
    assert refused.value.slug == "webhook-target-refused"


async def test_a_name_that_leads_nowhere() -> None:
    with pytest.raises(Unprocessable) as refused:
        await Targets(resolve=Names([])).check("https://app.example/", live=True)
    assert refused.value.slug == "webhook-target-unknown"


async def test_a_name_that_changes_between_check_and_connection() -> None:
    """DNS rebinding: the second answer is judged too, and nothing is sent."""
    answering = Answering(lambda _: Reply(200))
    async with answering.running():
        port = answering.url.rpartition(":")[2]
        targets = Targets(resolve=Names(["1.1.1.1"], ["127.0.0.1"]))
        await targets.check(f"http://app.example:{port}/", live=False)
        async with new_client(JudgedTransport(targets)) as client:
            answer = await post(client, f"http://app.example:{port}/", {}, b"{}", 5)
    assert answer.outcome == "refused"
    assert answering.asked == []


async def test_the_name_stays_in_the_request_and_the_address_is_the_judged_one() -> None:
    answering = Answering(lambda _: Reply(204))
    async with answering.running():
        port = answering.url.rpartition(":")[2]
        names = Names(["127.0.0.1"])
        targets = Targets(networks(["127.0.0.0/8"]), names)
        async with new_client(JudgedTransport(targets)) as client:
            answer = await post(client, f"http://app.example:{port}/x?y=z", {}, b"{}", 5)
    assert answer.delivered
    assert names.asked == ["app.example"]
    assert answering.asked[0].headers["host"] == f"app.example:{port}"
    assert answering.asked[0].path == "/x?y=z"


@pytest.mark.parametrize(("host", "outcome"), [("app.example", "delivered"),
                                               ("other.example", "unreachable")])  # fmt: skip
async def test_tls_is_asked_of_the_name_not_of_the_address(
    tmp_path: Path, host: str, outcome: str
) -> None:
    public, private = certificate(tmp_path, "app.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    seen: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    answering = Answering(lambda _: Reply(200))
    async with answering.running(context):
        port = answering.url.rpartition(":")[2]
        targets = Targets(networks(["127.0.0.0/8"]), Names(["127.0.0.1"]))
        async with new_client(JudgedTransport(targets, tls_context(public))) as client:
            answer = await post(client, f"https://{host}:{port}/", {}, b"{}", 5)
    assert answer.outcome == outcome
    assert seen == [host]


async def test_an_unknown_authority_is_not_trusted(tmp_path: Path) -> None:
    public, private = certificate(tmp_path, "app.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    answering = Answering(lambda _: Reply(200))
    async with answering.running(context):
        port = answering.url.rpartition(":")[2]
        targets = Targets(networks(["127.0.0.0/8"]), Names(["127.0.0.1"]))
        async with new_client(JudgedTransport(targets)) as client:
            answer = await post(client, f"https://app.example:{port}/", {}, b"{}", 5)
    assert answer.outcome == "unreachable"
    assert answering.asked == []


def test_authorities_that_are_none(tmp_path: Path) -> None:
    for name, content in (("missing.pem", None), ("empty.pem", "no certificate")):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(Refusal) as refused:
            tls_context(tmp_path / name)
        assert refused.value.slug == "certificate-unusable"


async def test_answers_that_never_end_and_that_are_endless() -> None:
    long = Answering(lambda _: Reply(200, b"x" * 10_000_000))
    cut = Answering(lambda _: Reply(200, b"x" * 100, cut_after=10))
    slow = Answering(lambda _: Reply(200, wait_seconds=5))
    targets = Targets(networks(["127.0.0.0/8"]))
    async with (
        long.running(),
        cut.running(),
        slow.running(),
        new_client(JudgedTransport(targets)) as client,
    ):
        assert (await post(client, long.url, {}, b"{}", 5)).outcome == "delivered"
        assert (await post(client, cut.url, {}, b"{}", 5)).outcome == "broken-off"
        assert (await post(client, slow.url, {}, b"{}", 0.2)).outcome == "timed-out"
        refused = await post(client, "http://127.0.0.1:1/", {}, b"{}", 5)
        assert refused.outcome == "unreachable"


def test_the_lists_are_lists_of_addresses() -> None:
    for text in PERMITTED:
        ipaddress.ip_address(text)
