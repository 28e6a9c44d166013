"""The provider's customers with their accounts, and the people who have an Alipay account."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from paymaster_sandbox.alipay.certificates import public_key, serial_number
from paymaster_sandbox.alipay.trouble import Troubles
from paymaster_sandbox.alipay.wire import CNY, day_of, refused
from paymaster_sandbox.chassis import ledger
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.store import Tx

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS alipay_app (
    app_id TEXT PRIMARY KEY, certificate TEXT NOT NULL, cert_sn TEXT NOT NULL,
    seller_id TEXT NOT NULL UNIQUE, opening INTEGER NOT NULL, options TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alipay_user (
    user_id TEXT PRIMARY KEY, logon_id TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
    verified INTEGER NOT NULL, blocked INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alipay_open_id (
    open_id TEXT PRIMARY KEY, app_id TEXT NOT NULL, user_id TEXT NOT NULL,
    UNIQUE (app_id, user_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alipay_log (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, app_id TEXT NOT NULL,
    at INTEGER NOT NULL, kind TEXT NOT NULL, order_no TEXT NOT NULL, merchant_no TEXT NOT NULL,
    amount INTEGER NOT NULL, balance INTEGER NOT NULL, other TEXT NOT NULL, title TEXT NOT NULL,
    memo TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS alipay_log_at ON alipay_log (app_id, at);
"""

LINE_COLUMNS: Final = (
    "id, app_id, at, kind, order_no, merchant_no, amount, balance, other, title, memo"
)
_DAY: Final = 86_400 * SECOND

PRODUCTS: Final = frozenset(
    {"transfer", "bank-transfer", "page-pay", "precreate", "bills", "oauth"}
)


class ConflictError(Exception):
    """It exists with something that cannot change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a customer's contract and settings say. Amounts in fen; no list means: anything."""

    products: tuple[str, ...] = tuple(sorted(PRODUCTS))
    gateway_url: str | None = None
    ips: tuple[str, ...] = ()
    redirect_uris: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    open_id_only: bool = False
    public_key_mode: bool = False
    single_limit: int = 5_000_000
    day_limit: int = 50_000_000
    payee_day_limit: int = 20_000_000
    bank_fee: int = 0
    pay_fee_basis_points: int = 60


@dataclass(frozen=True, slots=True)
class App:
    """A customer's app. Only the public half of its key is known here."""

    app_id: str
    certificate: str
    cert_sn: str
    seller_id: str
    options: Options

    @property
    def key(self) -> rsa.RSAPublicKey:
        """What the app's signatures are verified with."""
        return public_key(x509.load_pem_x509_certificate(self.certificate.encode()))


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with an account."""

    user_id: str
    logon_id: str
    name: str
    verified: bool
    blocked: bool


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a customer's account log: fen, positive for money in."""

    id: str
    app_id: str
    at: int
    kind: str
    order_no: str
    merchant_no: str
    amount: int
    balance: int
    other: str
    title: str
    memo: str


def balance_name(app_id: str) -> str:
    """The customer's money in the double-entry books."""
    return f"alipay/{app_id}/balance"


def user_name(user_id: str) -> str:
    """A person's money in the double-entry books."""
    return f"alipay/user/{user_id}"


