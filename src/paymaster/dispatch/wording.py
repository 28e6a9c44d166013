"""What a provider says in words, without the persons and accounts that it likes to repeat.

Providers put names, account numbers and remittance texts into their explanations, and no list of
patterns knows every name. So it is the other way round: words of the trade are kept, everything
else is left out. The code is for machines; what was said in full stays in the sealed evidence.
"""

from __future__ import annotations

import re

_VOCABULARY = """
a aborted about accept accepted account accounts action active address after agent already amount
an and another answer answered any api are as ask at authorisation authorised authorization
authorized available balance bank banks batch be because been before beneficiary bic blocked
booked branch but by call cancelled cannot card cause check checked checks clearing client close
closed code come communication company completed completely completion connection contact contract
could country credit creditor creditors currency customer cut daily data date day days deactivated
debit debtor deceased declined delayed delivered delivery denied details did different digit
digits direct disabled does done double duplicate elsewhere end ended error exceed exceeded
exceeds exist exists expected expired failed failure fee fields file files financial for format
found fraud from frozen funds general given gone had has have held host iban id identification
identifier in inactive incoming incomplete incorrect information initiation institution
instruction insufficient internal invalid is issuer it known last later law legal limit limits
local locked long look looked lookup made mandate match matches maximum may mentioned merchant
message mismatch missing money monthly more must name names narrative network no not now number of
off on one only open operation or order other our out over paid partner party pay payee payer
payment payments payout payouts pending period permitted person personal phone please possible
previously processed processing prohibited protocol provided provider queue read reason receive
received receiver recipient record reference refund refused registered regulatory reject rejected
remittance report request requested required restricted retry return returned rule rules same
scheme screening second see sender sent server service settlement shown signature silent since
some specified state status still stopped submitted success successful suspended system technical
temporarily temporary than that the their there this through time timed timeout to today token too
transaction transfer transferred try type unable unauthorised unauthorized unavailable under
unknown unpaid unreachable unrecognised unregistered unsupported until unusable up use used user
valid value verification verified wait wallet was were when which while will with without write
wrong yet you your zero
"""
_WORDS = frozenset(_VOCABULARY.split())
_PIECES = re.compile(r"[^\W_]+|[\s:;,.()/'-]+|.", re.UNICODE)
_LEFT_OUT = "…"
_MOST_DIGITS = 3


def impersonal(text: str | None) -> str | None:
    """The words of the trade and short numbers in it; the rest is one … each. None for nothing."""
    if not text:
        return None
    kept: list[str] = []
    after_number = False
    for piece in _PIECES.findall(text):
        if not any(letter.isalnum() for letter in piece):
            kept.append(" " if piece.isspace() else piece)
            continue
        # A second number in a row may be the next group of an account number.
        number = piece.isdecimal() and len(piece) <= _MOST_DIGITS and not after_number
        kept.append(piece if number or piece.lower() in _WORDS else _LEFT_OUT)
        after_number = piece.isdecimal()
    shown = re.sub(r"…(?:[^\w…]*_*…)+", _LEFT_OUT, "".join(kept)).strip()
    return shown if any(letter.isalnum() for letter in shown) else None
