"""Every type of event that subscribers may be told of, as data: the one place.

A type is named like the topic of the outbox. Only the fields that stand here leave the house; a
payload that holds more (a reason that somebody typed, a provider's text) is cut down to them.
The page docs/reference/events.md is made from this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from paymaster.messages.meanings import (
    APPROVALS,
    ATTEMPTS,
    REWARDS,
    TOPUP_REFUNDS,
    TOPUPS,
    TRANSFERS,
    USER_TASKS,
    WITHDRAWALS,
)

Kind = Literal["id", "text", "number", "time", "day", "money"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a payload. `maybe`: it may be null."""

    name: str
    kind: Kind
    meaning: str
    maybe: bool = False


@dataclass(frozen=True, slots=True)
class EventType:
    """What a type means, and what its payload holds."""

    name: str
    meaning: str
    fields: tuple[Field, ...]

    @property
    def group(self) -> str:
        """The part of the name before the dot; `group.*` subscribes to all of them."""
        return self.name.partition(".")[0]

    def data(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """What of a message's payload is public, in the order of the fields."""
        return {field.name: payload.get(field.name) for field in self.fields}


TEST: Final = "webhook_endpoint.test"
"""Goes to the endpoint that it names and to no other, whatever that subscribes to."""

_USER = Field("user", "id", "The earner, `us_...`.")
_CAMPAIGN = Field("campaign", "id", "`cp_...`.")
_TASK = Field("task", "id", "`tk_...`.")
_VERSION = Field("version", "number", "Grows with every change.")
_AMOUNT = Field("amount", "money", "How much.")
_TRACE = Field("trace_id", "text", "The trace of the request that asked for it.")
_ACCOUNT = Field("rail_account", "id", "Our account at the provider, `ra_...`.")
_DAY = Field("day", "day", "The business day.")

_STATE = Field("state", "text", "The state it is in now.")
_BEFORE = Field("previous_state", "text", "The state before.")
_BEFORE_MAYBE = Field("previous_state", "text", "The state before; null when it was made.", True)

_WITHDRAWAL = (
    Field("id", "id", "The withdrawal, `wd_...`."),
    _USER,
    Field("destination", "id", "Where the money goes, `de_...`."),
    Field("amount", "money", "What is given for the payout, without the fee."),
    Field("fee", "money", "What is kept beside it."),
    Field("payout", "money", "What the payee gets, in the destination's currency."),
    _STATE,
    _BEFORE_MAYBE,
    Field("number", "number", "Counts the moves of this withdrawal; 0 is the request."),
    Field("at", "time", "When it moved."),
    _TRACE,
)
_REWARD = (Field("reward", "id", "`rw_...`."), _USER, _STATE, _CAMPAIGN, _TASK, _AMOUNT)
_USER_TASK = (_USER, _TASK, _STATE)
_DESTINATION = (
    Field("destination", "id", "`de_...`."),
    _USER,
    Field("kind", "text", "Such as `iban`."),
    Field("currency", "text", "What it takes."),
    _STATE,
    Field("usable_at", "time", "From when on money may go there."),
)
_PAUSED = (
    *_DESTINATION,
    Field("code", "text", "The provider's code for the last failure; see Failure codes."),
    Field("failures", "number", "How many payments in a row have failed."),
)
_TRANSFER = (Field("id", "id", "The transfer, `tr_...`."), _STATE, _BEFORE_MAYBE)
_ATTEMPT = (
    Field("id", "id", "The payment order, `at_...`."),
    Field("subject", "id", "What it pays: `wd_...` or `tr_...`."),
    _STATE,
    _BEFORE,
    Field("code", "text", "The provider's code for the outcome.", True),
    Field("provider_id", "text", "The provider's own id of the payment.", True),
)
_TARGET = Field("target", "id", "Whose budget or wallet: `cp_...` or `us_...`.")
_TOPUP = (
    Field("topup", "id", "The top-up, `tp_...`."),
    _TARGET,
    _AMOUNT,
    _STATE,
    _BEFORE_MAYBE,
    Field("code", "text", "What stands behind the state, where there is something.", True),
    _TRACE,
)
_TOPUP_REFUND = (Field("refund", "id", "The refund, `tf_...`."), *_TOPUP)
_BREAK = (
    Field("break", "id", "`br_...`."),
    Field("kind", "text", "What differs; see Reconciliation."),
    Field("subject", "text", "The id of what it is about."),
)
_LOCKED = (
    Field("kind", "text", "What was guessed at: `key`, `login`, `totp`, ..."),
    Field("subject", "text", "Whose: the id or the visible part of the key."),
    Field("times", "number", "How many times it was locked in a row."),
    Field("until", "time", "When it opens again by itself.", True),
)
_APPROVAL = (
    Field("id", "id", "The approval."),
    _STATE,
    Field("act", "text", "What is to be done."),
    Field("subject", "text", "The id of what it is about."),
    Field("amount", "text", "How much, as a decimal.", True),
    Field("currency", "text", "Of the amount.", True),
    Field("proposer", "text", "Who wants it."),
)
_ENDPOINT = (
    Field("endpoint", "id", "`we_...`."),
    Field("reason", "text", "`failing`, `gone` (it answered 410), or `asked`."),
    Field("failing_since", "time", "Since when nothing arrived there.", True),
)


def _each(
    group: str, what: str, fields: tuple[Field, ...], states: Mapping[str, str]
) -> Iterator[EventType]:
    for state, meaning in states.items():
        yield EventType(f"{group}.{state}", f"{what} {meaning}", fields)


def _security() -> Iterator[EventType]:
    factor = (
        _USER,
        Field("factor", "id", "`fa_...`."),
        Field("kind", "text", "`totp` or `passkey`."),
    )
    yield EventType("security.factor_added", "An earner has a new second factor.", factor)
    yield EventType("security.factor_removed", "An earner removed a second factor.", factor)
    cooling = Field("cooling_off_until", "time", "Until when nothing goes to new destinations.")
    said = "All second factors of an earner were removed, because they were lost."
    yield EventType("security.factors_reset", said, (_USER, cooling))
    made = "An earner has new recovery codes; the earlier ones are void."
    yield EventType("security.recovery_codes_made", made, (_USER,))
    left = Field("left", "number", "How many codes are left.")
    yield EventType("security.recovery_code_used", "A recovery code was used.", (_USER, left))
    copied = "A passkey answered that had been copied; it was refused."
    yield EventType("security.passkey_copied", copied, (_USER,))
    yield EventType("security.locked_out", "Somebody guessed too often.", _LOCKED)
    guessing = "Somebody guesses at many; nobody in particular is locked."
    yield EventType("security.guessing", guessing, _LOCKED)
    glass = (
        Field("id", "id", "The access, `bg_...`."),
        Field("what", "text", "`started`, or how it ended."),
        Field("person", "id", "Who has it, `pe_...`."),
        Field("role", "text", "The role that was lent."),
        Field("ends_at", "time", "Until when."),
        Field("by", "text", "Who gave it."),
    )
    yield EventType("security.break_glass", "Somebody took access in an emergency.", glass)
    staff = (
        Field("id", "id", "Whose access, `pe_...`."),
        Field("act", "text", "Such as `staff.add` or `staff.role`."),
        Field("role", "text", "The role, where there is one.", True),
        Field("by", "text", "Who did it."),
    )
    yield EventType("security.staff_changed", "Who of the staff may do what has changed.", staff)


def _earnings() -> Iterator[EventType]:
    yield from _each("reward", "A reward", _REWARD, REWARDS)
    reward = Field("reward", "id", "`rw_...`.")
    said = "Part of a reward was taken back."
    taken = Field("taken_back", "money", "How much of it in all.")
    yield EventType("reward.reduced", said, (reward, _USER, _STATE, _AMOUNT, taken))
    why = Field("reason", "text", "`chargeback-rate`: too much is taken back.")
    until = Field("matures_at", "time", "When it is looked at again; null: by a person.", True)
    yield EventType("reward.postponed", "A reward matures later.", (reward, _USER, why, until))
    released = "What was kept aside of a reward is available."
    yield EventType("reserve.released", released, (_USER, reward, _AMOUNT))
    yield EventType("debt.opened", "An earner owes after a reversal.", (_USER, reward, _AMOUNT))
    given = (Field("write_off", "id", "`wo_...`."), _USER, _AMOUNT)
    yield EventType("debt.written_off", "What an earner owes was given up.", given)
    yield EventType("debt.reopened", "What was given up is owed again.", given)


def _destinations() -> Iterator[EventType]:
    yield EventType("destination.added", "An earner has a new destination.", _DESTINATION)
    yield EventType("destination.closed", "A destination takes no more money.", _DESTINATION)
    paused = "Payments to a destination keep failing: nothing goes there until it is resumed."
    yield EventType("destination.paused", paused, _PAUSED)
    link = (_USER, Field("provider", "text", "`wechat` or `alipay`."), _DESTINATION[0])
    yield EventType("link.added", "An earner has linked an account.", link)
    yield EventType("link.removed", "The link to an account was ended.", link)
    yield EventType("destination.resumed", "A paused destination takes money again.", _DESTINATION)


def _paying() -> Iterator[EventType]:
    yield from _each("attempt", "A payment order", _ATTEMPT, ATTEMPTS)
    contradicted = (*_ATTEMPT[:3], Field("verdict", "text", "What the provider says now."))
    said = "The provider says of a payment order what cannot be: a person has to look."
    yield EventType("attempt.contradicted", said, contradicted)
    late = (
        *_ATTEMPT[:2],
        Field("since", "time", "When it was ordered."),
        Field("minutes", "number", "Nothing was heard for so long, at the least."),
        Field("asked", "number", "How often the provider was asked."),
        Field("code", "text", "The last word of the provider's that had a code.", maybe=True),
    )
    said = "Nobody knows for a long time whether a payment order was executed."
    yield EventType("attempt.unknown_old", said, late)
    said = "A payee has not accepted a payment for longer than providers usually wait."
    yield EventType("attempt.awaiting_old", said, late)
    skipped = (
        _USER,
        Field("currency", "text", "Of the balance that was to be paid out."),
        Field("reason", "text", "A slug, such as `destination-paused`."),
        Field("message", "text", "The same in words."),
        Field("at", "time", "When it was skipped."),
        Field("next_at", "time", "When it is tried again."),
    )
    said = "An automatic payout was not made; told once, until the reason is another."
    yield EventType("automatic_payout.skipped", said, skipped)


def _funding() -> Iterator[EventType]:
    fields = (
        Field("currency", "text", "Of which."),
        Field("owed", "money", "What users have: available, vesting, in reserve, held."),
        Field("cover", "money", "Settled funds, less what has left, less our own income."),
        Field("missing", "money", "By how much `owed` is more; zero when it is there."),
    )
    short = "Users are owed more than there is. Told once."
    yield EventType("funding.short", short, fields)
    yield EventType("funding.covered", "It is there again.", fields)


def _of_withdrawals() -> Iterator[EventType]:
    yield from _each("withdrawal", "A withdrawal", _WITHDRAWAL, WITHDRAWALS)
    asked = (
        *_WITHDRAWAL[:6],
        Field("number", "number", "Counts the moves of this withdrawal."),
        Field("asked_at", "time", "Since when it waits."),
        Field("answer_by", "time", "Until when; then it is denied."),
        _TRACE,
    )
    said = "A withdrawal still waits for a proof by the earner; told once."
    yield EventType("withdrawal.challenge_reminder", said, asked)
    order = (
        Field("id", "id", "The hold, `lh_...`."),
        Field("subject", "id", "What is held: `us_...`, `de_...` or `wd_...`."),
        Field("subject_kind", "text", "`user`, `destination` or `withdrawal`."),
        Field("reference", "text", "The authority's own reference."),
        Field("by", "text", "Who did it."),
        Field("at", "time", "When."),
    )
    tells = "For operators; do not tell the earner."
    yield EventType("hold.placed", f"Something is frozen by order of an authority. {tells}", order)
    yield EventType("hold.lifted", f"A hold was lifted; there may be others. {tells}", order)


def _offers() -> Iterator[EventType]:
    campaign = (_CAMPAIGN, _STATE, _VERSION)
    yield EventType("campaign.created", "A campaign was made.", campaign)
    yield EventType("campaign.changed", "A campaign was changed.", campaign)
    funded = (_CAMPAIGN, _AMOUNT, Field("line", "id", "The line of the statement, `sl_...`."))
    yield EventType("campaign.funded", "A sponsor's money has arrived.", funded)
    task = (_TASK, _CAMPAIGN, _STATE, _VERSION)
    yield EventType("task.created", "A task was made.", task)
    yield EventType("task.changed", "A task was changed.", task)


def _topups() -> Iterator[EventType]:
    yield from _each("topup", "Money that a payer is asked for", _TOPUP, TOPUPS)
    said = "It is long unknown what became of a top-up whose time is over."
    yield EventType("topup.unknown_old", said, _late("The top-up, `tp_...`.", "could be paid last"))
    yield from _each("topup_refund", "Money for a payer", _TOPUP_REFUND, TOPUP_REFUNDS)
    said = "Money for a payer has not left for long, or nobody says whether it arrived."
    yield EventType(
        "topup_refund.unknown_old", said, _late("The refund, `tf_...`.", "was asked for")
    )


def _late(what: str, since: str) -> tuple[Field, ...]:
    return (
        Field("id", "id", what),
        _STATE,
        Field("since", "time", f"When it {since}."),
        Field("minutes", "number", "It is unknown for so long after that, at the least."),
        Field("asked", "number", "How often the provider was asked since it last said something."),
        Field("code", "text", "The last word of the provider's that had a code.", maybe=True),
    )


def _types() -> Iterator[EventType]:
    yield EventType("user.created", "An earner was made.", (_USER,))
    yield EventType("user.active", "A suspended earner is active again.", (_USER,))
    yield EventType("user.suspended", "An earner was suspended.", (_USER,))
    yield EventType("user.closed", "An earner was closed for good.", (_USER,))
    known = (
        _USER,
        Field("level", "text", "`none`, `basic` or `full`."),
        Field("before", "text", "The level before."),
    )
    yield EventType("user.kyc_level", "An earner is known better, or less.", known)
    yield from _destinations()
    yield from _each("user_task", "A task in an earner's hands", _USER_TASK, USER_TASKS)
    yield from _earnings()
    yield from _of_withdrawals()
    yield from _offers()
    yield from _each("transfer", "A transfer between our accounts", _TRANSFER, TRANSFERS)
    yield from _paying()
    yield from _topups()
    statement = (
        Field("statement", "id", "`st_...`."),
        _ACCOUNT,
        _DAY,
        Field("lines", "number", "How many lines it has."),
        Field("closing", "money", "The closing balance."),
    )
    yield EventType("statement.stored", "A statement of a provider was read.", statement)
    run = (
        Field("run", "id", "`rr_...`."),
        _ACCOUNT,
        _DAY,
        Field("difference", "money", "Between the statement and the books."),
        Field("lines", "number", "Lines of the statement."),
        Field("matched", "number", "Lines that found their posting."),
        Field("breaks", "number", "Open breaks."),
    )
    yield EventType("reconciliation.run", "An account's day was held against the books.", run)
    yield EventType("break.opened", "Books and statement disagree.", _BREAK)
    yield EventType("break.resolved", "They agree again, or somebody explained it.", _BREAK)
    closed = (
        _DAY,
        Field("digest", "text", "SHA-256 of the day, in hex."),
        Field("closed_seq", "text", "Up to which commit it reaches."),
    )
    yield EventType("day.closed", "A business day was closed.", closed)
    yield from _funding()
    yield from _each("approval", "An act that two persons must want", _APPROVAL, APPROVALS)
    yield from _security()
    yield EventType("webhook_endpoint.disabled", "An endpoint is told no more.", _ENDPOINT)
    test = (Field("endpoint", "id", "`we_...`."),)
    yield EventType(TEST, "Somebody asked for a test of this endpoint.", test)


TYPES: Final[Mapping[str, EventType]] = {one.name: one for one in _types()}
"""By name, in the order of the page."""

GROUPS: Final = tuple(dict.fromkeys(one.group for one in TYPES.values()))


def is_subscription(name: str) -> bool:
    """Whether an endpoint may ask for it: a type, `group.*`, or `*`."""
    return name == "*" or name in TYPES or (name.endswith(".*") and name[:-2] in GROUPS)


def covers(subscriptions: frozenset[str], topic: str) -> bool:
    """Whether an endpoint with these subscriptions is told of a type."""
    return (
        "*" in subscriptions
        or topic in subscriptions
        or f"{topic.partition('.')[0]}.*" in subscriptions
    )
