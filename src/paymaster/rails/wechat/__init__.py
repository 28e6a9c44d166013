"""Payments to WeChat wallets: four products of one provider behind one rail.

    transfer-bills   the payee accepts each transfer in WeChat (the product of new merchants)
    authorised       the payee has agreed once; transfers then need no further act
    batches          batches of one transfer (merchants of before 2025)
    transfers-v2     the old enterprise payment: XML, and a client certificate

`crypto` (signatures and ciphers of v3), `v2` (XML, digests), `calls` (signed calls of both),
`wire` (their words into ours), `codes` (what each of their errors proves); then a file for each
verb: `prepare`, `send`, `query`, `cancel`, `authorise`, `notices`, `bills`, `check`. `rail` is the
door.

Money that comes in has files of its own, over either API: `payin` (charges), `payin_refunds`,
`payin_notices`, and what they share, `payin_settings`, `payin_wire`, `payin_codes`, `payin_old`
(APIv2) and `payin_checkout` (what the payer's side is given).
"""
