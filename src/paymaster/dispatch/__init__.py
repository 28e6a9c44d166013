"""Sending it: an approved withdrawal becomes an order to a provider, once.

    accounts   our accounts at providers, as the directory has them
    policy     whether another account may pay, how often; what is automatic
    route      which of them pays a withdrawal, and why
    choosing   the same for a batch
    window     when the next file of an account leaves
    batch      tx 1: the intent, with the exact bytes, committed before the network is touched
    send       the network, outside any transaction; then tx 2: what the provider said
    resolve    what nobody answered: ask again, or send the same bytes under the same key
    decide     what a person found out about it, the last way
    proof      why a dead order pays nobody: without it there is no other order
    failover   what follows a dead order: another account, the same one later, or the end
    unknowns   what nobody can tell about for too long: warnings, and what comes next
    confirmation  what a payee needs to accept a payment, and the wish to take it back
    outcome    the one place where an answer changes an attempt and what it pays
    transfer   the company's own money between two of its accounts
    answered   a provider is asked while somebody waits for the answer
    failures   what a provider's code means, to the earner and to the operator
    under_way  what the loop sets going and does not wait for
    run        the loop, with a lane for each account so that one sick rail delays no other

Three answers come from the outside: yes, no, unknown. Unknown is a state, never a guess.
"""
