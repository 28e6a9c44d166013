"""Statements against the books: what the bank says, line by line, until the day can be closed.

    statement   a provider's statement of a day, kept once, checked against the one before
    decide      what a line is (pure); `catalogue` finds campaigns in remittance texts
    match       the loop over lines that nobody has looked at
    book        in the payout's cell: the payment that a line proves; `answer` is the way back
    conclude    the one place where a line is posted, matched or suspended
    breaks      what does not match: opened, aged, assigned; `resolve` ends them, `gap` one kind
    run         the balance proof of one account and day; `unbooked` is what never came
    close       the day, proven, closed in every cell and signed
    proof       every line against its posting
    day         proofs, runs and closing over all cells
    view        pages of statements and lines; `trace` follows one line to its withdrawal

Money only moves in the books when a statement says so: the cash accounts equal the statements by
construction, and what nobody can explain lies in suspense with a break that has an owner.
"""
