"""Which postings each business fact makes. Named here once; machines and docs refer to the names.

fund       cash -> budget                     a sponsor's payment arrived
opening    cash -> equity                     what was on an account when it was taken on
own        cash <-> equity                    the owner's money, put onto an account or taken off
reward     budget -> vesting | available      (and available -> debt, up to what is owed)
mature     vesting -> available
reserve    available -> reserve               up to the share, of what matured just now
reserve_release  reserve -> available         (and available -> debt, up to what is owed)
reverse    vesting, then available, then reserve -> budget, the rest debt -> budget
recover    available -> debt                  up to what is owed, of what came in just now
request    available -> held
release    held -> available
paid       held -> clearing (and held -> fee revenue)
paid       held -> fx | fx -> clearing        with an exchange: one leg in each currency
returned   clearing -> available              (and fee revenue -> available, where it goes back)
returned   clearing -> fx | fx -> available   with an exchange: at the rate of then
booked     clearing -> intercell | intercell -> cash       a payout on the statement
unbooked   cash -> intercell | intercell -> clearing       a return on the statement
lease      budget -> intercell | intercell -> budget       a slice of a budget for another cell
topup      transit -> cash (bank) | cash (rail) -> transit
rail_fee   rail fees -> cash                  (and back, when the rail gives it back)
paid_in    incoming -> budget | available     (and available -> debt, up to what is owed)
payin_booked  intercell -> incoming | cash -> intercell     a payment to us on the statement
payin_refund_request  budget | available -> refunds         what is to be given back to a payer
payin_refund_done     refunds -> incoming
payin_refund_failed   refunds -> budget | available
payin_refund_booked   incoming -> intercell | intercell -> cash   a refund on the statement
suspend    cash <-> suspense                   a line nobody can explain yet
write_off  loss -> debt, or budget -> debt    a debt is given up, by the house or by the sponsor
write_off_undone  debt -> loss | budget       and paid back from what is there by now
"""

from __future__ import annotations

from paymaster.kernel.money import Money
from paymaster.ledger.chart import HOUSE, Account
from paymaster.ledger.entry import Mode, Posting

Postings = tuple[Posting, ...]


def fund(rail_account_id: int, campaign_id: int, amount: Money) -> Postings:
    """A sponsor's payment arrived on one of our accounts."""
    asset = amount.currency
    return (
        Posting(
            Account("cash", rail_account_id, asset), Account("budget", campaign_id, asset), amount
        ),
    )


def opening(rail_account_id: int, amount: Money) -> Postings:
    """What was on an account when it was taken on (negative: it was overdrawn)."""
    cash = Account("cash", rail_account_id, amount.currency)
    equity = Account("equity", HOUSE, amount.currency)
    if amount.minor < 0:
        return (Posting(equity, cash, -amount),)
    return (Posting(cash, equity, amount),)


def own(rail_account_id: int, amount: Money) -> Postings:
    """The owner's money, put onto an account (positive) or taken off it."""
    return opening(rail_account_id, amount)


def reward(
    campaign_id: int, user_id: int, amount: Money, *, vests: bool, owes: bool, commission: Money
) -> Postings:
    """Credit a user from a campaign's budget; matured earnings first pay back what is owed."""
    asset = amount.currency
    budget = Account("budget", campaign_id, asset)
    target = Account("vesting" if vests else "available", user_id, asset)
    postings = [Posting(budget, target, amount)]
    if commission:
        postings.append(Posting(budget, Account("commission", HOUSE, asset), commission))
    if owes and not vests:
        postings.append(recover(user_id, amount))
    return tuple(postings)


def mature(user_id: int, amount: Money, *, owes: bool) -> Postings:
    """Vested earnings become available; what is owed is paid back first."""
    vesting = Account("vesting", user_id, amount.currency)
    available = Account("available", user_id, amount.currency)
    postings = [Posting(vesting, available, amount)]
    if owes:
        postings.append(recover(user_id, amount))
    return tuple(postings)


def reserve(user_id: int, part: Money) -> Postings:
    """Keep part of what has just matured aside; what paid back a debt is not there any more."""
    available = Account("available", user_id, part.currency)
    return (Posting(available, Account("reserve", user_id, part.currency), part, Mode.UP_TO),)


def reserve_release(user_id: int, amount: Money, *, owes: bool) -> Postings:
    """The date has come: what is kept aside becomes available; what is owed is paid back first."""
    kept = Account("reserve", user_id, amount.currency)
    postings = [Posting(kept, Account("available", user_id, amount.currency), amount)]
    if owes:
        postings.append(recover(user_id, amount))
    return tuple(postings)


def recover(user_id: int, most: Money) -> Posting:
    """Pay back debt from what has just become available, at most `most`."""
    return Posting(
        Account("available", user_id, most.currency),
        Account("debt", user_id, most.currency),
        most,
        Mode.UP_TO,
    )


