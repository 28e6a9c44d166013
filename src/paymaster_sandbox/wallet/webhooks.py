"""Tells the merchant what became of its payouts: signed, and signed anew at every try."""

import hashlib
import hmac

import msgspec

from paymaster_sandbox.chassis import faults, magic
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import stamp
from paymaster_sandbox.chassis.notify import Addressed, Courier, Outgoing
from paymaster_sandbox.chassis.store import Tx
from paymaster_sandbox.wallet.wire import Payout


def sign(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """The value of `Sandpay-Signature`."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


class Webhooks:
    """Makes events and addresses them. The channel of an event is its currency."""

    def __init__(self, chassis: Chassis, secret: str) -> None:
        self._chassis = chassis
        self._secret = secret
        self.courier = Courier(chassis, self._address)

    def tell(self, tx: Tx, payout: Payout) -> None:
        """Announce the payout's status; the fault knobs may add a forgery that says otherwise."""
        event_id = self._chassis.seed.id(tx, "ev_")
        body = _event(tx, event_id, payout.status, payout.public())
        odd = magic.notice(payout.wallet)
        if odd != "SILENT":
            self.courier.send(
                tx, event_id, payout.currency, body, copies=2 if odd == "TWICE" else 1
            )
        if odd == "FORGED" or faults.strikes(tx, "webhook_forge"):
            lie = "failed" if payout.status == "paid" else "paid"
            forged_id = self._chassis.seed.id(tx, "ev_")
            forged = _event(tx, forged_id, lie, {**payout.public(), "status": lie})
            self.courier.plant(tx, forged_id, payout.currency, forged)

    def _address(self, tx: Tx, out: Outgoing) -> Addressed | None:
        row = tx.one("SELECT webhook_url FROM wallet_merchant WHERE currency = ?", out.channel)
        if row is None or row[0] is None:
            return None
        timestamp = self._chassis.clock.transport_seconds()
        secret = self._secret if out.genuine else f"not {self._secret}"
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Sandpay-Webhooks/1",
            "Sandpay-Id": out.notice,
            "Sandpay-Timestamp": str(timestamp),
            "Sandpay-Signature": sign(secret, out.notice, timestamp, out.body),
        }
        return Addressed(row[0], headers)


def _event(tx: Tx, event_id: str, status: str, data: dict[str, object]) -> bytes:
    return msgspec.json.encode(
        {"id": event_id, "type": f"payout.{status}", "created_at": stamp(tx.now), "data": data}
    )
