"""Second factors of earners, and the proofs that acts ask for.

policy      which acts of an environment need a proof
binding     what a proof is for: its purpose, amount and payee
enrol       a factor is begun, then confirmed by its first use
manage      factors shown, renamed, removed, reset; recovery codes made anew
step_ups    a proof is asked for, then given
proof       a proof is held against an act and used up in its transaction
guard       one row a user: serialises, and says until when a cooling-off lasts
totp, passkeys, recovery    the three kinds of answer

Whatever touches the factors of a user first locks the guard row of that user.
"""
