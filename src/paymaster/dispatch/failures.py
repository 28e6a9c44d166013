"""What a provider's code means: for the earner, for the operator, and for what happens next.

Codes of banks are from the ISO 20022 external code sets (status and return reasons); those of other
providers are listed under the words that they use. A code that is not here is reported as it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Category(StrEnum):
    """Whose business a failure is."""

    DESTINATION = "destination"
    """The account or wallet cannot be paid: the earner gives another one."""
    PAYEE = "payee"
    """The payee, or the payee's bank, does not want or may not have the money."""
    FUNDS = "funds"
    """Our own account ran short: nothing the earner could do, so the payment waits."""
    OURS = "ours"
    """Our set-up or our order is wrong."""
    RULES = "rules"
    """Law or the provider's compliance stands in the way."""
    PROVIDER = "provider"
    """The provider could not do it, without a fault of anybody here."""
    OTHER = "other"
    """The provider did not say."""


@dataclass(frozen=True, slots=True)
class Failure:
    """`retryable`: the same request may succeed later. `closes_destination`: never pay it again."""

    code: str
    category: Category
    earner: str
    operator: str
    retryable: bool = False
    closes_destination: bool = False


_OTHER_ACCOUNT = "Please add another account and withdraw again; your money is back."
_TRY_LATER = "Please try again later; your money is back."
_ASK_BANK = "Please ask your bank why, or use another account; your money is back."

