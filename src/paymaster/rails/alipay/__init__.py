"""Payments to and from Alipay accounts, in certificate mode.

    v3        one address for each method; requests and answers signed in their headers
    gateway   the older single address; parameters and answers signed together

`certificates` (their idea of a serial number, the keyring), `rest` and `gateway` (signed calls),
`calls` (either, by the account's setting), `codes` (what each of their errors proves); then a file
for each verb: `prepare`, `send`, `query`, `notices`, `bills`, `settings`. Money that comes in has
files of its own: `payin`, `payin_refunds`, `payin_notices`. `rail` is the door.
"""
