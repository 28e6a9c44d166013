"""pain.001: valid under the official schemas, deterministic, complete."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
from tests.contract.support import (
    NOON,
    OUR_IBAN,
    bank_account,
    deps,
    iban_of,
    instruction,
    need_data,
    payee_iban,
)

from paymaster.kernel.errors import Broken, RailRefused
from paymaster.kernel.money import EXPONENTS, Money
from paymaster.rails.base import Instruction, Payee
from paymaster.rails.iso20022.pain001 import MAX_SEPA, Debtor, write
from paymaster.rails.iso20022.rail import Iso20022Rail
from paymaster.rails.latin import ALLOWED

DAY = date(2025, 3, 13)
SEPA_LETTER = st.sampled_from("aZ0/-?:().,'+ ")
ANY_TEXT = st.text(st.one_of(st.characters(codec="utf-8"), SEPA_LETTER), max_size=60)


def debtor(version: str = "09", currency: str = "EUR", bic: str | None = None) -> Debtor:
    return Debtor("Zahlstelle & Söhne GmbH", OUR_IBAN, bic, currency, version)


@cache
def schema(version: str) -> etree.XMLSchema:
    folder = need_data("iso20022/xsd")
    return etree.XMLSchema(etree.parse(folder / f"pain.001.001.{version}.xsd"))


def named(tree: etree._Element, name: str) -> list[str]:
    return [found.text or "" for found in tree.iter(f"{{*}}{name}")]


@pytest.mark.parametrize("version", ["09", "03"])
@settings(max_examples=60, deadline=None)
@given(data=st.data(), currency=st.sampled_from(sorted(EXPONENTS)), bic=st.booleans())
def test_whatever_is_written_is_valid(
    version: str, data: st.DataObject, currency: str, bic: bool
) -> None:
    most = MAX_SEPA.minor if currency == "EUR" else 10**17
    batch = [
        Instruction(
            key=instruction(number, payee_iban(number)).key,
            amount=Money(data.draw(st.integers(1, most)), currency),
            payee=Payee(
                "iban",
                {
                    "iban": iban_of("FR", f"{data.draw(st.integers(0, 10**23 - 1)):023d}"),
                    "holder": "N" + data.draw(ANY_TEXT)[:20],
                    "bic": "BNPAFRPPXXX" if bic else "",
                },
            ),
            purpose=data.draw(ANY_TEXT),
            created_at=NOON,
        )
        for number in range(data.draw(st.integers(1, 5)))
    ]
    total = sum(item.amount.minor for item in batch)
    body = write(
        debtor(version, currency, "COBADEFFXXX" if bic else None), "01B7", batch, NOON, DAY
    )
    tree = etree.fromstring(body)
    schema(version).assertValid(tree)
    assert named(tree, "EndToEndId") == named(tree, "InstrId") == [item.key for item in batch]
    assert named(tree, "InstdAmt") == [item.amount.text() for item in batch]
    assert named(tree, "NbOfTxs") == [str(len(batch))] * 2
    assert named(tree, "CtrlSum") == [Money(total, currency).text()] * 2
    for written in [*named(tree, "Nm"), *named(tree, "Ustrd")]:
        assert set(written) <= ALLOWED
        assert "//" not in written
        assert not written.startswith("/")
        assert not written.endswith("/")
    is_sepa = currency == "EUR"
    assert ("SEPA" in named(tree, "Cd")) is is_sepa
    assert named(tree, "ChrgBr") == ["SLEV" if is_sepa else "SHAR"]


def test_golden_bytes() -> None:
    batch = [
        instruction(1, payee_iban(1), 100),
        Instruction(
            key=instruction(2, payee_iban(2)).key,
            amount=Money(250, "EUR"),
            payee=Payee(
                "iban", {"iban": OUR_IBAN, "holder": "Łukasz O'Neil", "bic": "COBADEFFXXX"}
            ),
            purpose="",
            created_at=NOON,
        ),
    ]
    body = write(debtor("09", bic="COBADEFFXXX"), "01B7", batch, NOON, DAY)
    assert body == write(debtor("09", bic="COBADEFFXXX"), "01B7", batch, NOON, DAY)
    assert body.decode() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.001.001.09"><CstmrCdtTrfInitn>\n'
        "<GrpHdr><MsgId>01B7</MsgId><CreDtTm>2025-03-12T12:00:00Z</CreDtTm>"
        "<NbOfTxs>2</NbOfTxs><CtrlSum>3.50</CtrlSum>"
        "<InitgPty><Nm>Zahlstelle + Sohne GmbH</Nm></InitgPty></GrpHdr>\n"
        "<PmtInf><PmtInfId>01-01B7</PmtInfId><PmtMtd>TRF</PmtMtd><BtchBookg>false</BtchBookg>"
        "<NbOfTxs>2</NbOfTxs><CtrlSum>3.50</CtrlSum>"
        "<PmtTpInf><SvcLvl><Cd>SEPA</Cd></SvcLvl></PmtTpInf>"
        "<ReqdExctnDt><Dt>2025-03-13</Dt></ReqdExctnDt>\n"
        "<Dbtr><Nm>Zahlstelle + Sohne GmbH</Nm></Dbtr>"
        f"<DbtrAcct><Id><IBAN>{OUR_IBAN}</IBAN></Id><Ccy>EUR</Ccy></DbtrAcct>"
        "<DbtrAgt><FinInstnId><BICFI>COBADEFFXXX</BICFI></FinInstnId></DbtrAgt>"
        "<ChrgBr>SLEV</ChrgBr>\n"
        "<CdtTrfTxInf><PmtId><InstrId>010000000000001</InstrId>"
        "<EndToEndId>010000000000001</EndToEndId></PmtId>"
        '<Amt><InstdAmt Ccy="EUR">1.00</InstdAmt></Amt>'
        "<Cdtr><Nm>Anne Ubermass</Nm></Cdtr>"
        f"<CdtrAcct><Id><IBAN>{iban_of('DE', '370400440000000001')}</IBAN></Id></CdtrAcct>"
        "<RmtInf><Ustrd>Thank you for 3 tasks</Ustrd></RmtInf></CdtTrfTxInf>\n"
        "<CdtTrfTxInf><PmtId><InstrId>010000000000002</InstrId>"
        "<EndToEndId>010000000000002</EndToEndId></PmtId>"
        '<Amt><InstdAmt Ccy="EUR">2.50</InstdAmt></Amt>'
        "<CdtrAgt><FinInstnId><BICFI>COBADEFFXXX</BICFI></FinInstnId></CdtrAgt>"
        "<Cdtr><Nm>Lukasz O'Neil</Nm></Cdtr>"
        f"<CdtrAcct><Id><IBAN>{OUR_IBAN}</IBAN></Id></CdtrAcct></CdtTrfTxInf>\n"
        "</PmtInf>\n</CstmrCdtTrfInitn></Document>\n"
    )


@pytest.mark.parametrize(
    ("payee", "minor", "currency", "reason"),
    [
        (Payee("sandbox-wallet", {"wallet": "SW-0000000010"}), 1, "EUR", "kind"),
        (payee_iban(1), 1, "USD", "in EUR"),
        (payee_iban(1), 0, "EUR", "not positive"),
        (payee_iban(1), MAX_SEPA.minor + 1, "EUR", "at most"),
        (Payee("iban", {"iban": "DE88370400440532013000", "holder": "A"}), 1, "EUR", "check dig"),
        (payee_iban(1, "王小明"), 1, "EUR", "Latin"),
        (payee_iban(1, "N" * 71), 1, "EUR", "longer"),
        (Payee("iban", {"iban": OUR_IBAN, "holder": "A", "bic": "X"}), 1, "EUR", "BIC"),
    ],
)
def test_what_cannot_go_is_named_and_the_rest_can(
    payee: Payee, minor: int, currency: str, reason: str
) -> None:
    rail = Iso20022Rail(deps())
    good = instruction(1, payee_iban(1))
    bad = instruction(2, payee, minor, currency)
    with pytest.raises(RailRefused) as caught:
        rail.prepare(bank_account(), "01B7", [good, bad], NOON)
    assert caught.value.slug == "instruction-refused"
    assert [problem.pointer for problem in caught.value.problems] == ["/" + bad.key]
    assert reason in caught.value.problems[0].detail
    assert rail.prepare(bank_account(), "01B7", [good], NOON).keys == (good.key,)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: [],
        lambda batch: [batch[0], batch[0]],
        lambda batch: [*batch, instruction(9, payee_iban(9), cell=2)],
    ],
    ids=["empty", "twice the same", "two cells"],
)
def test_a_malformed_batch_is_our_own_fault(
    change: Callable[[list[Instruction]], list[Instruction]],
) -> None:
    batch = change([instruction(1, payee_iban(1))])
    with pytest.raises(Broken):
        write(debtor(), "01B7", batch, NOON, DAY)


@pytest.mark.parametrize("message_id", ["", "x" * 33, "/a", "a--b", "-a", "a b", "ä"])
def test_identifiers_that_a_bank_may_refuse_are_never_written(message_id: str) -> None:
    with pytest.raises(Broken):
        write(debtor(), message_id, [instruction(1, payee_iban(1))], NOON, DAY)


@pytest.mark.parametrize(
    ("now", "day"),
    [
        (datetime(2025, 4, 17, 9, 0, tzinfo=UTC), "2025-04-17"),
        (datetime(2025, 4, 17, 14, 30, tzinfo=UTC), "2025-04-22"),  # Easter follows
        (datetime(2025, 12, 24, 23, 0, tzinfo=UTC), "2025-12-29"),
    ],
)
def test_the_execution_day_follows_calendar_and_cut_off(now: datetime, day: str) -> None:
    account = bank_account(zone="Europe/Berlin", cut_off="16:00")
    prepared = Iso20022Rail(deps()).prepare(account, "01B7", [instruction(1, payee_iban(1))], now)
    assert f"<ReqdExctnDt><Dt>{day}</Dt></ReqdExctnDt>".encode() in prepared.body


def test_five_thousand_payments_are_one_valid_file() -> None:
    batch = [instruction(number, payee_iban(number)) for number in range(5000)]
    prepared = Iso20022Rail(deps()).prepare(bank_account(), "01B7", batch, NOON)
    schema("09").assertValid(etree.fromstring(prepared.body))
    assert len(prepared.keys) == 5000