DICTIONARY: dict[str, Failure] = {
    failure.code: failure
    for failure in (
        # Banks
        Failure(
            "AC01",
            Category.DESTINATION,
            f"The account number does not exist. {_OTHER_ACCOUNT}",
            "Incorrect account number: the destination was closed.",
            closes_destination=True,
        ),
        Failure(
            "AC04",
            Category.DESTINATION,
            f"The account was closed. {_OTHER_ACCOUNT}",
            "Closed account: the destination was closed.",
            closes_destination=True,
        ),
        Failure(
            "AC06",
            Category.DESTINATION,
            f"The account is blocked. {_ASK_BANK}",
            "Blocked account: the destination was closed.",
            closes_destination=True,
        ),
        Failure(
            "AC03",
            Category.DESTINATION,
            f"The bank does not accept this account number. {_OTHER_ACCOUNT}",
            "Invalid creditor account number: the destination was closed.",
            closes_destination=True,
        ),
        Failure(
            "AG01",
            Category.DESTINATION,
            f"This kind of account cannot receive the payment. {_OTHER_ACCOUNT}",
            "Transaction forbidden on this type of account.",
        ),
        Failure(
            "AG02",
            Category.OURS,
            f"The payment could not be made. {_TRY_LATER}",
            "Invalid bank operation code: check the account's service level.",
        ),
        Failure(
            "AM02",
            Category.PROVIDER,
            "The amount is above what the bank allows. Please withdraw less at a time.",
            "Amount not allowed by the bank's maximum.",
        ),
        Failure(
            "AM03",
            Category.OURS,
            f"The payment could not be made. {_TRY_LATER}",
            "The currency is not the account's: check the route.",
        ),
        Failure(
            "AM04",
            Category.FUNDS,
            f"The payment could not be made. {_TRY_LATER}",
            "Our account had too little money: fund it.",
            retryable=True,
        ),
        Failure(
            "AM05",
            Category.OURS,
            "The bank is checking the payment.",
            "Duplicate: the bank had this order already; only its statement tells the rest.",
        ),
        Failure(
            "BE04",
            Category.PAYEE,
            "The bank needs your full address. Please complete your details.",
            "Missing creditor address.",
        ),
        Failure(
            "BE01",
            Category.PAYEE,
            f"The name does not match the account. {_OTHER_ACCOUNT}",
            "Inconsistent with the end customer: name and account do not belong together.",
        ),
        Failure(
            "FOCR",
            Category.PAYEE,
            "The payment was called back on request; your money is back.",
            "Returned following a cancellation request.",
        ),
        Failure(
            "CUST",
            Category.PAYEE,
            "The payment was called back on request; your money is back.",
            "Cancelled by the debtor.",
        ),
        Failure(
            "MD07",
            Category.RULES,
            "The account cannot be paid. Please contact us.",
            "The account holder is deceased: the destination was closed.",
            closes_destination=True,
        ),
        Failure(
            "MS02",
            Category.PAYEE,
            f"The payment was refused. {_ASK_BANK}",
            "Refused by the creditor, no reason given.",
        ),
        Failure(
            "MS03",
            Category.OTHER,
            f"The bank refused the payment. {_ASK_BANK}",
            "Reason not specified by the bank; some banks use it in place of AC04 and AM04.",
        ),
        Failure(
            "RC01",
            Category.DESTINATION,
            f"The bank of this account cannot be found. {_OTHER_ACCOUNT}",
            "Incorrect bank identifier.",
        ),
        Failure(
            "RR04",
            Category.RULES,
            "The payment was refused for regulatory reasons. Please contact us.",
            "Regulatory reason.",
        ),
        Failure(
            "AB05",
            Category.PROVIDER,
            f"Your bank did not answer in time. {_TRY_LATER}",
            "Timeout at the creditor's bank (instant payment).",
            retryable=True,
        ),
        Failure(
            "AB08",
            Category.PROVIDER,
            f"Your bank is not reachable. {_TRY_LATER}",
            "The creditor's bank is offline (instant payment).",
            retryable=True,
        ),
        # Wallets
        Failure(
            "wallet_closed",
            Category.DESTINATION,
            f"The wallet was closed. {_OTHER_ACCOUNT}",
            "Closed wallet: the destination was closed.",
            closes_destination=True,
        ),
        Failure(
            "wallet_unknown",
            Category.DESTINATION,
            f"There is no such wallet. {_OTHER_ACCOUNT}",
            "Unknown wallet: the destination was closed.",
            closes_destination=True,
        ),
        Failure(
            "wallet_blocked",
            Category.DESTINATION,
            f"The wallet cannot receive money at the moment. {_OTHER_ACCOUNT}",
            "Blocked wallet.",
        ),
        Failure(
            "wallet_limit_exceeded",
            Category.PAYEE,
            f"The wallet has reached its limit. {_TRY_LATER}",
            "The payee's limit at the provider is used up.",
        ),
        Failure(
            "recipient_unverified",
            Category.PAYEE,
            "The wallet is not verified. Please finish that there; your money is back.",
            "The payee has not completed the provider's identification.",
        ),
        Failure(
            "returned_by_recipient",
            Category.PAYEE,
            f"The payment was sent back. {_OTHER_ACCOUNT}",
            "The payee sent it back.",
        ),
        Failure(
            "currency_unsupported",
            Category.OURS,
            f"The payment could not be made. {_TRY_LATER}",
            "The provider does not pay this currency: check the route.",
        ),
        Failure(
            "insufficient_funds",
            Category.FUNDS,
            f"The payment could not be made. {_TRY_LATER}",
            "Our float at the provider is too low: top it up.",
            retryable=True,
        ),
        Failure(
            "invalid_request",
            Category.OURS,
            f"The payment could not be made. {_TRY_LATER}",
            "The provider did not understand the order: a fault in the rail.",
        ),
        # Ours, before anything left
        Failure(
            "instruction-refused",
            Category.DESTINATION,
            f"The payment cannot be written for this account. {_OTHER_ACCOUNT}",
            "The rail cannot express this payment, for example a name in no Latin script.",
        ),
        Failure(
            "destination-closed",
            Category.DESTINATION,
            f"The account was removed before the payment left. {_OTHER_ACCOUNT}",
            "The destination was closed or erased after the approval.",
        ),
    )
}
"""Every known code."""


def find(code: str | None) -> Failure:
    """What a code means; for one that is not known, that it is not.

    A reason as withdrawals carry it, `code: detail`, is understood too.
    """
    code = code.partition(":")[0] if code else code
    known = DICTIONARY.get(code or "")
    if known is not None:
        return known
    named = f"code {code}" if code else "no code"
    return Failure(
        code or "",
        Category.OTHER,
        f"The payment could not be made. {_OTHER_ACCOUNT}",
        f"The provider refused with {named}; it is not in the dictionary.",
    )


def waits_for_funds(code: str | None) -> bool:
    """Whether this definite no is about our money alone, so that the payment may be made anew."""
    return find(code).category is Category.FUNDS
