"""Payments to wallets of the sandbox provider: one HTTP request a payment.

It is also the pattern for other HTTP rails: `wire` (their words into ours), `rail` (the calls),
`webhook` (verify, then read), `settlement` (the day's file).
"""