def reverse(campaign_id: int, user_id: int, amount: Money, still_vesting: Money) -> Postings:
    """Take a reward or part of it back: from what of it still vests, then from available.

    Then from what is kept aside; the rest is owed.
    """
    asset = amount.currency
    budget = Account("budget", campaign_id, asset)
    postings: list[Posting] = []
    if still_vesting:
        postings.append(
            Posting(Account("vesting", user_id, asset), budget, still_vesting, Mode.UP_TO)
        )
    if still_vesting < amount:
        postings += [
            Posting(Account("available", user_id, asset), budget, amount, Mode.UP_TO),
            Posting(Account("reserve", user_id, asset), budget, amount, Mode.UP_TO),
            Posting(Account("debt", user_id, asset), budget, amount, Mode.REST),
        ]
    return tuple(postings)


def request(user_id: int, total: Money) -> Postings:
    """Set aside amount and fee of a withdrawal."""
    asset = total.currency
    return (Posting(Account("available", user_id, asset), Account("held", user_id, asset), total),)


def release(user_id: int, total: Money) -> Postings:
    """Give back what was set aside."""
    asset = total.currency
    return (Posting(Account("held", user_id, asset), Account("available", user_id, asset), total),)


def paid(
    user_id: int, rail_account_id: int, amount: Money, fee: Money, payout: Money | None = None
) -> Postings:
    """The rail paid: the payout is in clearing until a statement shows it, the fee is ours.

    `payout` is what the amount was exchanged for, if it was: then our position takes the one in and
    gives the other out.
    """
    payout = payout or amount
    held = Account("held", user_id, amount.currency)
    clearing = Account("clearing", rail_account_id, payout.currency)
    if payout.currency == amount.currency:
        postings = [Posting(held, clearing, amount)]
    else:
        postings = [
            Posting(held, Account("fx", HOUSE, amount.currency), amount),
            Posting(Account("fx", HOUSE, payout.currency), clearing, payout),
        ]
    if fee:
        postings.append(Posting(held, Account("fee_revenue", HOUSE, fee.currency), fee))
    return tuple(postings)


def returned(
    user_id: int,
    rail_account_id: int,
    amount: Money,
    payout: Money | None = None,
    fee_back: Money | None = None,
) -> Postings:
    """Money came back after it was paid: the user has again exactly what was given for it.

    After an exchange that is at the rate of then, whatever it is by now. `fee_back` is the fee,
    where it goes back too.
    """
    payout = payout or amount
    available = Account("available", user_id, amount.currency)
    clearing = Account("clearing", rail_account_id, payout.currency)
    if payout.currency == amount.currency:
        postings = [Posting(clearing, available, amount)]
    else:
        postings = [
            Posting(clearing, Account("fx", HOUSE, payout.currency), payout),
            Posting(Account("fx", HOUSE, amount.currency), available, amount),
        ]
    if fee_back:
        fees = Account("fee_revenue", HOUSE, fee_back.currency)
        postings.append(Posting(fees, available, fee_back))
    return tuple(postings)


def booked_out(rail_account_id: int, treasury_cell: int, amount: Money) -> Postings:
    """In the payout's cell: a statement shows the payment."""
    clearing = Account("clearing", rail_account_id, amount.currency)
    return (Posting(clearing, Account("intercell", treasury_cell, amount.currency), amount),)


def booked_cash(rail_account_id: int, payout_cell: int, amount: Money) -> Postings:
    """In the treasury cell: the same payment leaves the account."""
    cash = Account("cash", rail_account_id, amount.currency)
    return (Posting(Account("intercell", payout_cell, amount.currency), cash, amount),)


def unbooked_out(rail_account_id: int, treasury_cell: int, amount: Money) -> Postings:
    """In the payout's cell: a statement shows the payment coming back."""
    clearing = Account("clearing", rail_account_id, amount.currency)
    return (Posting(Account("intercell", treasury_cell, amount.currency), clearing, amount),)


def unbooked_cash(rail_account_id: int, payout_cell: int, amount: Money) -> Postings:
    """In the treasury cell: the returned payment is on the account again."""
    cash = Account("cash", rail_account_id, amount.currency)
    return (Posting(cash, Account("intercell", payout_cell, amount.currency), amount),)


def lease_out(campaign_id: int, cell: int, amount: Money) -> Postings:
    """In the home cell: a slice of a budget goes to another cell."""
    budget = Account("budget", campaign_id, amount.currency)
    return (Posting(budget, Account("intercell", cell, amount.currency), amount),)


def lease_in(campaign_id: int, home_cell: int, amount: Money) -> Postings:
    """In the other cell: the slice arrives."""
    budget = Account("budget", campaign_id, amount.currency)
    return (Posting(Account("intercell", home_cell, amount.currency), budget, amount),)


