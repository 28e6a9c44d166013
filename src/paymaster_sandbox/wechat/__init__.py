"""WeChat Pay, played: transfers to users, payments by users, their notices and their bills.

    provider        the whole of it in one object, as the world mounts it
    keys, crypto    what it signs with, and how; it holds only the public keys of merchants
    parties         merchants, their apps and their users
    envelope        APIv3: signed requests in, signed answers out
    xml, envelope2  APIv2: XML with a keyed digest, some of it over client certificates
    mishaps         everything that goes wrong on demand
    transfers       transfers that the user confirms, or has agreed to once
    batches         batches of transfers
    enterprise      the old APIv2 transfers
    orders          payments by users, their refunds
    linking         the OAuth pages and tokens
    flow, bills     the movements of the merchant's accounts, and the daily files over them
    notices         what it tells the merchant by itself
    control         the knobs, and a hand to play the user with

Everything is CNY in fen. The rules come from the public documentation; what it leaves open is said
in `docs/reference/sandbox-wechat.md`.
"""
