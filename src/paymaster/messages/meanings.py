"""What each state means, for the types of events that are told of machines: `group.state`."""

from __future__ import annotations

from typing import Final

WITHDRAWALS: Final = {
    "requested": "was asked for, or is judged anew; the money is set aside.",
    "screening": "is being judged.",
    "in_review": "waits for a person's decision.",
    "challenged": "waits for a proof by the earner.",
    "approved": "may be paid.",
    "queued": "waits for its rail.",
    "sending": "is on its way to the provider.",
    "unknown": "may or may not have been paid; we ask the provider.",
    "sent": "was taken in by the provider.",
    "awaiting_payee": "waits for the payee to accept it.",
    "paid": "was paid. It can still come back.",
    "failed": "was not paid; the money is available again.",
    "returned": "came back after it was paid; the money is available again.",
    "denied": "was refused; the money is available again.",
    "cancelled": "was taken back; the money is available again.",
    "held": "is frozen by a person.",
}
REWARDS: Final = {
    "due": "was earned.",
    "awaiting_funds": "waits for the campaign's budget.",
    "vesting": "is credited, and available later.",
    "credited": "is available.",
    "refused": "is not paid: the budget is used up.",
    "reversed": "was taken back.",
}
USER_TASKS: Final = {
    "offered": "is on offer.",
    "started": "was begun.",
    "in_progress": "has come a step further.",
    "submitted": "was handed in and waits for a decision.",
    "verified": "was done; the reward follows.",
    "rewarded": "was rewarded.",
    "rejected": "was not accepted.",
    "expired": "was not done in time.",
    "reversed": "lost its reward.",
}
TRANSFERS: Final = {
    "requested": "was asked for, or waits again.",
    "sending": "is on its way to the provider.",
    "unknown": "may or may not have been executed.",
    "sent": "was taken in by the provider.",
    "out_booked": "is on the statement of the account it leaves.",
    "in_booked": "is on the statement of the account it goes to.",
    "done": "is on both statements.",
    "failed": "was not executed, or came back.",
    "cancelled": "was taken back.",
}
ATTEMPTS: Final = {
    "sending": "is on its way.",
    "unknown": "may or may not have been executed.",
    "sent": "was taken in by the provider.",
    "awaiting_payee": "waits for the payee to accept it.",
    "paid": "was executed.",
    "rejected": "was refused by the provider.",
    "returned": "came back.",
}
TOPUPS: Final = {
    "requested": "was asked for, or waits to be told to the provider again.",
    "opening": "is being told to the provider.",
    "unknown": "may or may not be known to the provider; we ask.",
    "open": "can be paid.",
    "paid": "was paid, and is credited.",
    "closed": "was not paid, and cannot be paid any more.",
    "disputed": "was paid otherwise than asked for; nobody was credited, and a person has to look.",
}
TOPUP_REFUNDS: Final = {
    "requested": "was asked for; the money is set aside.",
    "sending": "is being ordered.",
    "unknown": "may or may not have been ordered; we ask.",
    "processing": "was taken in by the provider.",
    "stuck": "does not reach the payer's account: a person has to see to it at the provider.",
    "done": "was given back.",
    "failed": "was not given back; the money is where it was.",
}
APPROVALS: Final = {
    "proposed": "waits for the second person.",
    "approved": "was approved, and done.",
    "refused": "was refused.",
    "withdrawn": "was withdrawn by who proposed it.",
    "expired": "was not approved in time.",
}
