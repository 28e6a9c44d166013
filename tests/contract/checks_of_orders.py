"""Conformance of orders: written, sent, paid once, and known for what they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from tests.contract.checking import (
    NotConforming,
    begin,
    check,
    expect,
    expect_paid,
    has_queries,
    in_transaction,
)
from tests.contract.harness import Fate, Fault, Harness

from paymaster.kernel.errors import (
    Broken,
    NeverSent,
    PaymasterError,
    RailRefused,
)
from paymaster.rails.base import (
    FetchesFiles,
    Queries,
    Verdict,
)


@check("prepare-is-deterministic")
async def prepare_is_deterministic(harness: Harness) -> None:
    """Equal instructions make equal bytes, in this process and in the next."""
    batch = harness.instructions(min(3, harness.make_rail().caps.batch_items))
    key, now = harness.batch_key(), harness.now()
    made = [harness.make_rail().prepare(harness.account, key, list(batch), now) for _ in range(3)]
    expect(made[0] == made[1] == made[2], "the same order was written in different bytes")
    expect(made[0].batch_key == key, "the order is not called what it was to be called")
    expect(made[0].keys == tuple(item.key for item in batch), "keys are missing or reordered")


@check("refuses-what-it-cannot-pay")
async def refuses_what_it_cannot_pay(harness: Harness) -> None:
    """A wrong kind of payee or currency is refused by name, before anything is sent."""
    (item,) = harness.instructions(1)
    strangers = (
        replace(item, payee=replace(item.payee, kind="no-such-kind")),
        replace(item, amount=replace(item.amount, currency="XOF")),
        replace(item, amount=replace(item.amount, minor=0)),
    )
    for stranger in strangers:
        try:
            harness.make_rail().prepare(
                harness.account, harness.batch_key(), [stranger], harness.now()
            )
        except RailRefused as error:
            pointers = [problem.pointer for problem in error.problems]
            expect(pointers == ["/" + item.key], "the refusal does not name the instruction")
        else:
            raise NotConforming("an order was made that cannot be paid")


@check("pays-once")
async def pays_once(harness: Harness) -> None:
    """What is sent is paid, once, and known to be paid."""
    work = begin(harness)
    batch = harness.instructions(1)
    orders = work.prepare(batch)
    expect(await work.send(orders[0]) == "answered", "a plain order was not answered")
    await work.resolve(orders)
    await expect_paid(work, batch)
    expect(work.belief.final(batch[0].key) is Verdict.PAID, "a payment is not known to be paid")


@check("pays-every-item")
async def pays_every_item(harness: Harness) -> None:
    """All payments of an order are paid, none of them twice."""
    work = begin(harness)
    batch = harness.instructions(7)
    orders = work.prepare(batch)
    for order in orders:
        await work.send(order)
    await work.resolve(orders)
    await expect_paid(work, batch)
    finals = {work.belief.final(item.key) for item in batch}
    expect(finals == {Verdict.PAID}, "payments are not known to be paid")


@check("amounts-are-exact")
async def amounts_are_exact(harness: Harness) -> None:
    """Every amount arrives as it was ordered, to the minor unit."""
    work = begin(harness)
    batch = harness.instructions(6, amounts=(1, 9, 99, 101, 12_345, 100_000))
    orders = work.prepare(batch)
    for order in orders:
        await work.send(order)
    await work.resolve(orders)
    await expect_paid(work, batch)


@check("paid-means-paid")
async def paid_means_paid(harness: Harness) -> None:
    """An order that the provider has only taken in is not called paid."""
    work = begin(harness)
    batch = harness.instructions(2)
    if Fault.PAY_LATER in harness.faults:
        await harness.arm(Fault.PAY_LATER)
    orders = work.prepare(batch)
    for order in orders:
        await work.send(order)
    for item in batch:
        if work.belief.final(item.key) is Verdict.PAID:
            expect(await harness.times_paid(item) > 0, "an order was called paid before it was")
    await work.resolve(orders)
    await expect_paid(work, batch)


@check("same-bytes-again-pay-once")
async def same_bytes_again_pay_once(harness: Harness) -> None:
    """The same order sent again, by this process or the next, pays nothing more."""
    work = begin(harness)
    batch = harness.instructions(2)
    orders = work.prepare(batch)
    for order in orders:
        await work.send(order)
        await work.send(order)
    await harness.rest()
    work.rail = harness.make_rail()
    for order in orders:
        await work.send(order)
    await work.resolve(orders)
    await expect_paid(work, batch)
    for item in batch:
        said = work.belief.verdicts(item.key)
        expect(Verdict.REJECTED not in said, "a second copy was read as a rejection of the first")


@check("unreachable-was-never-sent")
async def unreachable_was_never_sent(harness: Harness) -> None:
    """Without a connection nothing has left, and that is known."""
    work = begin(harness)
    batch = harness.instructions(1)
    (order,) = work.prepare(batch)
    said = "answered"
    try:
        await work.rail.send(harness.unreachable(), order)
    except PaymasterError as error:
        said = type(error).__name__
    expect(said == NeverSent.__name__, f"an order without a connection was {said}")
    await expect_paid(work, batch, times=0)
    if isinstance(work.rail, Queries):
        outcome = await work.rail.query(harness.unreachable(), batch[0].key)
        expect(outcome.verdict is Verdict.UNKNOWN, "a look-up that failed was taken for an answer")


@check("lost-answer-is-unknown", lambda harness: Fault.LOSE_ANSWER in harness.faults)
async def lost_answer_is_unknown(harness: Harness) -> None:
    """An order whose answer is lost was paid: it is neither refused nor unsent, and is found."""
    work = begin(harness)
    batch = harness.instructions(1)
    (order,) = work.prepare(batch)
    await harness.arm(Fault.LOSE_ANSWER)
    said = await work.send(order)
    expect(said in {"unknown", "answered"}, f"an order that may be paid was called {said}")
    expect(work.belief.final(batch[0].key) is not Verdict.REJECTED, "unknown was called rejected")
    work.rail = harness.make_rail()
    if work.rail.caps.replay_window is not None:
        await work.send(order)
    await work.resolve([order])
    await expect_paid(work, batch)
    expect(work.belief.final(batch[0].key) is Verdict.PAID, "a lost answer was never found")


@check("failure-is-unknown", lambda harness: Fault.FAIL_BEFORE in harness.faults)
async def failure_is_unknown(harness: Harness) -> None:
    """The provider's own failure proves nothing; the same bytes then pay once."""
    work = begin(harness)
    batch = harness.instructions(1)
    (order,) = work.prepare(batch)
    await harness.arm(Fault.FAIL_BEFORE)
    said = await work.send(order)
    expect(said == "unknown", f"a failure of the provider was called {said}")
    await work.resolve([order])
    await expect_paid(work, batch)


