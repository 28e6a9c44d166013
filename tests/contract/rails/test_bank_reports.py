"""pain.002 and camt in the cases that decide about money."""

from __future__ import annotations

import pytest
from tests.contract.support import OUR_IBAN, bank_account, deps

from paymaster.kernel.errors import Refusal
from paymaster.kernel.money import Money
from paymaster.rails.base import LineKind, Notice, Statement, Verdict
from paymaster.rails.iso20022.rail import Iso20022Rail

KEY, OTHER = "010000000000001", "010000000000002"


def read(body: str) -> tuple[list[Notice], list[Statement]]:
    notices, statements = Iso20022Rail(deps()).read_file(bank_account(), "a.xml", body.encode())
    return list(notices), list(statements)


def report(group: str | None, *payments: tuple[str, str, str | None], reason: str = "") -> str:
    def why(code: str | None) -> str:
        return f"<StsRsnInf><Rsn><Cd>{code}</Cd></Rsn></StsRsnInf>" if code else ""

    listed = "".join(
        f"<TxInfAndSts><OrgnlEndToEndId>{key}</OrgnlEndToEndId><TxSts>{status}</TxSts>{why(code)}"
        "</TxInfAndSts>"
        for key, status, code in payments
    )
    whole = f"<GrpSts>{group}</GrpSts>{why(reason)}" if group else ""
    return (
        '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.002.001.10"><CstmrPmtStsRpt>'
        "<GrpHdr><MsgId>R1</MsgId></GrpHdr><OrgnlGrpInfAndSts><OrgnlMsgId>01B7</OrgnlMsgId>"
        f"<OrgnlMsgNmId>pain.001.001.09</OrgnlMsgNmId>{whole}</OrgnlGrpInfAndSts>"
        f"<OrgnlPmtInfAndSts><OrgnlPmtInfId>01-01B7</OrgnlPmtInfId>{listed}</OrgnlPmtInfAndSts>"
        "</CstmrPmtStsRpt></Document>"
    )


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("ACTC", Verdict.ACCEPTED),
        ("ACCP", Verdict.ACCEPTED),
        ("ACSP", Verdict.ACCEPTED),
        ("ACWC", Verdict.ACCEPTED),
        ("ACSC", Verdict.PAID),
        ("ACCC", Verdict.PAID),
        ("RJCT", Verdict.REJECTED),
        ("CANC", Verdict.REJECTED),
        ("RCVD", Verdict.UNKNOWN),
        ("PDNG", Verdict.UNKNOWN),
        ("NEWX", Verdict.UNKNOWN),
    ],
)
def test_what_a_status_proves(status: str, verdict: Verdict) -> None:
    notices, _ = read(report(status, (KEY, status, None)))
    assert [notice.outcome.verdict for notice in notices] == [verdict, verdict]
    assert notices[0].batch_key == "01B7"
    assert notices[1].batch_key is None


@pytest.mark.parametrize("code", ["AM05", "DU01", "DU03"])
def test_a_duplicate_says_nothing_about_the_first_copy(code: str) -> None:
    notices, _ = read(report("RJCT", (KEY, "RJCT", code), reason=code))
    assert {notice.outcome.verdict for notice in notices} == {Verdict.UNKNOWN}
    assert {notice.outcome.code for notice in notices} == {code}


def test_a_refused_file_without_payments_is_one_notice_for_all() -> None:
    (notice,), _ = read(report("RJCT", reason="AM10"))
    assert (notice.batch_key, notice.but_not) == ("01B7", frozenset())
    assert (notice.outcome.verdict, notice.outcome.code) == (Verdict.REJECTED, "AM10")


def test_a_report_that_contradicts_itself_rejects_nothing_unnamed() -> None:
    notices, _ = read(report("RJCT", (KEY, "ACSC", None), (OTHER, "RJCT", "AC04"), reason="AM10"))
    verdicts = {notice.outcome.key: notice.outcome.verdict for notice in notices}
    assert verdicts == {
        "01B7": Verdict.UNKNOWN,
        KEY: Verdict.PAID,
        OTHER: Verdict.REJECTED,
    }
    assert notices[0].but_not == {KEY, OTHER}


def test_partly_accepted_covers_what_it_does_not_name() -> None:
    whole, single = read(report("PART", (KEY, "RJCT", "AC01")))[0]
    assert (whole.outcome.verdict, whole.but_not) == (Verdict.ACCEPTED, {KEY})
    assert (single.outcome.verdict, single.outcome.code) == (Verdict.REJECTED, "AC01")
    (alone,), _ = read(report("PART"))
    assert alone.outcome.verdict is Verdict.UNKNOWN