def topup_out(from_rail_account_id: int, amount: Money) -> Postings:
    """Money left one of our accounts for another one."""
    cash = Account("cash", from_rail_account_id, amount.currency)
    return (Posting(Account("transit", HOUSE, amount.currency), cash, amount),)


def topup_in(to_rail_account_id: int, amount: Money) -> Postings:
    """Money arrived from another of our accounts."""
    cash = Account("cash", to_rail_account_id, amount.currency)
    return (Posting(cash, Account("transit", HOUSE, amount.currency), amount),)


def paid_in(rail_account_id: int, target: Account, amount: Money) -> Postings:
    """A payer has paid at the provider: for a campaign's budget, or what a user may withdraw.

    A user who owes pays that back first.
    """
    incoming = Account("incoming", rail_account_id, amount.currency)
    credit = Posting(incoming, target, amount)
    if target.kind != "available":
        return (credit,)
    return credit, recover(target.owner_id, amount)


def payin_booked(rail_account_id: int, treasury_cell: int, amount: Money) -> Postings:
    """In the charge's cell: a statement shows the payment to us."""
    incoming = Account("incoming", rail_account_id, amount.currency)
    return (Posting(Account("intercell", treasury_cell, amount.currency), incoming, amount),)


def payin_refund_request(rail_account_id: int, target: Account, amount: Money) -> Postings:
    """Set aside what is to be given back to a payer, out of where it went."""
    return (Posting(target, Account("refunds", rail_account_id, amount.currency), amount),)


def payin_refund_done(rail_account_id: int, amount: Money) -> Postings:
    """The provider has given it back."""
    aside = Account("refunds", rail_account_id, amount.currency)
    return (Posting(aside, Account("incoming", rail_account_id, amount.currency), amount),)


def payin_refund_failed(rail_account_id: int, target: Account, amount: Money) -> Postings:
    """It was not given back: it is where it was again."""
    return (Posting(Account("refunds", rail_account_id, amount.currency), target, amount),)


def payin_refund_booked(rail_account_id: int, treasury_cell: int, amount: Money) -> Postings:
    """In the charge's cell: a statement shows the refund."""
    incoming = Account("incoming", rail_account_id, amount.currency)
    return (Posting(incoming, Account("intercell", treasury_cell, amount.currency), amount),)


def rail_fee(rail_account_id: int, amount: Money) -> Postings:
    """The rail took a fee from our account."""
    asset = amount.currency
    expense = Account("rail_fees", rail_account_id, asset)
    return (Posting(expense, Account("cash", rail_account_id, asset), amount),)


def rail_fee_back(rail_account_id: int, amount: Money) -> Postings:
    """The rail gave back what it had charged."""
    asset = amount.currency
    expense = Account("rail_fees", rail_account_id, asset)
    return (Posting(Account("cash", rail_account_id, asset), expense, amount),)


def explain(rail_account_id: int, against: Account, amount: Money) -> Postings:
    """A person says what a suspended line was; positive came in, negative went out."""
    suspense = Account("suspense", rail_account_id, amount.currency)
    if amount.minor < 0:
        return (Posting(against, suspense, -amount),)
    return (Posting(suspense, against, amount),)


def suspend(rail_account_id: int, amount: Money) -> Postings:
    """A line that nobody can explain yet; positive came in, negative went out."""
    cash = Account("cash", rail_account_id, amount.currency)
    suspense = Account("suspense", rail_account_id, amount.currency)
    if amount.minor < 0:
        return (Posting(suspense, cash, -amount),)
    return (Posting(cash, suspense, amount),)


def write_off(user_id: int, amount: Money, campaign_id: int | None = None) -> Postings:
    """Give up what a user owes. A campaign that bears it does so as far as its budget reaches."""
    asset = amount.currency
    loss, debt = Account("loss", HOUSE, asset), Account("debt", user_id, asset)
    if campaign_id is None:
        return (Posting(loss, debt, amount),)
    return (
        Posting(Account("budget", campaign_id, asset), debt, amount, Mode.UP_TO),
        Posting(loss, debt, amount, Mode.REST),
    )


def write_off_undone(
    user_id: int, amount: Money, campaign_id: int | None, from_budget: Money
) -> Postings:
    """What was given up is owed again, and paid back from what the user has by now."""
    asset = amount.currency
    debt = Account("debt", user_id, asset)
    postings: list[Posting] = []
    if campaign_id is not None and from_budget:
        postings.append(Posting(debt, Account("budget", campaign_id, asset), from_budget))
    if from_budget < amount:
        postings.append(Posting(debt, Account("loss", HOUSE, asset), amount - from_budget))
    back = [Account(kind, user_id, asset) for kind in ("available", "reserve")]
    return (*postings, *(Posting(one, debt, amount, Mode.UP_TO) for one in back))
