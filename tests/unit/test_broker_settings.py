"""What a broker's settings may say, and that nothing is loaded or run without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.served import make_settings

from paymaster.cli.broker import again_since
from paymaster.kernel.errors import Refusal
from paymaster.messages.broker.letter import partition, wanted
from paymaster.messages.broker.link import tls_context
from paymaster.messages.broker.nats import pattern
from paymaster.messages.catalogue import TYPES
from paymaster.settings import Broker, Peers, explain

LOADED = """
import sys
from paymaster.roles import work
sys.exit(any(name in sys.modules for name in ("faststream", "nats", "aio_pika")))
"""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"urls": ["http://127.0.0.1"]}, "begin with nats"),
        ({"urls": ["nats://127.0.0.1", "amqp://127.0.0.1"]}, "different schemes"),
        ({"urls": ["nats://pay:hunter2@127.0.0.1"]}, "no user, password"),
        ({"urls": ["amqp://127.0.0.1?password=hunter2"]}, "no user, password"),
        ({"urls": ["nats://"]}, "no host"),
        ({"urls": ["nats://broker.internal:4222"]}, "another machine"),
        ({"urls": ["amqp://10.1.2.3"]}, "another machine"),
        ({"certificate": "a.pem"}, "both broker.certificate"),
        ({"login": "password"}, "broker.username"),
        ({"username": "pay"}, "broker.username"),
        ({"urls": ["amqps://rabbit.internal"], "login": "token"}, "no tokens"),
        ({"urls": ["tls://nats.internal"], "login": "certificate"}, "maps certificates"),
        ({"subject": "paymaster.{type}"}, "partition"),
        ({"subject": "paymaster.{partition}.{user}"}, "no other parts"),
        ({"subject": "paymaster.{partition!r}"}, "written as"),
        ({"subject": "pay master.{partition}"}, "separated by dots"),
        ({"subject": "paymaster.>.{partition}"}, "separated by dots"),
        ({"types": []}, "at least 1"),
    ],
)
def test_what_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        Broker.model_validate(given)
    assert "hunter2" not in str(refused.value)


def test_what_is_taken() -> None:
    assert Broker().kind is None
    mesh = Broker(urls=("amqp://rabbit:5672/pay",), network="plain")
    assert (mesh.kind, mesh.encrypted) == ("rabbitmq", False)
    cluster = Broker.model_validate({"urls": "tls://one:4222, tls://two:4222"})
    assert (cluster.kind, cluster.encrypted, len(cluster.urls)) == ("nats", True, 2)
    assert pattern(Broker()) == "paymaster.*.*.*.*.*"


def test_every_type_is_two_words_of_a_subject() -> None:
    assert all(name.count(".") == 1 for name in TYPES)
    assert len(wanted(Broker())) == len(TYPES) - 1


def test_a_partition_is_as_the_docs_say() -> None:
    """CRC-32 of ISO 3309, whose check value is that of the nine digits."""
    assert partition("123456789", 2**32) == 0xCBF43926
    assert partition("123456789", 16) == 0xCBF43926 % 16


def test_a_certificate_needs_an_authority(tmp_path: Path) -> None:
    given = Broker(
        urls=("tls://nats.internal",), certificate=tmp_path / "a.pem", key=tmp_path / "b.pem"
    )
    with pytest.raises(Refusal, match="certificate-unusable"):
        tls_context(given, Peers())
    assert tls_context(Broker(urls=("nats://127.0.0.1",)), Peers()) is None
    plain = tls_context(Broker(urls=("tls://nats.internal",)), Peers())
    assert plain is not None
    assert plain.check_hostname
    assert plain.minimum_version.name == "TLSv1_3"


@pytest.mark.parametrize("moment", ["yesterday", "2026-11-20T00:00:00"])
def test_what_is_no_moment_is_refused_in_one_line(moment: str) -> None:
    with pytest.raises(Refusal, match="time-malformed"):
        again_since(moment, None)


def test_without_a_broker_nothing_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], check=False, timeout=60)
    assert done.returncode == 0


def test_the_settings_are_shown(tmp_path: Path) -> None:
    shown = {name: value for name, value, _ in explain(make_settings(tmp_path))}
    assert shown["broker.stream"] == "PAYMASTER"
    assert shown["broker.urls"] == ""
