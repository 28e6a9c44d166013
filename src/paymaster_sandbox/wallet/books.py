"""The wallet provider's own books: merchants' floats, payouts, and the lines of its settlement.

A payout reserves its money when it is taken in and books it when it is paid; one that fails was
never booked. The provider protects a key, not a reference: a second key pays a second time.
"""

from paymaster_sandbox.chassis import faults, ledger, oracle
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import booking_time, business_date
from paymaster_sandbox.chassis.money import parse_exact
from paymaster_sandbox.chassis.schedule import Schedule
from paymaster_sandbox.chassis.store import Row, Tx
from paymaster_sandbox.wallet.webhooks import Webhooks
from paymaster_sandbox.wallet.wire import ApiError, Payout, PayoutRequest, wallet_valid

SCHEMA = """
CREATE TABLE IF NOT EXISTS wallet_merchant (
    currency TEXT PRIMARY KEY, iban TEXT NOT NULL, opening INTEGER NOT NULL,
    opened_on TEXT NOT NULL, fee INTEGER NOT NULL, webhook_url TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS wallet_payout (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL, answer BLOB, reference TEXT NOT NULL, wallet TEXT NOT NULL,
    amount INTEGER NOT NULL, currency TEXT NOT NULL, status TEXT NOT NULL, failure_code TEXT,
    fee INTEGER NOT NULL, created INTEGER NOT NULL, plan TEXT NOT NULL, plan_code TEXT,
    plan_after INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS wallet_payout_reference ON wallet_payout (reference);
CREATE TABLE IF NOT EXISTS wallet_line (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, date TEXT NOT NULL, currency TEXT NOT NULL,
    kind TEXT NOT NULL, subject TEXT NOT NULL, reference TEXT NOT NULL, amount INTEGER NOT NULL,
    fee INTEGER NOT NULL, booked INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS wallet_line_day ON wallet_line (currency, date);
"""

_PUBLIC = "id, reference, wallet, amount, currency, status, failure_code, fee, created"


def ledger_name(currency: str, part: str) -> str:
    """One of a merchant's accounts in the double-entry books."""
    return f"wallet/{currency}/{part}"


class ConflictError(Exception):
    """The merchant exists with something that cannot change."""


