"""Our accounts at providers: rows of the directory, read by everything that pays or reconciles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from paymaster.db import audit
from paymaster.db.cells import Databases
from paymaster.db.tx import ControlRead, ControlTx, json
from paymaster.dispatch.window import window_fault
from paymaster.kernel.errors import Conflict, NotFound, Problem, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import EXPONENTS, Money
from paymaster.rails.base import ChecksAccounts, Rail, RailAccount

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}\Z", re.ASCII)
_PERCENT = re.compile(r"[0-9]{1,2}(\.[0-9]{1,4})?\Z", re.ASCII)


SETTLED_AFTER = timedelta(minutes=1)
"""After which every dispatcher has read the settings of an account again, by far."""


_OURS_ALONE = frozenset({
    "concurrency", "rate_per_second", "cost", "cost_percent", "steady_percent", "arrival_minutes",
    "arrival_days", "calendar", "zone", "cut_off",
})  # fmt: skip
"""Settings by which we choose, pace and foretell: whoever is asked is the same as before."""


@dataclass(frozen=True, slots=True)
class PayoutAccount:
    """A rail account with what dispatch must know of it.

    `payout_window` is `always`, `manual` or times of day in `time_zone` (IANA name): see `window`.
    `settings_at` is when the rail's settings were changed last, those apart that are ours alone:
    from then on it may be another merchant who is asked.
    """

    rail: RailAccount
    environment_id: int
    time_zone: str
    payout_window: str
    state: str
    version: int
    settings_at: datetime | None = None

    def knows(self, since: datetime) -> bool:
        """Whether an order of that time was made for the provider who would be asked now.

        For a little while after a change others may still send by the settings from before.
        """
        return self.settings_at is None or since > self.settings_at + SETTLED_AFTER

    @property
    def id(self) -> int:
        """The account's id."""
        return self.rail.id

    @property
    def active(self) -> bool:
        """Whether new orders may leave through it; a paused one still gets its answers."""
        return self.state == "active"

    @property
    def cost(self) -> int:
        """What a payment costs, in minor units, for the choice of the cheaper account."""
        return self.number("cost", 0)

    @property
    def cost_millionths(self) -> int:
        """The setting `cost_percent`, such as `0.35`, in millionths of the amount; 0 without."""
        written = self.rail.settings.get("cost_percent", "")
        whole, _, part = written.partition(".")
        if _PERCENT.match(written) is None:
            return 0
        return int(whole) * 10_000 + int(part.ljust(4, "0") or 0)

    def cost_of(self, money: Money) -> int:
        """What paying so much costs, in minor units of the account, rounded up."""
        return self.cost - (-money.minor * self.cost_millionths // 1_000_000)

    def number(self, name: str, default: int) -> int:
        """A setting that is a whole number; the default when it is missing or is none."""
        written = self.rail.settings.get(name, "")
        return int(written) if written.isascii() and written.isdigit() else default


@dataclass(frozen=True, slots=True)
class _Row:
    id: int
    environment_id: int
    name: str
    rail: str
    currency: str
    time_zone: str
    settings: dict[str, str]
    secrets: dict[str, str]
    payout_window: str
    state: str
    version: int
    settings_at: datetime | None


def _account(row: _Row) -> PayoutAccount:
    return PayoutAccount(
        RailAccount(row.id, row.name, row.rail, row.currency, row.settings, row.secrets),
        row.environment_id,
        row.time_zone,
        row.payout_window,
        row.state,
        row.version,
        row.settings_at,
    )


async def load(dbs: Databases, environment_id: int) -> dict[int, PayoutAccount]:
    """All accounts of an environment by id, in order of name."""
    return await dbs.control.read(lambda tx: listed(tx, environment_id))


async def listed(tx: ControlRead, environment_id: int) -> dict[int, PayoutAccount]:
    """The same, in the caller's snapshot of the directory."""
    rows = await tx.fetch(
        """
        SELECT id, environment_id, name, rail, currency, time_zone, settings, secrets,
            payout_window, state, version, settings_at
        FROM rail_account WHERE environment_id = %s ORDER BY name
        """,
        (environment_id,),
        _Row,
    )
    return {row.id: _account(row) for row in rows}


async def find(dbs: Databases, environment_id: int, name: str) -> PayoutAccount:
    """An account by its name in an environment. Raises NotFound `rail-account-unknown`."""
    for account in (await load(dbs, environment_id)).values():
        if account.rail.name == name:
            return account
    raise NotFound("rail-account-unknown", "There is no rail account of this name here.")


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account to take on. `settings` hold no secrets; `secrets` name them in the store."""

    name: str
    rail: str
    currency: str
    settings: Mapping[str, str]
    secrets: Mapping[str, str]
    time_zone: str = "UTC"
    payout_window: str = "always"


async def add(
    tx: ControlTx,
    environment_id: int,
    treasury_cell: int,
    new: NewAccount,
    rails: Mapping[str, Rail],
) -> PayoutAccount:
    """Take an account on, audited; the same one again changes nothing.

    Raises Unprocessable `rail-account-invalid` with a problem for each fault (a rail that pretends,
    in a live environment, is one), Conflict `rail-account-exists` when another account has the
    name.
    """
    return (await _add(tx, environment_id, treasury_cell, new, rails))[0]


async def _add(
    tx: ControlTx,
    environment_id: int,
    treasury_cell: int,
    new: NewAccount,
    rails: Mapping[str, Rail],
) -> tuple[PayoutAccount, bool]:
    """See `add`; and whether it was this call that took it on. The account's row is locked."""
    _refuse_faults(new, rails)
    mode = await tx.value("SELECT mode FROM environment WHERE id = %s", (environment_id,))
    if mode == "live" and rails[new.rail].caps.pretends:
        raise _invalid([Problem("/rail", "There is no money behind this rail: it is for tests.")])
    created = await tx.execute(
        """
        INSERT INTO rail_account (id, environment_id, name, rail, currency, time_zone, settings,
            secrets, payout_window, state, version, created_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, 'active', 1, %s)
        ON CONFLICT (environment_id, name) DO NOTHING
        """,
        (
            tx.id(),
            environment_id,
            new.name,
            new.rail,
            new.currency,
            new.time_zone,
            json(dict(new.settings)),
            json(dict(new.secrets)),
            new.payout_window,
            tx.now,
        ),
    )
    account = await _locked(tx, environment_id, new.name)
    if created:
        subject = text_id("ra", treasury_cell, account.id)
        await audit.record(tx, [audit.Act("rail_account.add", subject, None, {"name": new.name})])
    elif (account.rail.rail, account.rail.currency) != (new.rail, new.currency):
        raise Conflict("rail-account-exists", f"Another account is called {new.name!r}.")
    return account, bool(created)


async def put(
    tx: ControlTx,
    environment_id: int,
    treasury_cell: int,
    new: NewAccount,
    rails: Mapping[str, Rail],
) -> tuple[PayoutAccount, bool]:
    """Take an account on, or change its settings, secrets, window or time zone to these; audited.

    The second value says whether it is new. Rail and currency stay. Raises what `add` raises.
    """
    found, created = await _add(tx, environment_id, treasury_cell, new, rails)
    if created or _same(found, new):
        return found, created
    await tx.execute(
        """
        UPDATE rail_account SET settings = %s, secrets = %s, time_zone = %s, payout_window = %s,
            settings_at = %s, version = version + 1
        WHERE id = %s
        """,
        (
            json(dict(new.settings)),
            json(dict(new.secrets)),
            new.time_zone,
            new.payout_window,
            found.settings_at
            if _the_rails(found.rail.settings) == _the_rails(new.settings)
            else tx.now,
            found.id,
        ),
    )
    subject = text_id("ra", treasury_cell, found.id)
    await audit.record(tx, [audit.Act("rail_account.change", subject, None, {"name": new.name})])
    return await _locked(tx, environment_id, new.name), False


async def unchanged(
    tx: ControlTx, environment_id: int, new: NewAccount, rails: Mapping[str, Rail]
) -> bool:
    """Whether `put` would change nothing. Raises Unprocessable `rail-account-invalid`."""
    _refuse_faults(new, rails)
    try:
        found = await _locked(tx, environment_id, new.name)
    except NotFound:
        return False
    return (found.rail.rail, found.rail.currency) == (new.rail, new.currency) and _same(found, new)


def _the_rails(settings: Mapping[str, str]) -> dict[str, str]:
    """Of an account's settings those that may say who is asked."""
    return {name: value for name, value in settings.items() if name not in _OURS_ALONE}


def _same(found: PayoutAccount, new: NewAccount) -> bool:
    return (found.rail.settings, found.rail.secrets, found.time_zone, found.payout_window) == (
        dict(new.settings),
        dict(new.secrets),
        new.time_zone,
        new.payout_window,
    )


async def set_state(
    tx: ControlTx, environment_id: int, treasury_cell: int, name: str, state: str, reason: str
) -> PayoutAccount:
    """Pause an account (`paused`: no new order leaves through it) or take it up again (`active`).

    Raises NotFound `rail-account-unknown`, Unprocessable `rail-account-invalid`.
    """
    if state not in {"active", "paused"}:
        raise _invalid([Problem("/state", "An account is active or paused.")])
    account = await _locked(tx, environment_id, name)
    if account.state != state:
        await tx.execute(
            "UPDATE rail_account SET state = %s, version = version + 1 WHERE id = %s",
            (state, account.id),
        )
        subject = text_id("ra", treasury_cell, account.id)
        await audit.record(tx, [audit.Act(f"rail_account.{state}", subject, reason)])
    return await _locked(tx, environment_id, name)


async def _locked(tx: ControlTx, environment_id: int, name: str) -> PayoutAccount:
    row = await tx.maybe(
        """
        SELECT id, environment_id, name, rail, currency, time_zone, settings, secrets,
            payout_window, state, version, settings_at
        FROM rail_account WHERE environment_id = %s AND name = %s FOR UPDATE
        """,
        (environment_id, name),
        _Row,
    )
    if row is None:
        raise NotFound("rail-account-unknown", "There is no rail account of this name here.")
    return _account(row)


def _refuse_faults(new: NewAccount, rails: Mapping[str, Rail]) -> None:
    problems: list[Problem] = []
    if not _NAME.match(new.name):
        problems.append(Problem("/name", "Use a-z, 0-9 and -, at most 40 characters."))
    if new.currency not in EXPONENTS:
        problems.append(Problem("/currency", "Write an ISO 4217 code such as EUR."))
    fault = window_fault(new.payout_window, new.time_zone)
    if fault is not None:
        problems.append(fault)
    rail = rails.get(new.rail)
    if rail is None:
        problems.append(Problem("/rail", f"Rails are: {', '.join(sorted(rails))}."))
    if problems:
        raise _invalid(problems)
    if isinstance(rail, ChecksAccounts):
        rail.check_account(
            RailAccount(0, new.name, new.rail, new.currency, new.settings, new.secrets)
        )


def _invalid(problems: list[Problem]) -> Unprocessable:
    return Unprocessable(
        "rail-account-invalid", "This rail account cannot be used as it stands.", problems=problems
    )
