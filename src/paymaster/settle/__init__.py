"""Hearing what became of it: webhooks and files from providers, kept first, applied afterwards.

envelope   what a provider has said, under the seal
notice     an authenticated message about a payment, as it lies in an inbox
inboxes    into the inbox of the cell of its reference, or where people look
webhook    take one in: verify, keep, acknowledge
files      fetch, keep sealed, read: answers go to inboxes, statements to reconciliation
apply      what lies in an inbox changes attempts, through `dispatch.outcome` alone
payin_*    the same for messages about money that came in, through `paymaster.payin`
unmatched  what could not be applied, for people to look at
"""