class WalletBooks:
    """Every change to the provider's books."""

    def __init__(self, chassis: Chassis, schedule: Schedule, webhooks: Webhooks) -> None:
        self._chassis = chassis
        self._schedule = schedule
        self._webhooks = webhooks
        schedule.handle("payout.settle", self._settle)
        schedule.handle("payout.return", self._give_back)

    def open_merchant(
        self, tx: Tx, currency: str, iban: str, opening: int, fee: int, webhook_url: str | None
    ) -> bool:
        """Open a float; again, only the webhook address and the fee change. True if new."""
        row = tx.one("SELECT iban FROM wallet_merchant WHERE currency = ?", currency)
        if row is not None:
            if row[0] != iban:
                raise ConflictError(f"the {currency} merchant tops up at another IBAN")
            tx.run(
                "UPDATE wallet_merchant SET webhook_url = ?, fee = ? WHERE currency = ?",
                webhook_url, fee, currency,
            )  # fmt: skip
            self._webhooks.courier.wake()
            return False
        tx.run(
            "INSERT INTO wallet_merchant (currency, iban, opening, opened_on, fee, webhook_url)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            currency, iban, opening, business_date(tx).isoformat(), fee, webhook_url,
        )  # fmt: skip
        if opening:
            self._move(tx, currency, "bank", "float", opening, "opening", currency)
        return True

    def is_treasury(self, tx: Tx, iban: str, currency: str) -> bool:
        """Whether money paid to this IBAN tops up a merchant's float."""
        found = "SELECT 1 FROM wallet_merchant WHERE iban = ? AND currency = ?"
        return tx.one(found, iban, currency) is not None

    def top_up(self, tx: Tx, currency: str, amount: int, reference: str) -> None:
        """Money arrived from the merchant's bank."""
        subject = self._chassis.seed.id(tx, "tu_")
        self._move(tx, currency, "bank", "float", amount, "topup", subject)
        self._line(tx, currency, "topup", subject, reference, amount, 0)

    def available(self, tx: Tx, currency: str) -> int:
        """What a merchant may still pay out, in minor units."""
        return ledger.balance(tx, ledger_name(currency, "float"))

    def create(self, tx: Tx, key: str, digest: str, request: PayoutRequest) -> Payout:
        """Take a payout in. Raises ApiError if it is refused; then nothing has happened."""
        amount, fee = self._check(tx, request)
        fates = oracle.ask(tx, request.wallet)
        for outcome in ("closed", "reject"):
            if outcome in fates:
                oracle.fulfil(tx, request.wallet, outcome)
                code = fates[outcome].code if outcome == "reject" else None
                raise ApiError(422, code or "wallet_closed", "the wallet takes no money")
        if self.available(tx, request.currency) < amount + fee:
            raise ApiError(402, "insufficient_funds", "the float does not cover the payout")
        plan = next((fates[name] for name in ("fail", "return") if name in fates), None)
        payout = Payout(
            self._chassis.seed.id(tx, "po_"), request.reference, request.wallet, amount,
            request.currency, "pending", None, fee, tx.now,
        )  # fmt: skip
        tx.run(
            "INSERT INTO wallet_payout (id, key, digest, reference, wallet, amount, currency,"
            " status, fee, created, plan, plan_code, plan_after)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            payout.id, key, digest, payout.reference, payout.wallet, amount, payout.currency,
            payout.status, fee, payout.created, plan.outcome if plan else "pay",
            plan.code if plan else None, plan.after if plan else 0,
        )  # fmt: skip
        self._move(tx, payout.currency, "float", "reserved", amount + fee, "payout", payout.id)
        delay = faults.setting(tx, "paid_after_seconds")
        if plan is not None:
            oracle.fulfil(tx, request.wallet, plan.outcome)
            delay = plan.after if plan.outcome == "fail" and plan.after else delay
        if "slow" in fates:
            oracle.fulfil(tx, request.wallet, "slow")
            delay += fates["slow"].after
        self._schedule.put(tx, "payout.settle", payout.id, delay)
        return payout

    def known(self, tx: Tx, key: str) -> tuple[str, bytes] | None:
        """The digest of the request and the stored answer under an idempotency key."""
        row = tx.one("SELECT digest, answer FROM wallet_payout WHERE key = ?", key)
        return None if row is None else (row[0], row[1])

    def keep_answer(self, tx: Tx, payout: str, answer: bytes) -> None:
        """Store the answer that the key will give from now on."""
        tx.run("UPDATE wallet_payout SET answer = ? WHERE id = ?", answer, payout)

    def find(self, tx: Tx, condition: str, value: str) -> list[Payout]:
        """Payouts whose `id` or `reference` is the value, except those still too fresh to show."""
        assert condition in ("id", "reference")
        visible = tx.now - faults.setting(tx, "not_found_lag_seconds")
        rows = tx.all(
            f"SELECT {_PUBLIC} FROM wallet_payout"  # noqa: S608 - the condition is one of two words
            f" WHERE {condition} = ? AND created <= ? ORDER BY seq LIMIT 100",
            value, visible,
        )  # fmt: skip
        return [Payout(*row) for row in rows]

    def _check(self, tx: Tx, request: PayoutRequest) -> tuple[int, int]:
        """Amount and fee in minor units. Raises ApiError."""
        if not 1 <= len(request.reference) <= 35 or not request.reference.isprintable():
            raise ApiError(400, "invalid_request", "reference must be 1 to 35 characters")
        merchant = tx.one("SELECT fee FROM wallet_merchant WHERE currency = ?", request.currency)
        if merchant is None:
            raise ApiError(422, "currency_unsupported", f"no float in {request.currency[:3]!r}")
        try:
            amount = parse_exact(request.amount, request.currency)
        except ValueError as error:
            raise ApiError(400, "invalid_request", str(error)) from error
        if amount == 0:
            raise ApiError(400, "invalid_request", "amount must be more than zero")
        if not wallet_valid(request.wallet):
            raise ApiError(404, "wallet_unknown", "there is no such wallet")
        return amount, merchant[0]

    def _settle(self, tx: Tx, payout_id: str) -> None:
        payout, row = self._take(tx, payout_id)
        plan, code, after = row[-3:]
        reserved = payout.amount + payout.fee
        if plan == "fail":
            self._move(tx, payout.currency, "reserved", "float", reserved, "failed", payout.id)
            self._become(tx, payout, "failed", code or "wallet_limit_exceeded")
            return
        self._move(tx, payout.currency, "reserved", "paid-out", payout.amount, "paid", payout.id)
        if payout.fee:
            self._move(tx, payout.currency, "reserved", "fees", payout.fee, "fee", payout.id)
        self._line(
            tx, payout.currency, "payout", payout.id, payout.reference, -payout.amount, payout.fee
        )
        self._become(tx, payout, "paid", None)
        if plan == "return":
            self._schedule.put(tx, "payout.return", payout.id, after)

    def _give_back(self, tx: Tx, payout_id: str) -> None:
        payout, row = self._take(tx, payout_id)
        self._move(tx, payout.currency, "paid-out", "float", payout.amount, "returned", payout.id)
        self._line(tx, payout.currency, "return", payout.id, payout.reference, payout.amount, 0)
        self._become(tx, payout, "returned", row[-2] or "returned_by_recipient")

    def _take(self, tx: Tx, payout_id: str) -> tuple[Payout, Row]:
        row = tx.one(
            f"SELECT {_PUBLIC}, plan, plan_code, plan_after FROM wallet_payout WHERE id = ?",  # noqa: S608 - constant columns
            payout_id,
        )
        assert row is not None
        return Payout(*row[:-3]), row

    def _become(self, tx: Tx, payout: Payout, status: str, code: str | None) -> None:
        tx.run(
            "UPDATE wallet_payout SET status = ?, failure_code = ? WHERE id = ?",
            status, code, payout.id,
        )  # fmt: skip
        changed = Payout(
            payout.id, payout.reference, payout.wallet, payout.amount, payout.currency, status,
            code, payout.fee, payout.created,
        )  # fmt: skip
        self._webhooks.tell(tx, changed)

    def _move(
        self, tx: Tx, currency: str, source: str, target: str, amount: int, reason: str,
        subject: str,
    ) -> None:  # fmt: skip
        ledger.move(
            tx, ledger_name(currency, source), ledger_name(currency, target), amount, currency,
            reason=reason, subject=subject,
        )  # fmt: skip

    def _line(
        self, tx: Tx, currency: str, kind: str, subject: str, reference: str, amount: int, fee: int
    ) -> None:
        tx.run(
            "INSERT INTO wallet_line (date, currency, kind, subject, reference, amount, fee,"
            " booked) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            business_date(tx).isoformat(), currency, kind, subject, reference, amount, fee,
            booking_time(tx),
        )  # fmt: skip
