"""Linking: a user shows that an account with a wallet provider is his own (SPEC P7).

    providers   where and as which app we ask, for each environment
    begin       a way to the provider: bound to the user and the browser, 10 minutes, once
    exchange    the code that the browser brought back, for who it is
    finish      one exchange a way, however often the browser comes; then the link
    manage      what is linked; unlink

A linked identity becomes a payout destination, with the same cooling-off. Only the identity is
kept, sealed in the destination; the provider's tokens are thrown away, because no payout needs one.
One identity belongs to one user of an environment: the directory knows it by its fingerprint.
"""