def entry(
    amount: str,
    direction: str,
    code: str,
    reference: str = KEY,
    *,
    status: str = "BOOK",
    more: str = "",
    entry_more: str = "",
    servicer: str = "",
) -> str:
    domain, family, sub = code.split("/")
    return (
        f'<Ntry><Amt Ccy="EUR">{amount}</Amt><CdtDbtInd>{direction}</CdtDbtInd>{entry_more}'
        f"<Sts><Cd>{status}</Cd></Sts><BookgDt><Dt>2025-03-12</Dt></BookgDt>"
        f"{f'<AcctSvcrRef>{servicer}</AcctSvcrRef>' if servicer else ''}"
        f"<BkTxCd><Domn><Cd>{domain}</Cd><Fmly><Cd>{family}</Cd><SubFmlyCd>{sub}</SubFmlyCd>"
        "</Fmly></Domn></BkTxCd><NtryDtls><TxDtls>"
        f"<Refs><EndToEndId>{reference}</EndToEndId></Refs>{more}</TxDtls></NtryDtls></Ntry>"
    )


def statement(opening: str, closing: str, *entries: str, iban: str = OUR_IBAN) -> str:
    def balance(code: str, amount: str) -> str:
        direction = "DBIT" if amount.startswith("-") else "CRDT"
        return (
            f"<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp>"
            f'<Amt Ccy="EUR">{amount.removeprefix("-")}</Amt><CdtDbtInd>{direction}</CdtDbtInd>'
            "<Dt><Dt>2025-03-12</Dt></Dt></Bal>"
        )

    return (
        '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt>'
        "<GrpHdr><MsgId>M1</MsgId></GrpHdr>"
        f"<Stmt><Id>S1</Id><Acct><Id><IBAN>{iban}</IBAN></Id><Ccy>EUR</Ccy></Acct>"
        f"{balance('OPBD', opening)}{balance('CLBD', closing)}{''.join(entries)}</Stmt>"
        "</BkToCstmrStmt></Document>"
    )


RETURN_INFO = "<RtrInf><Rsn><Cd>AC04</Cd></Rsn></RtrInf>"


@pytest.mark.parametrize(
    ("written", "kind", "amount"),
    [
        (entry("5.00", "DBIT", "PMNT/ICDT/ESCT"), LineKind.PAYOUT, "-5.00"),
        (entry("5.00", "DBIT", "PMNT/IRCT/ESCT"), LineKind.PAYOUT, "-5.00"),
        (entry("5", "CRDT", "PMNT/ICDT/RRTN", more=RETURN_INFO), LineKind.RETURN, "5.00"),
        (entry("5.0", "CRDT", "PMNT/RCDT/ESCT", "NOTPROVIDED"), LineKind.INCOMING, "5.00"),
        (entry("5.00000", "DBIT", "PMNT/MDOP/FEES"), LineKind.FEE, "-5.00"),
        (entry("5.00", "DBIT", "PMNT/RDDT/ESDD"), LineKind.OTHER, "-5.00"),
        (entry("5.00", "CRDT", "ACMT/MCOP/INTR"), LineKind.OTHER, "5.00"),
        (entry("5.00", "DBIT", "PMNT/RCDT/RRTN"), LineKind.OTHER, "-5.00"),
        (
            entry("5.00", "CRDT", "PMNT/ICDT/ESCT", entry_more="<RvslInd>true</RvslInd>"),
            LineKind.RETURN,
            "5.00",
        ),
    ],
)
def test_what_a_line_is(written: str, kind: LineKind, amount: str) -> None:
    closing = (Money.parse("10.00", "EUR") + Money.parse(amount, "EUR")).text()
    _, (found,) = read(statement("10.00", closing, written))
    (line,) = found.lines
    assert (line.kind, line.amount.text()) == (kind, amount)


def test_pending_entries_are_not_there_yet() -> None:
    notices, (found,) = read(
        statement("10.00", "10.00", entry("5.00", "DBIT", "PMNT/ICDT/ESCT", status="PDNG"))
    )
    assert notices == []
    assert found.lines == ()


