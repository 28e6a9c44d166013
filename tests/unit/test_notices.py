"""What a provider says is kept whole: it comes out of the seal as it went in."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from tests.payouts import new_sealer

from paymaster.db.inbox import Due, Incoming
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import reference
from paymaster.kernel.money import Money
from paymaster.rails.base import Notice, Outcome, Verdict
from paymaster.secrets.sealing import Sealer, place
from paymaster.settle.envelope import Evidence, message_id
from paymaster.settle.notice import Opened, pack, unpack

SOURCE = "webhook:wallet"
KEY, ORDER = reference(1, 7), reference(1, 8)
AT = datetime(2026, 11, 20, 9, 0, 0, 123000, tzinfo=UTC)
FULL = Notice(
    "ev_1",
    Outcome(KEY, Verdict.REJECTED, "po_1", "AC04", "Account closed", Money(3050, "EUR"), AT),
    ORDER,
    frozenset({KEY}),
)
BARE = Notice("ev_2", Outcome("invoice-1", Verdict.PAID))
NOTHING = Notice("ev_3", Outcome(KEY, Verdict.PAID, amount=Money.zero("EUR")))


@pytest.fixture
def sealer() -> Sealer:
    return new_sealer()


def due(message: Incoming) -> Due:
    payload = None if message.payload is None else dict(message.payload)
    return Due(
        message.source, message.message_id, message.topic, payload, message.sealed,
        message.trace_id, 0, 1,
    )  # fmt: skip


@pytest.mark.parametrize("notice", [FULL, BARE, NOTHING], ids=["full", "bare", "nothing"])
def test_a_notice_comes_back_as_it_was(sealer: Sealer, notice: Notice) -> None:
    evidence = Evidence({"x-signature": "s"}, b"\x00body")
    message = pack(sealer, SOURCE, 5, notice, evidence, "trace")
    assert unpack(sealer, due(message)) == Opened(5, notice)
    assert (message.source, message.message_id, message.topic, message.trace_id) == (
        SOURCE, notice.event_id, "notice", "trace",
    )  # fmt: skip


def test_in_the_clear_there_are_only_references_of_ours(sealer: Sealer) -> None:
    assert pack(sealer, SOURCE, 5, FULL, None, "t").payload == {
        "rail_account": 5, "key": KEY, "verdict": "rejected", "code": "AC04", "batch_key": ORDER,
    }  # fmt: skip
    foreign = pack(sealer, SOURCE, 5, BARE, None, "t").payload
    assert foreign is not None
    assert foreign["key"] is None


def test_the_evidence_is_under_the_seal(sealer: Sealer) -> None:
    for evidence, headers, body in (
        (Evidence({"x-signature": "s"}, b"said"), {"x-signature": "s"}, "c2FpZA=="),
        (None, {}, ""),
    ):
        message = pack(sealer, SOURCE, 5, FULL, evidence, "t")
        assert message.sealed is not None
        plain = sealer.open_bytes(message.sealed, place("inbox", SOURCE, "ev_1"))
        kept = msgspec.json.decode(plain)
        assert (kept["headers"], kept["body"]) == (headers, body)


def test_a_long_id_of_an_event_is_made_short_and_stays_one(sealer: Sealer) -> None:
    assert message_id("e" * 200) == "e" * 200
    long, other = message_id("e" * 201), message_id("e" * 202)
    assert (len(long), len(other)) == (71, 71)
    assert long.startswith("sha256:")
    assert long != other
    message = pack(sealer, SOURCE, 5, Notice("e" * 201, FULL.outcome), None, "t")
    assert message.message_id == long
    assert unpack(sealer, due(message)).notice.event_id == "e" * 201


def test_what_has_no_seal_or_no_sense_is_told(sealer: Sealer) -> None:
    message = pack(sealer, SOURCE, 5, FULL, None, "t")
    nothing = Due(SOURCE, "ev_1", "notice", None, None, "t", 0, 1)
    sealed = sealer.seal_bytes(b"{}", place("inbox", SOURCE, "ev_1"))
    senseless = Due(SOURCE, "ev_1", "notice", None, sealed, "t", 0, 1)
    for one in (nothing, senseless):
        with pytest.raises(Broken) as caught:
            unpack(sealer, one)
        assert caught.value.slug == "notice-malformed"
    moved = Due(SOURCE, "ev_9", "notice", None, message.sealed, "t", 0, 1)
    with pytest.raises(Broken) as caught:
        unpack(sealer, moved)
    assert caught.value.slug == "sealed-damaged", "a seal holds at its own place only"
