"""Reading a pain.002 payment status report into notices.

A bank may answer for the whole file, for a payment block, for single payments, or mix these; what
is said of a payment beats what is said of its file. We write one block per file, so a block's
status is the file's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from paymaster.kernel.errors import Refusal
from paymaster.rails.base import Notice, Outcome, Verdict
from paymaster.rails.iso20022.status import verdict_of
from paymaster.rails.iso20022.xmlread import (
    Element,
    child,
    children,
    elements,
    first_text,
    moment,
    text,
)
from paymaster.rails.transport import malformed

_WATCHED = frozenset(
    {"CstmrPmtStsRpt", "GrpHdr", "OrgnlGrpInfAndSts", "OrgnlPmtInfAndSts", "TxInfAndSts"}
)
_MAX_DETAIL = 200


@dataclass(frozen=True, slots=True)
class _Said:
    """One statement of the bank: about a payment (`key`) or about all of them."""

    key: str | None
    status: str
    reason: str | None
    detail: str | None
    provider_id: str | None
    at: datetime | None


def read(body: bytes) -> list[Notice]:
    """Notices of one report, those about the whole order first.

    Raises Refusal `statement-malformed`, or `statement-foreign` for the status of something that
    is not a credit transfer of ours (a direct debit collection, for example).
    """
    message_id = original = None
    whole: list[_Said] = []
    single: list[_Said] = []
    complete = False
    for event, name, element in elements(body, _WATCHED):
        if event == "start":
            continue
        if name == "GrpHdr":
            message_id = text(element, "MsgId")
        elif name == "OrgnlGrpInfAndSts":
            original = text(element, "OrgnlMsgId")
            _refuse_foreign(text(element, "OrgnlMsgNmId"))
            whole.extend(_said(None, text(element, "GrpSts"), element))
        elif name == "TxInfAndSts":
            single.append(_payment(element))
            element.clear()
        elif name == "OrgnlPmtInfAndSts":
            whole.extend(_said(None, text(element, "PmtInfSts"), element))
        else:
            complete = True
    if not complete or message_id is None or original is None:
        raise malformed("This is no complete payment status report.")
    return [*_batch_notices(message_id, original, whole, single), *_notices(message_id, single)]


def _refuse_foreign(answered: str | None) -> None:
    if answered and answered.startswith("pain.") and not answered.startswith("pain.001"):
        raise Refusal("statement-foreign", f"The report answers a {answered[:30]}, not a pain.001.")


def _payment(element: Element) -> _Said:
    key = first_text(element, ("OrgnlEndToEndId",), ("OrgnlInstrId",))
    if key is None:
        raise malformed("The report speaks of a payment without naming it.")
    said = next(iter(_said(key, text(element, "TxSts"), element)), None)
    # Listed without a status: named, so that what is said of the file does not cover it.
    return said or _Said(key, "", None, None, None, None)


def _said(key: str | None, status: str | None, element: Element) -> Iterable[_Said]:
    if status is None:
        return
    reasons = [child(each, "Rsn") for each in children(element, "StsRsnInf")]
    codes = [found for each in reasons if (found := first_text(each, ("Cd",), ("Prtry",)))]
    texts = [
        found.text
        for each in children(element, "StsRsnInf")
        for found in children(each, "AddtlInf")
        if found.text
    ]
    detail = " ".join(" ".join(texts).split())[:_MAX_DETAIL] or None
    yield _Said(
        key=key,
        status=status,
        reason=codes[0] if codes else None,
        detail=detail,
        provider_id=first_text(element, ("AcctSvcrRef",), ("StsId",)),
        at=moment(first_text(element, ("AccptncDtTm",))),
    )


def _batch_notices(
    message_id: str, original: str, whole: list[_Said], single: list[_Said]
) -> Iterable[Notice]:
    """At most one notice for the order: all that was said of it must agree."""
    if not whole:
        return
    named = {said.key: verdict_of(said.status, said.reason) for said in single if said.key}
    verdicts = {_whole_verdict(said, named.values()) for said in whole}
    last = whole[-1]
    if Verdict.REJECTED in verdicts and set(named.values()) - {Verdict.REJECTED}:
        # Refused as a whole, yet a payment of it is not: that contradicts itself, so no proof.
        verdicts = {Verdict.UNKNOWN}
    verdict = verdicts.pop() if len(verdicts) == 1 else Verdict.UNKNOWN
    yield Notice(
        event_id=f"pain.002/{message_id}/{original}",
        outcome=Outcome(original, verdict, None, last.reason or last.status, last.detail),
        batch_key=original,
        but_not=frozenset(named),
    )


def _whole_verdict(said: _Said, named: Iterable[Verdict]) -> Verdict:
    """PART means that some were taken: the ones it does not name, if it names those it refused."""
    if said.status == "PART" and Verdict.REJECTED in named:
        return Verdict.ACCEPTED
    return verdict_of(said.status, said.reason)


def _notices(message_id: str, single: list[_Said]) -> Iterable[Notice]:
    for number, said in enumerate(single):
        if said.key is None:
            continue
        verdict = verdict_of(said.status, said.reason)
        yield Notice(
            event_id=f"pain.002/{message_id}/{said.key}/{number}",
            outcome=Outcome(
                key=said.key,
                verdict=verdict,
                provider_id=said.provider_id,
                code=said.reason or said.status or None,
                detail=said.detail,
                occurred_at=said.at,
            ),
        )
