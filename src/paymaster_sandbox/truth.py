"""The oracle's account of what was really paid, read from the books of every provider."""

from typing import Any

from paymaster_sandbox.alipay.transfers import PAID as ALIPAY_PAID
from paymaster_sandbox.bank.books import ledger_name as bank_account
from paymaster_sandbox.chassis import ledger
from paymaster_sandbox.chassis.store import Tx
from paymaster_sandbox.wallet.books import ledger_name as wallet_account
from paymaster_sandbox.wechat import truth as wechat

_PAID = f"""
    SELECT creditor_iban AS payee, end_to_end_id AS reference, currency, amount,
           status = 'returned' AS back
    FROM bank_payment WHERE status <> 'rejected' AND treasury = 0
    UNION ALL
    SELECT wallet, reference, currency, amount, status = 'returned'
    FROM wallet_payout WHERE status IN ('paid', 'returned')
    UNION ALL {ALIPAY_PAID}
    UNION ALL {wechat.PAID}
"""  # noqa: S608 - constants


def books(tx: Tx, *, brief: bool) -> dict[str, object]:
    """Everything that a checker compares its own books with; `brief` leaves out the long lists.

    Top-ups of the wallet float are the customer's own money moving and count nowhere as paid.
    """
    paid = tx.all(f"SELECT currency, sum(amount * (1 - back)) FROM ({_PAID}) GROUP BY currency")  # noqa: S608 - constant
    twice = tx.all(
        f"SELECT reference FROM ({_PAID}) GROUP BY reference HAVING count(*) > 1 ORDER BY reference"  # noqa: S608 - constant
    )
    truth: dict[str, object] = {
        "bank": _bank(tx),
        "wallet": _wallet(tx),
        "wechat": wechat.merchants(tx),
        "paid_minor": dict(paid),
        "duplicates": [reference for (reference,) in twice],
        "pending": tx.value(
            "SELECT (SELECT count(*) FROM wallet_payout WHERE status = 'pending')"
            " + (SELECT count(*) FROM alipay_transfer WHERE status = 'DEALING')"
        )
        + wechat.pending(tx),
        "notices_pending": tx.value("SELECT count(*) FROM delivery WHERE state = 'pending'"),
        "proven": ledger.proven(tx),
    }
    if not brief:
        truth["payees"] = _payees(tx)
        truth["references"] = dict(
            tx.all(f"SELECT reference, count(*) FROM ({_PAID}) GROUP BY reference")  # noqa: S608 - constant
        )
    return truth


def _payees(tx: Tx) -> dict[str, dict[str, Any]]:
    rows = tx.all(
        f"SELECT payee, count(*), sum(amount), sum(back), sum(amount * back) FROM ({_PAID})"  # noqa: S608 - constant
        " GROUP BY payee"
    )
    names = ("paid", "paid_minor", "returned", "returned_minor")
    return {payee: dict(zip(names, figures, strict=True)) for payee, *figures in rows}


def _bank(tx: Tx) -> dict[str, dict[str, Any]]:
    accounts = tx.all("SELECT iban, currency, opening FROM bank_account ORDER BY iban")
    return {
        iban: {
            "currency": currency,
            "opening_minor": opening,
            "balance_minor": ledger.balance(tx, bank_account(iban)),
            **_payments(tx, iban),
            **_incoming(tx, iban),
        }
        for iban, currency, opening in accounts
    }


def _payments(tx: Tx, iban: str) -> dict[str, Any]:
    names = (
        "payments", "payments_minor", "returned", "returned_minor", "rejected", "treasury",
        "treasury_minor",
    )  # fmt: skip
    row = tx.one(
        "SELECT count(*) FILTER (WHERE paid), coalesce(sum(amount) FILTER (WHERE paid), 0),"
        " count(*) FILTER (WHERE back), coalesce(sum(amount) FILTER (WHERE back), 0),"
        " count(*) FILTER (WHERE not_paid),"
        " count(*) FILTER (WHERE own), coalesce(sum(amount) FILTER (WHERE own), 0)"
        " FROM (SELECT amount, status <> 'rejected' AND treasury = 0 AS paid,"
        "   status = 'returned' AS back, status = 'rejected' AS not_paid,"
        "   treasury = 1 AND status <> 'rejected' AS own FROM bank_payment WHERE iban = ?)",
        iban,
    )
    assert row is not None
    return dict(zip(names, row, strict=True))


def _incoming(tx: Tx, iban: str) -> dict[str, Any]:
    row = tx.one(
        "SELECT count(*), coalesce(sum(amount), 0) FROM bank_entry"
        " WHERE iban = ? AND kind = 'incoming'",
        iban,
    )
    assert row is not None
    return {"incoming": row[0], "incoming_minor": row[1]}


def _wallet(tx: Tx) -> dict[str, dict[str, Any]]:
    merchants = tx.all("SELECT currency, opening FROM wallet_merchant ORDER BY currency")
    return {currency: _merchant(tx, currency, opening) for currency, opening in merchants}


def _merchant(tx: Tx, currency: str, opening: int) -> dict[str, Any]:
    float_minor = ledger.balance(tx, wallet_account(currency, "float"))
    reserved_minor = ledger.balance(tx, wallet_account(currency, "reserved"))
    states: dict[str, int] = dict(
        tx.all(
            "SELECT status, count(*) FROM wallet_payout WHERE currency = ? GROUP BY status",
            currency,
        )
    )
    lines: dict[str, int] = dict(
        tx.all(
            "SELECT kind, sum(amount) FROM wallet_line WHERE currency = ? GROUP BY kind", currency
        )
    )
    return {
        "opening_minor": opening,
        "balance_minor": float_minor + reserved_minor,
        "available_minor": float_minor,
        "reserved_minor": reserved_minor,
        "payouts": sum(states.values()),
        "pending": states.get("pending", 0),
        "paid": states.get("paid", 0),
        "failed": states.get("failed", 0),
        "returned": states.get("returned", 0),
        "paid_minor": -lines.get("payout", 0),
        "returned_minor": lines.get("return", 0),
        "topup_minor": lines.get("topup", 0),
        "fees_minor": ledger.balance(tx, wallet_account(currency, "fees")),
    }
