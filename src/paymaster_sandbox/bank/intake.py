"""Executes payment files: one file, one transaction, one answer."""

import asyncio
import hashlib
from collections.abc import Iterator

from paymaster_sandbox.bank.books import Account, BankBooks, Origin
from paymaster_sandbox.bank.folders import Claimed, Folders
from paymaster_sandbox.bank.pain001 import Block, FileRejectedError, Order, Transfer, parse
from paymaster_sandbox.bank.pain002 import Answer, BlockVerdict, Verdict, write
from paymaster_sandbox.bank.reports import Reports
from paymaster_sandbox.chassis import faults, journal, oracle
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import stamp
from paymaster_sandbox.chassis.oracle import Fate
from paymaster_sandbox.chassis.schedule import Schedule
from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS bank_file (
    key TEXT PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, message_id TEXT,
    status TEXT NOT NULL, code TEXT, answer TEXT NOT NULL, counted INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS bank_file_message ON bank_file (message_id) WHERE counted = 1;
"""
_UNREADABLE = "NOTPROVIDED"


class Intake:
    """Picks up uploads and executes them."""

    def __init__(
        self, chassis: Chassis, schedule: Schedule, folders: Folders, books: BankBooks,
        reports: Reports,
    ) -> None:  # fmt: skip
        self._chassis = chassis
        self._schedule = schedule
        self._folders = folders
        self._books = books
        self._reports = reports
        self._uploaded = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        schedule.handle("bank.return", self._return)

    def wake(self) -> None:
        """Something was put into `/in`."""
        self._uploaded.set()

    async def run(self, scan_seconds: float) -> None:
        """Execute uploads as they come, until cancelled; looks by itself every so often."""
        while True:
            self._uploaded.clear()
            await self.pick_up()
            try:
                async with asyncio.timeout(scan_seconds):
                    await self._uploaded.wait()
            except TimeoutError:
                continue

    async def pick_up(self) -> int:
        """Execute every finished upload; how many there were."""
        async with self._one_at_a_time:
            claimed = self._folders.claim()
            for file in claimed:
                body = file.path.read_bytes()
                order = await asyncio.to_thread(_read, body)
                with self._chassis.tx() as tx:
                    if tx.one("SELECT 1 FROM bank_file WHERE key = ?", file.key) is None:
                        self._execute(tx, file, body, order)
                self._folders.finish(file)
            return len(claimed)

    def _execute(
        self, tx: Tx, file: Claimed, body: bytes, order: Order | FileRejectedError
    ) -> None:
        digest = hashlib.sha256(body).hexdigest()
        refused = self._refusal(tx, order, digest)
        verdicts: tuple[BlockVerdict, ...] = ()
        if isinstance(order, Order) and refused is None:
            verdicts = tuple(self._block(tx, file, order, block) for block in order.blocks)
        answer = self._answer(tx, order, refused, verdicts)
        number = file.key.split("_", 1)[0]
        name = f"pain002_{file.name.rsplit('.', 1)[0]}_{number}.xml"
        tx.run(
            "INSERT INTO bank_file (key, name, sha256, message_id, status, code, answer, counted)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            file.key, file.name, digest, order.message_id if isinstance(order, Order) else None,
            answer.status, answer.code, name, refused is None,
        )  # fmt: skip
        if faults.strikes(tx, "pain002_lose"):
            self._folders.lose(tx, name, write(answer))
        else:
            delay = faults.setting(tx, "bank_answer_seconds") + self._slowness(tx, verdicts)
            self._folders.publish(tx, name, write(answer), delay)
        journal.note(
            tx, "bank.file", name=file.name, message_id=answer.original_message_id,
            status=answer.status, code=answer.code, text=answer.text,
        )  # fmt: skip

    def _refusal(
        self, tx: Tx, order: Order | FileRejectedError, digest: str
    ) -> FileRejectedError | None:
        """Why the file is refused as a whole, if it is."""
        if isinstance(order, FileRejectedError):
            return order
        earlier = tx.one(
            "SELECT sha256 FROM bank_file WHERE message_id = ? AND counted = 1", order.message_id
        )
        if earlier is not None:
            code = "AM05" if earlier[0] == digest else "DU01"
            return FileRejectedError(code, f"MsgId {order.message_id} was used before")
        return order.fault

    def _block(self, tx: Tx, file: Claimed, order: Order, block: Block) -> BlockVerdict:
        account = self._books.account(tx, block.debtor_iban)
        origin = Origin(file.key, order.message_id, block.id)
        verdicts = tuple(self._verdicts(tx, account, block, origin))
        return BlockVerdict(block.id, block.control_sum, verdicts)

    def _verdicts(
        self, tx: Tx, account: Account | None, block: Block, origin: Origin
    ) -> Iterator[Verdict]:
        left = 0 if account is None else account.balance
        for transfer in block.transfers:
            fates = oracle.ask(tx, transfer.creditor_iban)
            code = _problem(account, transfer, fates, left)
            if code is None and account is not None:
                left -= transfer.amount
                payment = self._books.pay(tx, account, transfer, origin)
                self._fulfil(tx, transfer.creditor_iban, fates, payment)
            else:
                code = code or "AC02"
                self._books.refuse(tx, block.debtor_iban, transfer, origin, code)
                for outcome in _REFUSING & fates.keys():
                    oracle.fulfil(tx, transfer.creditor_iban, outcome)
            yield Verdict(transfer, code)

    def _fulfil(self, tx: Tx, payee: str, fates: dict[str, Fate], payment: int) -> None:
        fate = fates.get("return")
        if fate is not None:
            oracle.fulfil(tx, payee, "return")
            subject = f"{payment}:{fate.code or 'AC04'}"
            self._schedule.put(tx, "bank.return", subject, fate.after)

    def _return(self, tx: Tx, subject: str) -> None:
        payment, _, code = subject.partition(":")
        if self._books.give_back(tx, int(payment), code):
            journal.note(tx, "bank.return", payment=int(payment), code=code)
            self._reports.returned(tx)

    def _slowness(self, tx: Tx, verdicts: tuple[BlockVerdict, ...]) -> int:
        """How much later the answer comes because a payee was fated to be slow."""
        delay = 0
        payees = {v.transfer.creditor_iban for block in verdicts for v in block.verdicts}
        for payee in sorted(payees):
            fate = oracle.ask(tx, payee).get("slow")
            if fate is not None:
                oracle.fulfil(tx, payee, "slow")
                delay = max(delay, fate.after)
        return delay

    def _answer(
        self, tx: Tx, order: Order | FileRejectedError, refused: FileRejectedError | None,
        blocks: tuple[BlockVerdict, ...],
    ) -> Answer:  # fmt: skip
        known = isinstance(order, Order)
        return Answer(
            message_id=f"SBP2-{self._chassis.seed.count(tx, 'pain002'):010}",
            created=stamp(tx.now),
            version=order.version if known else "09",
            original_message_id=order.message_id if known else _UNREADABLE,
            original_count=order.count if known and order.count.isdecimal() else None,
            original_sum=order.control_sum if known and refused is None else None,
            blocks=blocks,
            code=None if refused is None else refused.code,
            text=None if refused is None else refused.text,
        )


_REFUSING = frozenset({"closed", "reject", "fail"})


def _read(body: bytes) -> Order | FileRejectedError:
    """The order; or why there is nothing to answer to."""
    try:
        return parse(body)
    except FileRejectedError as refused:
        return refused


def _problem(
    account: Account | None, transfer: Transfer, fates: dict[str, Fate], left: int
) -> str | None:
    """Why a transfer is not executed: a status reason, or None."""
    if account is None:
        return "AC02"
    if transfer.problem is not None:
        return transfer.problem
    for outcome in ("closed", "reject", "fail"):
        if outcome in fates:
            return fates[outcome].code or ("AC04" if outcome == "closed" else "MS03")
    if transfer.currency != account.currency:
        return "AM03"
    return "AM04" if transfer.amount > left else None
