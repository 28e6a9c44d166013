"""Every sample of real banks is read, or refused with a reason; nothing else may happen."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest
from tests.contract.support import data_files, deps, need_data

from paymaster.kernel.errors import Refusal
from paymaster.rails.base import RailAccount, Verdict
from paymaster.rails.iso20022.rail import Iso20022Rail

SAMPLES = data_files("iso20022/samples")
REFUSED = {
    "camt.053_P_CH2909000000250094239_1110092698_0_2020112503071366.xml": "statement-malformed",
    "camt053_001_02.xml": "statement-foreign",
    "invalid_pain_v11.json": "statement-malformed",
    "musterfile_pain.001_Nov2020.xml": "statement-malformed",
    "pain002-chdd-cor1_p_ch2909000000250094239_1110097483_0_2018031317221082.xml": (
        "statement-foreign"
    ),
    "pain008-musterfile.xml": "statement-malformed",
    "statement_1.xml": "statement-malformed",
    "valid_camt_v09.json": "statement-malformed",
    "valid_camt_v09.xml": "statement-malformed",
    "valid_pain_v11.json": "statement-malformed",
}
"""Which samples cannot be relied on: sums that do not add up, other messages, JSON."""


def account_in(body: bytes) -> RailAccount:
    """The account that a sample is about, as ours."""
    iban = re.search(rb"<Acct>.*?<(?:IBAN|Id)>([A-Z0-9]+)<", body, re.DOTALL)
    currency = re.search(rb'Ccy="([A-Z]{3})"', body)
    return RailAccount(
        id=1,
        name="sample",
        rail="iso20022",
        currency=currency.group(1).decode() if currency else "EUR",
        settings={"account_id": iban.group(1).decode() if iban else "none"},
    )


def sample(part: str) -> tuple[RailAccount, Path, bytes]:
    need_data("iso20022/samples")
    path = next(each for each in SAMPLES if part in each.name)
    body = path.read_bytes()
    return account_in(body), path, body


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name[:60])
def test_every_sample_is_read_or_refused(path: Path) -> None:
    body = path.read_bytes()
    rail = Iso20022Rail(deps())
    if path.name in REFUSED:
        with pytest.raises(Refusal) as caught:
            rail.read_file(account_in(body), path.name, body)
        assert caught.value.slug == REFUSED[path.name]
        return
    notices, statements = rail.read_file(account_in(body), path.name, body)
    assert len({notice.event_id for notice in notices}) == len(notices)
    for statement in statements:
        assert len({line.line_id for line in statement.lines}) == len(statement.lines)
        moved = sum(line.amount.minor - line.fee.minor for line in statement.lines)
        assert statement.opening.minor + moved == statement.closing.minor
    again = rail.read_file(account_in(body), path.name, body)
    assert again == (notices, statements)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name[:60])
def test_a_truncated_sample_is_refused(path: Path) -> None:
    body = path.read_bytes()
    rail = Iso20022Rail(deps())
    for share in (1, 50, 90, 99):
        with pytest.raises(Refusal) as caught:
            rail.read_file(account_in(body), path.name, body[: len(body) * share // 100])
        assert caught.value.slug in {"statement-malformed", "statement-foreign"}


def damaged(body: bytes, random: Random) -> bytes:
    """A file with a piece changed, cut out, doubled, or with another text in an element."""
    found = bytearray(body)
    place = random.randrange(len(found))
    end = min(len(found), place + random.randrange(1, 200))
    texts = list(re.finditer(rb">([^<>\s][^<>]*)<", body))
    match random.randrange(4):
        case 0:
            found[place] = random.randrange(256)
        case 1:
            del found[place:end]
        case 2:
            found[place:place] = found[place:end]
        case _ if texts:
            odd = [b"", b"-1", b"BOOK", b"RJCT", b"9" * 50, b"2020-02-30", b"1e5", b"\xd9\xa3"]
            text = random.choice(texts)
            found[text.start(1) : text.end(1)] = random.choice(odd)
    return bytes(found)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name[:60])
def test_a_damaged_sample_is_read_or_refused_and_nothing_else(path: Path) -> None:
    random, rail = Random(path.name), Iso20022Rail(deps())
    body = path.read_bytes()
    outcomes: set[str] = set()
    for _ in range(40):
        try:
            rail.read_file(account_in(body), path.name, damaged(body, random))
            outcomes.add("read")
        except Refusal as refusal:
            outcomes.add(refusal.slug)
    assert outcomes <= {"read", "statement-malformed", "statement-foreign"}
    assert outcomes - {"read"}


def test_the_finnish_statement_in_detail() -> None:
    account, path, body = sample("FI_camt_053")
    notices, (statement,) = Iso20022Rail(deps()).read_file(account, path.name, body)
    assert statement.day.isoformat() == "2009-10-29"
    assert (statement.opening.text(), statement.closing.text()) == ("10000.00", "23644.83")
    assert len(statement.lines) == 13  # ten entries, one of them a batch of four
    assert {notice.outcome.key for notice in notices} >= {"TITOT1106ID01", "TITOT1106ID02"}
    assert {notice.outcome.verdict for notice in notices} == {Verdict.PAID}


@pytest.mark.parametrize("part", ["200519_camt054-returns", "camt054-returns_p_ch51090"])
def test_returns_carry_reference_reason_and_amount(part: str) -> None:
    account, path, body = sample(part)
    (notice,), statements = Iso20022Rail(deps()).read_file(account, path.name, body)
    assert statements == []
    assert notice.outcome.verdict is Verdict.RETURNED
    assert notice.outcome.code == "AC01"
    assert notice.outcome.key.startswith("EndToEndId-00")
    assert notice.outcome.amount is not None
    assert notice.outcome.amount.text() in {"400.00", "500.00"}


def test_a_batch_booked_debit_is_taken_apart() -> None:
    account, path, body = sample("camt054-epo_p_ch5109000000250092291_1110097605_0_2019052003")
    notices, _ = Iso20022Rail(deps()).read_file(account, path.name, body)
    found = {(each.outcome.key, str(each.outcome.amount)) for each in notices}
    assert found == {
        ("EndToEndId-001-02-01", "200.00 CHF"),
        ("EndToEndId-001-02-02", "250.00 CHF"),
        ("EndToEndId-001-02-03", "300.00 CHF"),
    }


def test_a_refused_file_names_its_order() -> None:
    account, path, body = sample("pain002-epo_p_0_0_0_20180326")
    (notice,), _ = Iso20022Rail(deps()).read_file(account, path.name, body)
    assert notice.batch_key == notice.outcome.key == "MsgId-005"
    assert (notice.outcome.verdict, notice.outcome.code) == (Verdict.REJECTED, "AM10")
    assert "ControlSum" in (notice.outcome.detail or "")


def test_a_partly_refused_file_names_the_payment() -> None:
    account, path, body = sample("pain002-epo_p_ch51090")
    (whole, single), _ = Iso20022Rail(deps()).read_file(account, path.name, body)
    assert whole.batch_key == "MsgId-001"
    assert whole.outcome.verdict is Verdict.ACCEPTED
    assert whole.but_not == {"EndToEndId-001-03-04"}
    assert (single.outcome.key, single.outcome.verdict) == (
        "EndToEndId-001-03-04",
        Verdict.REJECTED,
    )


def test_the_account_of_another_is_foreign() -> None:
    _, path, body = sample("FI_camt_053")
    account = RailAccount(1, "ours", "iso20022", "EUR", {"iban": "DE89370400440532013000"})
    with pytest.raises(Refusal) as caught:
        Iso20022Rail(deps()).read_file(account, path.name, body)
    assert caught.value.slug == "statement-foreign"
