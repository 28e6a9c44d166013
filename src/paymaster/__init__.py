"""Paymaster: the self-hosted backend of an app that pays its users.

The packages follow the money, and imports only ever point up this list:

    kernel      pure values: money, ids, machines, errors, clock, retry
    settings    what an operator can set
    observe     logs, metrics, trace ids
    secrets     the one key port: stores, key wrapping, signers
    db          cells, transactions, outbox, inbox, idempotency, due work, audit
    rails       one interface to the outside; one folder per way of paying
    ledger      the books: accounts, entries, postings, holds, proof
    people      users, credentials, payout destinations
    messages    webhooks to the app's servers, email, a broker
    earn        campaigns, tasks, events, verification, rewards
    withdraw    the request and its machine (read `withdraw/machine.py` first)
    screen      rules that decide whether a withdrawal may go
    dispatch    sending, and finding out what became of it
    payin       asking for money, and crediting it when it came
    settle      webhooks, bank answers and returns applied
    reconcile   statements matched, breaks, the day closed
    funding     what users are owed against what is there
    api         HTTP to apps, users and operators
    compose     the one place where parts are wired together
    roles       one file per process
    removal     an environment removed, with proof
    cli         the command line
"""

__version__ = "0.1.0"