def test_a_statement_proves_payment_and_return() -> None:
    notices, (found,) = read(
        statement(
            "-1.00",
            "-3.00",
            entry("5.00", "DBIT", "PMNT/ICDT/ESCT", KEY, servicer="A1"),
            entry("3.00", "CRDT", "PMNT/ICDT/RRTN", OTHER, servicer="A2", more=RETURN_INFO),
        )
    )
    said = {(n.outcome.key, n.outcome.verdict, str(n.outcome.amount)) for n in notices}
    assert said == {
        (KEY, Verdict.PAID, "5.00 EUR"),
        (OTHER, Verdict.RETURNED, "3.00 EUR"),
    }
    assert [line.line_id for line in found.lines] == ["A1", "A2"]
    assert found.lines[1].code == "AC04"


def test_lines_without_a_reference_of_the_bank_get_a_stable_one() -> None:
    twice = [entry("1.00", "DBIT", "PMNT/ICDT/ESCT")] * 2
    _, (first,) = read(statement("10.00", "8.00", *twice))
    _, (second,) = read(statement("10.00", "8.00", *twice))
    ids = [line.line_id for line in first.lines]
    assert len(set(ids)) == 2
    assert ids == [line.line_id for line in second.lines]


def test_charges_inside_the_amount_are_told_apart() -> None:
    charges = (
        '<Chrgs><Rcrd><Amt Ccy="EUR">0.35</Amt><CdtDbtInd>DBIT</CdtDbtInd>'
        "<ChrgInclInd>true</ChrgInclInd></Rcrd></Chrgs>"
    )
    _, (found,) = read(
        statement("10.00", "4.65", entry("5.35", "DBIT", "PMNT/ICDT/ESCT", more=charges))
    )
    assert (found.lines[0].amount.text(), found.lines[0].fee.text()) == ("-5.00", "0.35")


def test_incoming_money_carries_its_text_and_sender() -> None:
    more = (
        "<RltdPties><Dbtr><Pty><Nm>Sponsor  SA</Nm></Pty></Dbtr></RltdPties>"
        "<RmtInf><Ustrd>Budget</Ustrd><Ustrd>BG-7</Ustrd></RmtInf>"
    )
    _, (found,) = read(
        statement("0.00", "5.00", entry("5.00", "CRDT", "PMNT/RCDT/ESCT", more=more))
    )
    assert found.lines[0].remittance == "Budget BG-7"
    assert found.lines[0].counterparty == "Sponsor SA"


GOOD = statement("10.00", "5.00", entry("5.00", "DBIT", "PMNT/ICDT/ESCT"))
BOMB = (
    '<!DOCTYPE Document [<!ENTITY a "xxxxxxxxxx"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
)


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        ("", "statement-malformed"),
        ("opening,closing", "statement-malformed"),
        (GOOD[:-10], "statement-malformed"),
        (GOOD.replace("10.00", "10.01"), "statement-malformed"),
        (GOOD.replace("CLBD", "CLAV"), "statement-malformed"),
        (GOOD.replace("5.00<", "5.001<"), "statement-malformed"),
        (GOOD.replace("5.00<", "5,00<"), "statement-malformed"),
        (GOOD.replace("DBIT", "DEBT"), "statement-malformed"),
        (GOOD.replace("<Sts><Cd>BOOK</Cd></Sts>", ""), "statement-malformed"),
        (BOMB + GOOD.replace("S1", "&c;"), "statement-malformed"),
        (
            GOOD.replace("</GrpHdr>", "<MsgPgntn><PgNb>2</PgNb></MsgPgntn></GrpHdr>"),
            "statement-malformed",
        ),
        (GOOD.replace(OUR_IBAN, "FR7630006000011234567890189"), "statement-foreign"),
        (GOOD.replace("EUR", "USD"), "statement-foreign"),
        (GOOD.replace("BkToCstmrStmt", "Something"), "statement-malformed"),
    ],
)
def test_what_cannot_be_relied_on_is_refused(body: str, slug: str) -> None:
    with pytest.raises(Refusal) as caught:
        read(body)
    assert caught.value.slug == slug


def test_statements_of_others_in_the_same_file_are_left_alone() -> None:
    other = GOOD.replace(OUR_IBAN, "FR7630006000011234567890189").replace("S1", "S2")
    both = GOOD.replace("</BkToCstmrStmt>", "").replace("</Document>", "")
    both += other[other.index("<Stmt>") :]
    _, found = read(both)
    assert [each.statement_id for each in found] == ["S1"]
