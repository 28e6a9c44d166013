"""The rail over bank files: pain.001 out; pain.002 and camt in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

from paymaster.kernel.errors import Broken, Problem
from paymaster.rails.base import (
    Instruction,
    Notice,
    Outcome,
    Prepared,
    RailAccount,
    RailCaps,
    RemoteFile,
    Statement,
    Verdict,
)
from paymaster.rails.calendar import CALENDARS, execution_day
from paymaster.rails.deps import RailDeps, refuse_incomplete, setting
from paymaster.rails.iso20022 import camt, pain001, pain002
from paymaster.rails.iso20022.xmlread import elements
from paymaster.rails.opening import needs, open_transport
from paymaster.rails.transport import malformed

MAX_ITEMS = 5000
"""Payments in one file: about 2 MB, which every bank takes."""

MAX_FETCHED_FILES = 100
MAX_FETCHED_BYTES = 128 * 1024 * 1024

_REPORTS = frozenset({"CstmrPmtStsRpt"})
_MESSAGES = frozenset({*_REPORTS, *camt.MESSAGES})


class Iso20022Rail:
    """Credit transfers by file. Final word is the statement, not the status report.

    `replay_window` may be set only for banks that refuse a second file with the same MsgId; with
    None a file whose delivery is unproven waits for the bank's report.
    """

    def __init__(
        self, deps: RailDeps, *, name: str = "iso20022", replay_window: timedelta | None = None
    ) -> None:
        self._deps = deps
        self._caps = RailCaps(
            name=name,
            destination_kinds=frozenset({"iban"}),
            batch_items=MAX_ITEMS,
            replay_window=replay_window,
            not_found_is_proof_after=None,
            business_days=1,
        )

    @property
    def caps(self) -> RailCaps:
        """What is fixed about it."""
        return self._caps

    def check_account(self, account: RailAccount) -> None:
        """See ChecksAccounts."""
        settings, secrets, problems = needs(account)
        problems += pain001.account_problems(dict(account.settings))
        try:
            _execution_day(account, datetime.fromisoformat("2025-01-02T00:00:00+00:00"))
        except ValueError as error:
            known = ", ".join(sorted(CALENDARS))
            problems.append(
                Problem(
                    "/settings/calendar",
                    f"{error}: calendars are {known}; cut_off is HH:MM, zone an IANA name.",
                )
            )
        refuse_incomplete(account, ("iban", "holder", *settings), secrets, problems)

    def prepare(
        self, account: RailAccount, batch_key: str, batch: Sequence[Instruction], now: datetime
    ) -> Prepared:
        """See Rail. One file, one payment block, to be executed on the next banking day."""
        if len(batch) > MAX_ITEMS:
            raise Broken("batch-malformed", f"A file holds at most {MAX_ITEMS} payments.")
        debtor = pain001.Debtor(
            holder=setting(account, "holder"),
            iban=setting(account, "iban"),
            bic=account.settings.get("bic"),
            currency=account.currency,
            version=account.settings.get("version", "09"),
            charge_bearer=account.settings.get("charge_bearer", "SHAR"),
            instant=account.settings.get("instant") == "yes",
        )
        body = pain001.write(debtor, batch_key, batch, now, _execution_day(account, now))
        return Prepared(batch_key, body, tuple(item.key for item in batch))

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        """See Rail. Delivered means taken in; whether it is executed the bank says later."""
        transport = open_transport(self._deps, account)
        await transport.put(f"{prepared.batch_key}.xml", prepared.body)
        return [
            Outcome(key, Verdict.ACCEPTED, detail="delivered to the bank") for key in prepared.keys
        ]

    async def fetch(self, account: RailAccount, seen: frozenset[str]) -> Sequence[RemoteFile]:
        """See FetchesFiles. Raises NeverSent when the bank cannot be reached."""
        transport = open_transport(self._deps, account)
        waiting = [file for file in await transport.list() if file.name not in seen]
        wanted: list[str] = []
        size = 0
        for file in waiting[:MAX_FETCHED_FILES]:
            size += file.size
            if wanted and size > MAX_FETCHED_BYTES:
                break
            wanted.append(file.name)
        found = await transport.get(wanted) if wanted else {}
        return [RemoteFile(name, found[name]) for name in wanted if name in found]

    def read_file(
        self, account: RailAccount, name: str, body: bytes
    ) -> tuple[Sequence[Notice], Sequence[Statement]]:
        """See FetchesFiles. The content decides what a file is, not its name."""
        message = next((found for _, found, _ in elements(body, _MESSAGES)), None)
        if message is None:
            raise malformed(f"{name} holds no pain.002, camt.052, camt.053 or camt.054 message.")
        if message in _REPORTS:
            return pain002.read(body), []
        return camt.read(account, body)


def _execution_day(account: RailAccount, now: datetime) -> date:
    return execution_day(
        now,
        calendar=account.settings.get("calendar", "target"),
        cut_off=account.settings.get("cut_off", "16:00"),
        zone=account.settings.get("zone", "UTC"),
    )
