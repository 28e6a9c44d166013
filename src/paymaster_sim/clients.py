"""The apps and their users: they earn, ask for their money, ask again, and take requests back."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from paymaster.api.hot import Hot
from paymaster.db.idempotency import Answer, Key
from paymaster.db.tx import Actor, CellTx
from paymaster.dispatch import confirmation
from paymaster.earn import ingest
from paymaster.earn.event import Status
from paymaster.earn.intake import parse
from paymaster.kernel.errors import Broken, PaymasterError
from paymaster.kernel.ids import new_trace_id, parse_text_id
from paymaster.kernel.money import Money
from paymaster.withdraw import fee_plans, moves, pinned
from paymaster.withdraw import quote as quotes
from paymaster.withdraw.fee_plans import Plans
from paymaster.withdraw.quote_store import Quote
from paymaster.withdraw.request import RequestWithdrawal
from paymaster.withdraw.request_keyed import Keyed
from paymaster_sim import terms
from paymaster_sim.cast import Cast
from paymaster_sim.checks import Violation
from paymaster_sim.place import ENVIRONMENT
from paymaster_sim.roles import Role, told
from paymaster_sim.runtime import ProcessDied

T = TypeVar("T")
APP = Actor("key:sim")
CREDENTIAL, ROUTE = 7, "/v1/withdrawals"


@dataclass(slots=True)
class Wish:
    """A withdrawal that a client wants, under its key; `answer` is what it was told.

    `quoted` says whether a quote is still to be asked for, before it is sent for the first time.
    `charged` are amount and fee, once it is accepted.
    """

    key: str
    person: int
    rail: str
    minor: int
    copies: int = 1
    lost: int = 0
    quoted: bool = False
    quote: Quote | None = None
    answer: bytes | None = None
    withdrawal: tuple[int, int] | None = None
    charged: tuple[int, int] = (0, 0)
    sent: bool = False


@dataclass(slots=True)
class Clients:
    """All clients of a run; `api` is the process that answers them."""

    api: Role
    cast: Cast
    wishes: dict[str, Wish] = field(default_factory=dict[str, Wish])
    unearned: list[bytes] = field(default_factory=list[bytes])
    refused: Counter[str] = field(default_factory=Counter[str])

    def want(self, data: dict[str, Any]) -> None:
        """A client makes up its mind."""
        wish = Wish(**data)
        self.wishes[wish.key] = wish

    async def ask(self) -> None:
        """Send what has no answer yet, each as often as its client does; all at the same time."""
        open_ones = [wish for wish in self.wishes.values() if wish.answer is None or wish.lost > 0]
        if not open_ones:
            return
        for wish in open_ones:
            wish.sent = True
        try:
            await self.api.up()
            answers = await self.api.call(self._send(open_ones))
        except ProcessDied:
            return
        for wish, answer in answers:
            if wish.lost > 0:
                wish.lost -= 1
            else:
                self._told(wish, answer)

    async def _send(self, wishes: Sequence[Wish]) -> list[tuple[Wish, Answer]]:
        hot, control = Hot(self.api.deps), self.api.deps.dbs.control
        try:
            plans = await control.read(lambda tx: fee_plans.current(tx, ENVIRONMENT))
            for wish in wishes:
                if wish.quoted:
                    wish.quote = await told(self._quote(plans, wish), self.refused)
                    wish.quoted = False
            sent = [
                (wish, self._one(hot, plans, wish)) for wish in wishes for _ in range(wish.copies)
            ]
            answers = await asyncio.gather(*(call for _, call in sent))
        finally:
            await hot.close()
        found: list[tuple[Wish, Answer]] = []
        for (wish, _), answer in zip(sent, answers, strict=True):
            if answer is not None:
                found.append((wish, answer))
        return found

    async def _quote(self, plans: Plans, wish: Wish) -> Quote:
        """What it would cost; good for a while, whatever is put in force meanwhile."""
        person, fx = self.cast.people[wish.person], self.api.deps.settings.fx
        money = Money(wish.minor, self.cast.currency)
        destination = person.destinations[wish.rail]
        wanted = quotes.Wanted(person.ref.id, destination, "amount", money, money.currency)
        lasts = timedelta(seconds=fx.quote_seconds)

        async def work(tx: CellTx) -> Quote:
            plan = quotes.plan_for(plans, wanted, await quotes.destination_of(tx, wanted))
            terms = quotes.Terms(plan, None, {}, lasts, fx.open_quotes_per_user)
            return await quotes.make(tx, wanted, terms)

        return await self.api.deps.dbs.cell(person.ref.cell).run(APP, new_trace_id(), work)

    async def _one(self, hot: Hot, plans: Plans, wish: Wish) -> Answer | None:
        person = self.cast.people[wish.person]
        destination = person.destinations[wish.rail]
        quote = None if wish.quote is None else wish.quote.id
        body = json.dumps([person.name, destination, wish.minor, quote]).encode()
        key = Key.of(CREDENTIAL, ROUTE, wish.key, body)
        money = Money(wish.minor, self.cast.currency)
        command = RequestWithdrawal(person.ref.id, destination, money, actor=APP, quote_id=quote)
        try:
            await hot.claim(key)
            return await hot.request(person.ref.cell, Keyed(key, command, plans=plans))
        except Broken as error:
            raise Violation(f"broken:{error.slug}", error.detail) from error
        except PaymasterError as error:
            self.refused[error.slug] += 1
            if error.slug == "idempotency-key-reused":
                raise Violation("key-forgotten", f"{wish.key}: {error.detail}") from error
            return None

    def _told(self, wish: Wish, answer: Answer) -> None:
        if wish.answer is None:
            wish.answer = answer.answer
            body = json.loads(answer.answer)
            if answer.status == 202:
                ref = parse_text_id("wd", body["id"])
                wish.withdrawal = ref.cell, ref.id
                wish.charged = _minor(body["amount"]), _minor(body["fee"])
                self._as_offered(wish)
            else:
                self.refused[body["code"]] += 1
        elif wish.answer != answer.answer:
            raise Violation(
                "answer-differs", f"{wish.key}: {answer.answer!r} after {wish.answer!r}"
            )

    def _as_offered(self, wish: Wish) -> None:
        """What is charged is what the quote has said, or one of the prices that are ever asked."""
        quote, way = wish.quote, list(self.cast.people[wish.person].destinations).index(wish.rail)
        offered = terms.fees(way, wish.minor) if quote is None else {(quote.amount, quote.fee)}
        if wish.charged not in offered:
            raise Violation("charged-otherwise", f"{wish.key}: {wish.charged}, not {offered}")

    async def cancel(self, key: str) -> None:
        """A user takes a request back, if it was accepted."""
        wish = self.wishes.get(key)
        if wish is None or wish.withdrawal is None:
            return
        cell, number = wish.withdrawal
        user_id = self.cast.people[wish.person].ref.id
        await self.write(cell, APP, lambda tx: moves.cancel(tx, user_id, number))

    async def leave(self, person: int, rail: str) -> None:
        """A user wants to be paid there no more."""
        user = self.cast.people[person]
        number = user.destinations[rail]
        await self.write(
            user.ref.cell, APP, lambda tx: pinned.close(tx, number, "moved", user_id=user.ref.id)
        )

    async def take_back(self, key: str) -> None:
        """A user takes back what has left already, and waits to be confirmed."""
        wish = self.wishes.get(key)
        if wish is None or wish.withdrawal is None:
            return
        cell, number = wish.withdrawal
        user_id = self.cast.people[wish.person].ref.id

        async def work(tx: CellTx) -> None:
            await confirmation.take_back(tx, user_id, number, lambda _: True)

        await self.write(cell, APP, work)

    async def package(self, cell: int, number: int, user_id: int) -> str | None:
        """What opens the provider's page for the payee; None while nothing is shown."""
        try:
            await self.api.up()
            deps = self.api.deps
            read = deps.dbs.cell(cell).read(
                lambda tx: confirmation.show(tx, deps.secrets.sealer, number, user_id=user_id)
            )
            shown = await self.api.call(told(read, self.refused))
        except ProcessDied:
            return None
        return None if shown is None else shown.package

    async def write(
        self, cell: int, actor: Actor, work: Callable[[CellTx], Awaitable[T]]
    ) -> T | None:
        """One act through the API; None when it was refused, or its process died."""
        try:
            await self.api.up()
            run = self.api.deps.dbs.cell(cell).run(actor, new_trace_id(), work)
            return await self.api.call(told(run, self.refused))
        except ProcessDied:
            return None

    async def earn(self, lines: Sequence[dict[str, Any]] = ()) -> None:
        """Send events; those whose answer was lost are sent again, before the new ones."""
        if lines:
            self.unearned.append(b"\n".join(json.dumps(line).encode() for line in lines))
        waiting, self.unearned = self.unearned, []
        for place, body in enumerate(waiting):
            try:
                await self.api.up()
                taken = await self.api.call(self._ingest(body))
            except ProcessDied:
                self.unearned += waiting[place:]
                return
            if not taken:
                self.unearned.append(body)

    async def _ingest(self, body: bytes) -> bool:
        deps = self.api.deps
        parsed = parse(body, "app", deps.clock.now())
        found = await told(
            ingest.ingest(
                deps.dbs,
                deps.secrets.sealer,
                ENVIRONMENT,
                APP,
                new_trace_id(),
                "app",
                parsed,
                slice_rewards=100,
            ),
            self.refused,
        )
        if found is None:
            return False
        wrong = [one for one in found.outcomes if one.status is Status.REJECTED]
        if wrong:
            raise Violation("event-refused", f"{wrong[0].slug}: {wrong[0].detail}")
        return True

    def waiting(self) -> bool:
        """Whether somebody still waits for an answer."""
        return bool(self.unearned) or any(w.answer is None for w in self.wishes.values())

    def promised(self) -> dict[str, tuple[int, int, int, int]]:
        """Cell, id, amount and fee of what was accepted, by key."""
        return {
            wish.key: (*wish.withdrawal, *wish.charged)
            for wish in self.wishes.values()
            if wish.withdrawal is not None
        }

    def possible(self, cell: int) -> int:
        """How many withdrawals there may be in a cell: what was accepted, or may have been."""
        return sum(
            self.cast.people[wish.person].ref.cell == cell
            and wish.sent
            and (wish.withdrawal is not None or wish.answer is None)
            for wish in self.wishes.values()
        )


def _minor(wire: Mapping[str, str]) -> int:
    return Money.parse(wire["amount"], wire["currency"]).minor
