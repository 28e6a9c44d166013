"""Merchants, the apps that are bound to them, and the people who use the apps."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

from paymaster_sandbox.chassis import ledger
from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_merchant (
    mchid TEXT PRIMARY KEY, name TEXT NOT NULL, public_key TEXT NOT NULL, serial TEXT NOT NULL,
    certificate TEXT NOT NULL, apiv3_key TEXT NOT NULL, apiv2_key TEXT NOT NULL,
    product TEXT NOT NULL, platform TEXT NOT NULL, mixed_percent INTEGER NOT NULL,
    addresses TEXT NOT NULL, account TEXT NOT NULL, notify_url TEXT,
    least INTEGER NOT NULL, most INTEGER NOT NULL, payee_day INTEGER NOT NULL,
    payee_day_count INTEGER NOT NULL, merchant_day INTEGER NOT NULL, scenes TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS wechat_app (
    appid TEXT NOT NULL, mchid TEXT NOT NULL, PRIMARY KEY (appid, mchid)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS wechat_secret (
    appid TEXT PRIMARY KEY, secret TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS wechat_user (
    openid TEXT PRIMARY KEY, appid TEXT NOT NULL, person TEXT NOT NULL, real_name TEXT,
    unionid TEXT NOT NULL, snapshot INTEGER NOT NULL, behaviour TEXT NOT NULL,
    UNIQUE (appid, person)
) WITHOUT ROWID;
"""

PRODUCTS = ("transfer-bills", "authorised", "batches", "transfers-v2")
PLATFORMS = ("certificate", "public-key", "both")
ACCOUNTS = ("BASIC", "OPERATION", "FEES")
BEHAVIOURS = ("wait", "confirm", "refuse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Merchant:
    """A merchant as the provider knows it. Amounts in fen.

    `addresses` is None when calls from everywhere are taken; `scenes` None when every scene is.
    """

    mchid: str
    name: str
    public_key: str
    serial: str
    certificate: str
    apiv3_key: str
    apiv2_key: str
    product: str
    platform: str
    mixed_percent: int
    addresses: list[str] | None
    account: str
    notify_url: str | None
    least: int
    most: int
    payee_day: int
    payee_day_count: int
    merchant_day: int
    scenes: list[str] | None

    @property
    def bills(self) -> bool:
        """Whether transfers are one bill each, confirmed by the user or authorised."""
        return self.product in ("transfer-bills", "authorised")


@dataclass(frozen=True, slots=True)
class User:
    """A person in one app. `real_name` None: the person has not proven a name."""

    openid: str
    appid: str
    person: str
    real_name: str | None
    unionid: str
    snapshot: bool
    behaviour: str


_MERCHANT = tuple(field.name for field in fields(Merchant))
_JSON = ("addresses", "scenes")


def ledger_name(mchid: str, part: str) -> str:
    """One of a merchant's accounts in the double-entry books."""
    return f"wechat/{mchid}/{part}"


def balance(tx: Tx, mchid: str, account: str) -> int:
    """What is on one of the merchant's accounts, in fen."""
    return ledger.balance(tx, ledger_name(mchid, account))


def merchant(tx: Tx, mchid: str) -> Merchant | None:
    """The merchant, if there is one of that number."""
    row = tx.one(
        f"SELECT {', '.join(_MERCHANT)} FROM wechat_merchant WHERE mchid = ?",  # noqa: S608 - constant
        mchid,
    )
    if row is None:
        return None
    found = dict(zip(_MERCHANT, row, strict=True))
    for name in _JSON:
        found[name] = json.loads(found[name])
    return Merchant(**found)


def keep_merchant(tx: Tx, kept: Merchant, appids: list[str]) -> bool:
    """Write a merchant down, anew if it exists; apps are only added. True if new."""
    new = merchant(tx, kept.mchid) is None
    values = [
        json.dumps(getattr(kept, name)) if name in _JSON else getattr(kept, name)
        for name in _MERCHANT
    ]
    tx.run(
        f"INSERT OR REPLACE INTO wechat_merchant ({', '.join(_MERCHANT)})"  # noqa: S608 - constant
        f" VALUES ({', '.join('?' * len(_MERCHANT))})",
        *values,
    )
    for appid in appids:
        tx.run("INSERT OR IGNORE INTO wechat_app (appid, mchid) VALUES (?, ?)", appid, kept.mchid)
    return new


def bound(tx: Tx, appid: str, mchid: str) -> bool:
    """Whether the app may be used by the merchant."""
    found = "SELECT 1 FROM wechat_app WHERE appid = ? AND mchid = ?"
    return tx.one(found, appid, mchid) is not None


def user(tx: Tx, openid: str) -> User | None:
    """The person behind an openid."""
    row = tx.one(
        "SELECT openid, appid, person, real_name, unionid, snapshot, behaviour FROM wechat_user"
        " WHERE openid = ?",
        openid,
    )
    if row is None:
        return None
    known, appid, person, real_name, unionid, snapshot, behaviour = row
    return User(known, appid, person, real_name, unionid, bool(snapshot), behaviour)


def user_of(tx: Tx, appid: str, person: str) -> User | None:
    """The person in that app."""
    row = tx.one("SELECT openid FROM wechat_user WHERE appid = ? AND person = ?", appid, person)
    return None if row is None else user(tx, row[0])


def users(tx: Tx) -> list[User]:
    """Everybody, for the pages and the books."""
    rows = tx.all("SELECT openid FROM wechat_user ORDER BY openid")
    return [found for (openid,) in rows if (found := user(tx, openid)) is not None]


def keep_user(tx: Tx, kept: User) -> None:
    """Write a user down, anew if the openid exists."""
    tx.run(
        "INSERT OR REPLACE INTO wechat_user"
        " (openid, appid, person, real_name, unionid, snapshot, behaviour)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        kept.openid, kept.appid, kept.person, kept.real_name, kept.unionid, kept.snapshot,
        kept.behaviour,
    )  # fmt: skip
