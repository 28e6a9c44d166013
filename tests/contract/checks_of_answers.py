"""Conformance of what comes back: notifications, files, statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from tests.contract.checking import (
    NotConforming,
    Run,
    begin,
    check,
    expect,
    has_files,
    has_webhooks,
    patiently,
)
from tests.contract.harness import Delivery, Fate, Harness

from paymaster.kernel.errors import (
    Refusal,
    Unauthenticated,
)
from paymaster.rails.base import (
    FetchesFiles,
    Instruction,
    LineKind,
    RailAccount,
    ReadsWebhooks,
    Statement,
    Verdict,
)


async def genuine(work: Run) -> tuple[ReadsWebhooks, list[Delivery], Instruction]:
    """Pay, and wait for the notifications about it."""
    batch = work.harness.instructions(1)
    await work.harness.deliveries()
    for order in work.prepare(batch):
        await work.send(order)
    await work.harness.rest()
    found: list[Delivery] = []

    async def arrived() -> bool:
        found.extend(await work.harness.deliveries())
        return bool(found)

    await patiently(arrived, "the provider sent no notification")
    assert isinstance(work.rail, ReadsWebhooks)
    return work.rail, found, batch[0]


def refused(rail: ReadsWebhooks, account: RailAccount, sent: Delivery, now: datetime) -> str | None:
    """The slug with which a notification is refused; None when it is believed."""
    try:
        rail.read_webhook(account, sent.headers, sent.body, now)
    except Unauthenticated as error:
        return error.slug
    return None


OUT, BACK = {LineKind.PAYOUT, LineKind.SET_APART}, {LineKind.RETURN, LineKind.GIVEN_BACK}


@check("webhook-is-read", has_webhooks)
async def webhook_is_read(harness: Harness) -> None:
    """A genuine notification is believed; read again it is the same event."""
    work = begin(harness)
    rail, found, item = await genuine(work)
    notices = [
        notice
        for each in found
        for notice in rail.read_webhook(harness.account, each.headers, each.body, harness.now())
    ]
    about = [notice for notice in notices if notice.outcome.key == item.key]
    expect(bool(about), "no notification speaks of the payment")
    again = [
        notice
        for each in found
        for notice in rail.read_webhook(harness.account, each.headers, each.body, harness.now())
    ]
    expect(notices == again, "a notification that is read again is another event")


@check("forged-webhook-is-refused", has_webhooks)
async def forged_webhook_is_refused(harness: Harness) -> None:
    """A changed body, a changed header or a missing one is not believed."""
    work = begin(harness)
    rail, found, _ = await genuine(work)
    sent = found[0]
    forgeries = [replace(sent, body=sent.body + b" "), replace(sent, body=sent.body[:-1])]
    forgeries += [
        replace(sent, body=sent.body.replace(b"paid", b"fail")),
        replace(sent, headers={}),
    ]
    ours = [name for name in sent.headers if "signature" in name or "sign" in name]
    expect(bool(ours), "the harness knows of no signature header")
    for name in ours:
        value = sent.headers[name]
        turned = value[:-1] + ("0" if value[-1] != "0" else "1")
        forgeries.append(replace(sent, headers={**sent.headers, name: turned}))
        rest = {key: value for key, value in sent.headers.items() if key != name}
        forgeries.append(replace(sent, headers=rest))
    # A provider that encrypts its notifications has no such word in them.
    for forged in (one for one in forgeries if one != sent):
        slug = refused(rail, harness.account, forged, harness.now())
        expect(slug is not None, "a forged notification was believed")


@check("stale-webhook-is-refused", has_webhooks)
async def stale_webhook_is_refused(harness: Harness) -> None:
    """A notification of another hour is not believed, whether past or future."""
    work = begin(harness)
    rail, found, _ = await genuine(work)
    for distance in (timedelta(hours=1), timedelta(hours=-1)):
        slug = refused(rail, harness.account, found[0], harness.now() + distance)
        expect(slug == "webhook-stale", "a stale notification was believed")


async def statements_of(work: Run, batch: Sequence[Instruction]) -> list[Statement]:
    """Pay, end the day, and read what appears."""
    await work.listen()
    work.belief.statements.clear()
    for order in work.prepare(batch):
        await work.send(order)
    await work.harness.rest()
    await work.harness.close_day()
    await work.listen()
    expect(bool(work.belief.statements), "no statement appeared")
    return work.belief.statements


@check("statement-equals-payments", has_files)
async def statement_equals_payments(harness: Harness) -> None:
    """The statement has every payment once, to the cent, adds up, and is proof of payment."""
    work = begin(harness)
    batch = harness.instructions(4, amounts=(1, 250, 1999, 77_777))
    await harness.decide(batch[3], Fate.RETURNED)
    found = await statements_of(work, batch)
    for statement in found:
        expect(not statement.difference, f"a statement is off by {statement.difference}")
    lines = [line for statement in found for line in statement.lines]
    expect(len({line.line_id for line in lines}) == len(lines), "two lines have one id")
    for item in batch:
        out = [x for x in lines if x.reference == item.key and x.kind in OUT]
        expect(len(out) == 1, f"a payment has {len(out)} lines")
        expect(out[0].amount == -item.amount, "a line has another amount than the payment")
    back = [x for x in lines if x.reference == batch[3].key and x.kind in BACK]
    expect(len(back) == 1, "a return has no line")
    expect(back[0].amount == batch[3].amount, "a return has another amount")
    finals = [work.belief.final(item.key) for item in batch]
    expect(finals == [Verdict.PAID] * 3 + [Verdict.RETURNED], "a booked line proved nothing")


@check("files-are-fetched-once", has_files)
async def files_are_fetched_once(harness: Harness) -> None:
    """What was seen is not given again; what is read again says the same."""
    work = begin(harness)
    await statements_of(work, harness.instructions(1))
    assert isinstance(work.rail, FetchesFiles)
    again = await work.rail.fetch(harness.account, frozenset(harness.seen))
    expect(list(again) == [], "a seen file came again")
    for file in work.belief.files:
        first = work.rail.read_file(harness.account, file.name, file.body)
        other = harness.make_rail()
        assert isinstance(other, FetchesFiles)
        second = other.read_file(harness.account, file.name, file.body)
        expect(first == second, "a file that is read again says something else")


@check("truncated-file-is-refused", has_files)
async def truncated_file_is_refused(harness: Harness) -> None:
    """Part of a file is no file."""
    work = begin(harness)
    await statements_of(work, harness.instructions(2))
    assert isinstance(work.rail, FetchesFiles)
    for file in work.belief.files[-5:]:
        for share in (0, 30, 60, 95):
            part = file.body[: len(file.body) * share // 100]
            try:
                work.rail.read_file(harness.account, file.name, part)
            except Refusal as error:
                expect(error.slug.startswith("statement-"), f"it was refused as {error.slug}")
            else:
                raise NotConforming("a truncated file was believed")


@check("foreign-file-is-refused", has_files)
async def foreign_file_is_refused(harness: Harness) -> None:
    """A statement of somebody else's account is not ours."""
    work = begin(harness)
    await statements_of(work, harness.instructions(1))
    assert isinstance(work.rail, FetchesFiles)
    statements = 0
    for file in work.belief.files:
        if not work.rail.read_file(harness.account, file.name, file.body)[1]:
            continue
        statements += 1
        try:
            work.rail.read_file(harness.foreign(), file.name, file.body)
        except Refusal as error:
            expect(error.slug == "statement-foreign", f"it was refused as {error.slug}")
        else:
            raise NotConforming("a foreign statement was believed")
    expect(statements > 0, "there was no statement to try")