@check("refusal-is-definite")
async def refusal_is_definite(harness: Harness) -> None:
    """A refused payment is known to be refused, with the provider's code, and stays unpaid."""
    work = begin(harness)
    batch = harness.instructions(1)
    await harness.decide(batch[0], Fate.REFUSED)
    orders = work.prepare(batch)
    await work.send(orders[0])
    await work.resolve(orders)
    key = batch[0].key
    expect(work.belief.final(key) is Verdict.REJECTED, "a refusal is not known to be one")
    codes = {each.code for each in work.belief.said[key] if each.verdict is Verdict.REJECTED}
    expect(bool(codes - {None}), "the provider's code is lost")
    await expect_paid(work, batch, times=0)


@check("returns-are-reported")
async def returns_are_reported(harness: Harness) -> None:
    """Money that comes back is known to have come back."""
    work = begin(harness)
    batch = harness.instructions(1)
    await harness.decide(batch[0], Fate.RETURNED)
    orders = work.prepare(batch)
    await work.send(orders[0])
    await work.resolve(orders)
    if work.belief.final(batch[0].key) is not Verdict.RETURNED:
        await harness.close_day()
        await work.listen()
    expect(work.belief.final(batch[0].key) is Verdict.RETURNED, "a return was not reported")


@check("look-up-is-about-the-key", has_queries)
async def look_up_is_about_the_key(harness: Harness) -> None:
    """A look-up says nothing about other payments; a paid one is found."""
    work = begin(harness)
    paid, other = harness.instructions(2)
    orders = work.prepare([paid])
    await work.send(orders[0])
    await harness.rest()
    assert isinstance(work.rail, Queries)
    found = await work.rail.query(harness.account, paid.key)
    expect((found.key, found.verdict) == (paid.key, Verdict.PAID), "a paid key was not found")
    expect(found.amount in {None, paid.amount}, "a look-up names another amount")
    strange = await work.rail.query(harness.account, other.key)
    expect(strange.key == other.key, "a look-up answered about another key")
    expect(
        strange.verdict in {Verdict.NOT_FOUND, Verdict.UNKNOWN},
        f"a key that was never sent is called {strange.verdict}",
    )


@check("no-network-inside-a-transaction")
async def no_network_inside_a_transaction(harness: Harness) -> None:
    """While a transaction is open every call is refused before a byte leaves."""
    work = begin(harness)
    batch = harness.instructions(1)
    (order,) = work.prepare(batch)
    before = await harness.calls()
    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: work.rail.send(harness.account, order)
    ]
    if isinstance(work.rail, Queries):
        queries = work.rail
        attempts.append(lambda: queries.query(harness.account, batch[0].key))
    if isinstance(work.rail, FetchesFiles):
        files = work.rail
        attempts.append(lambda: files.fetch(harness.account, frozenset()))
    for attempt in attempts:
        async with in_transaction():
            try:
                await attempt()
            except Broken as error:
                expect(error.slug == "network-inside-transaction", f"it broke as {error.slug}")
            else:
                raise NotConforming("a call was made while a transaction was open")
    await harness.rest()
    expect(await harness.calls() == before, "an order reached the provider")
    await expect_paid(work, batch, times=0)