class Apps:
    """Everything about customers and people that is no payment."""

    def __init__(self, chassis: Chassis, troubles: Troubles) -> None:
        self._chassis = chassis
        self._troubles = troubles

    def open(
        self, tx: Tx, app_id: str, certificate: str, seller_id: str, opening: int, options: Options
    ) -> bool:
        """Take a customer on; again: another certificate and other options. True if new.

        Raises:
            ConflictError: the customer has another account number or opening balance.
            ValueError: the certificate cannot be used.
        """
        read = x509.load_pem_x509_certificate(certificate.encode())
        public_key(read)
        known = tx.one("SELECT seller_id, opening FROM alipay_app WHERE app_id = ?", app_id)
        if known is not None and known != (seller_id, opening):
            raise ConflictError(f"{app_id} has another seller_id or opening balance")
        kept = msgspec.json.encode(options).decode()
        tx.run(
            "INSERT INTO alipay_app (app_id, certificate, cert_sn, seller_id, opening, options)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (app_id) DO UPDATE SET"
            " certificate = excluded.certificate, cert_sn = excluded.cert_sn,"
            " options = excluded.options",
            app_id, certificate, serial_number(read), seller_id, opening, kept,
        )  # fmt: skip
        if known is None and opening:
            self.book(tx, app_id, opening, "充值", outside(app_id), order_no="", merchant_no="")
        return known is None

    def find(self, tx: Tx, app_id: str) -> App | None:
        """The customer, if there is one of that number."""
        row = tx.one(
            "SELECT app_id, certificate, cert_sn, seller_id, options FROM alipay_app"
            " WHERE app_id = ?",
            app_id,
        )
        if row is None:
            return None
        options = msgspec.json.decode(row[4], type=Options)
        return App(row[0], row[1], row[2], row[3], options)

    def top_up(self, tx: Tx, app_id: str, amount: int) -> None:
        """The customer's own money arrives from its bank."""
        self.book(tx, app_id, amount, "充值", outside(app_id), order_no="", merchant_no="")

    def balance(self, tx: Tx, app_id: str) -> int:
        """What the customer may still pay out, in fen."""
        return ledger.balance(tx, balance_name(app_id))

    def book(
        self, tx: Tx, app_id: str, amount: int, kind: str, other: str, *, order_no: str,
        merchant_no: str, shown: str = "", title: str = "", memo: str = "",
    ) -> None:  # fmt: skip
        """Move fen between the customer's balance and another account, with a line in its log.

        `amount` is positive for money in; `other` is the other account of the books, `shown` what
        the log says of it.
        """
        mine = balance_name(app_id)
        source, target = (other, mine) if amount > 0 else (mine, other)
        ledger.move(
            tx, source, target, abs(amount), CNY, reason=kind, subject=order_no or merchant_no
        )
        line = Line(
            number(tx, self._chassis, "log"), app_id, tx.now, kind, order_no, merchant_no, amount,
            ledger.balance(tx, mine), shown, title, memo,
        )  # fmt: skip
        for told in self._told(tx, line):
            values = astuple(told)
            marks = ", ".join("?" * len(values))
            tx.run(f"INSERT INTO alipay_log ({LINE_COLUMNS}) VALUES ({marks})", *values)  # noqa: S608 - constant

    def _told(self, tx: Tx, line: Line) -> list[Line]:
        """What the log will say of the line; for a transfer that may differ from what was done."""
        strikes = self._troubles.strikes
        if line.kind != "转账":
            return [line]
        if strikes(tx, "bill_omit"):
            return []
        if strikes(tx, "bill_alter"):
            return [replace(line, amount=line.amount - 100)]
        if strikes(tx, "bill_shift"):
            return [replace(line, at=line.at + _DAY)]
        if strikes(tx, "bill_extra"):
            strange = number(tx, self._chassis, "order")
            again = replace(
                line, id=number(tx, self._chassis, "log"), order_no=strange, merchant_no=strange
            )
            return [line, again]
        return [line]

    def add_user(self, tx: Tx, user: User) -> bool:
        """Write a person down; again: the name and the state change. True if new."""
        known = tx.one("SELECT logon_id FROM alipay_user WHERE user_id = ?", user.user_id)
        if known is not None and known[0] != user.logon_id:
            raise ConflictError(f"{user.user_id} has another logon id")
        tx.run(
            "INSERT INTO alipay_user (user_id, logon_id, name, verified, blocked)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT (user_id) DO UPDATE SET name = excluded.name,"
            " verified = excluded.verified, blocked = excluded.blocked",
            user.user_id, user.logon_id, user.name, user.verified, user.blocked,
        )  # fmt: skip
        return known is None

    def users(self, tx: Tx) -> list[User]:
        """Everybody."""
        rows = tx.all(
            "SELECT user_id, logon_id, name, verified, blocked FROM alipay_user ORDER BY user_id"
        )
        return [User(row[0], row[1], row[2], bool(row[3]), bool(row[4])) for row in rows]

    def user(self, tx: Tx, user_id: str) -> User | None:
        """The person of that number."""
        return self._user(tx, "user_id", user_id)

    def by_logon(self, tx: Tx, logon_id: str) -> User | None:
        """The person who logs in with that address or number."""
        return self._user(tx, "logon_id", logon_id)

    def by_open_id(self, tx: Tx, app_id: str, open_id: str) -> User | None:
        """The person whom the app knows by that number; other apps' numbers mean nobody."""
        row = tx.one(
            "SELECT user_id FROM alipay_open_id WHERE open_id = ? AND app_id = ?", open_id, app_id
        )
        return None if row is None else self.user(tx, row[0])

    def open_id(self, tx: Tx, app_id: str, user_id: str) -> str:
        """The number by which one app knows a person."""
        digest = hashlib.sha256(f"{app_id}:{user_id}".encode()).hexdigest()
        open_id = f"0{digest[:31]}"
        tx.run(
            "INSERT OR IGNORE INTO alipay_open_id (open_id, app_id, user_id) VALUES (?, ?, ?)",
            open_id, app_id, user_id,
        )  # fmt: skip
        return open_id

    def _user(self, tx: Tx, column: str, value: str) -> User | None:
        assert column in ("user_id", "logon_id")
        query = "SELECT user_id, logon_id, name, verified, blocked FROM alipay_user WHERE "
        row = tx.one(f"{query}{column} = ?", value)
        return None if row is None else User(row[0], row[1], row[2], bool(row[3]), bool(row[4]))


def outside(app_id: str) -> str:
    """Where a customer's own money comes from."""
    return f"alipay/{app_id}/bank"


def number(tx: Tx, chassis: Chassis, purpose: str) -> str:
    """A new number like the provider's: the day and a count, 28 digits."""
    count = chassis.seed.count(tx, f"alipay.{purpose}")
    first = {"log": 1, "order": 2, "fund": 3, "trade": 4, "notify": 5}[purpose]
    return f"{day_of(tx.now):%Y%m%d}{first}0011{count:015}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a customer, the same from both interfaces."""

    app: App
    method: str
    fields: Mapping[str, Any]
    notify_url: str = ""
    return_url: str = ""
    charset: str = "utf-8"
    base_url: str = ""

    def needs(self, product: str) -> None:
        """Raises ProblemError if the customer has no contract for the product."""
        if product not in self.app.options.products:
            raise refused("PRODUCT_NOT_SIGN", "产品未签约")
