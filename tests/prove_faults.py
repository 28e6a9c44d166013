"""Every way to alter books past all rights, and the check of `prove` that must name it."""

from __future__ import annotations

PICKED = "(SELECT id FROM posting ORDER BY id OFFSET 50 LIMIT 1)"
FAULTS = {
    "account balance": (
        ("UPDATE account SET balance = balance + 1 WHERE owner_id = 3",),
        "balance",
    ),
    "two balances": (
        (
            "UPDATE account SET balance = balance + 1 WHERE owner_id = 3",
            "UPDATE account SET balance = balance - 1 WHERE owner_id = 4",
        ),
        "balance",
    ),
    "number of postings": (
        ("UPDATE account SET postings = postings + 5 WHERE owner_id = 3",),
        "posting-count",
    ),
    "last posting": (
        ("UPDATE account SET last_posting_id = last_posting_id - 1 WHERE owner_id = 3",),
        "posting-count",
    ),
    "currency of an account": (
        ("UPDATE account SET asset = 'USD' WHERE owner_id = 3",),
        "currency",
    ),
    "currency of a posting": (
        (f"UPDATE posting SET asset = 'USD' WHERE id = {PICKED}",),
        "currency",
    ),
    "account gone": (("DELETE FROM account WHERE owner_id = 3",), "account-missing"),
    "amount": ((f"UPDATE posting SET amount = amount + 1 WHERE id = {PICKED}",), "history"),
    "link": (
        (f"UPDATE posting SET destination_previous = 7 WHERE id = {PICKED}",),
        "history",
    ),
    "running number": (
        (
            (
            "UPDATE posting SET destination_number = destination_number + 1"
            f" WHERE id = {PICKED}"
            ),
        ),
        "history",
    ),
    "balance after": (
        (f"UPDATE posting SET source_balance = source_balance - 2 WHERE id = {PICKED}",),
        "history",
    ),
    "sides exchanged": (
        (
            (
            "UPDATE posting SET source_id = destination_id, destination_id = source_id"
            f" WHERE id = {PICKED}"
            ),
        ),
        "history",
    ),
    "posting gone": ((f"DELETE FROM posting WHERE id = {PICKED}",), "entry-postings"),
    "posting moved to another entry": (
        (
            (
            "UPDATE posting SET entry_id = (SELECT min(id) FROM entry)"
            f" WHERE id = {PICKED}"
            ),
        ),
        "posting-entry",
    ),
    "posting without entry": (
        (f"UPDATE posting SET entry_id = 12 WHERE id = {PICKED}",),
        "posting-entry",
    ),
    "entry gone": (
        (f"DELETE FROM entry WHERE id = (SELECT entry_id FROM posting WHERE id = {PICKED})",),
        "posting-entry",
    ),
    "count of an entry": (
        ("UPDATE entry SET postings = 9 WHERE id = (SELECT max(id) FROM entry)",),
        "entry-postings",
    ),
    "range of an entry": (
        (
            (
            "UPDATE entry SET first_posting_id = first_posting_id + 1"
            " WHERE id = (SELECT max(id) FROM entry WHERE postings > 0)"
            ),
        ),
        "posting-entry",
    ),
    "range of an entry with one posting": (
        (
            (
                "UPDATE entry SET last_posting_id = last_posting_id + 1"
                " WHERE id = (SELECT max(id) FROM entry WHERE postings = 1)"
            ),
        ),
        "entry-postings",
    ),
    "range of an entry with two postings": (
        (
            (
                "UPDATE entry SET last_posting_id = last_posting_id + 1"
                " WHERE id = (SELECT max(id) FROM entry WHERE postings = 2)"
            ),
        ),
        "entry-postings",
    ),
    "entry with three postings": (
        (
            (
                "UPDATE entry SET postings = 2"
                " WHERE id = (SELECT max(id) FROM entry WHERE postings = 3)"
            ),
        ),
        "entry-postings",
    ),
    "commit of an entry": (
        ("UPDATE entry SET commit_id = 5 WHERE id = (SELECT max(id) FROM entry)",),
        "entry-commit",
    ),
    "place in the commit": (
        ("UPDATE entry SET ordinal = 77 WHERE id = (SELECT max(id) FROM entry)",),
        "entry-commit",
    ),
    "commit gone": (
        ("DELETE FROM commit WHERE last_seq = (SELECT min(last_seq) FROM commit)",),
        "commit-order",
    ),
    "head behind": (("UPDATE head SET seq = seq - 1",), "head"),
    "time of the head": (
        ("UPDATE head SET recorded_at = recorded_at + interval '1 year'",),
        "head",
    ),
    "floor": (("UPDATE account SET floor = 900000 WHERE owner_id = 3",), "bounds"),
    "no floor": (("UPDATE account SET floor = NULL WHERE owner_id = 3",), "chart"),
    "ceiling": (("UPDATE account SET ceiling = 900000 WHERE owner_id = 3",), "chart"),
    "scale": (("UPDATE account SET scale = 3 WHERE owner_id = 3",), "chart"),
    "kind of an account": (("UPDATE account SET kind = 'gift' WHERE owner_id = 3",), "chart"),
    "hold": (("UPDATE hold SET remaining = remaining - 1",), "holds"),
    "hold gone": (("DELETE FROM hold",), "holds"),
    "hold of another account": (("UPDATE hold SET available_id = held_id",), "hold-account"),
    "mark on another posting": (
        ("UPDATE account_mark SET posting_id = posting_id - 1",),
        "history-mark",
    ),
    "mark gone": (("DELETE FROM account_mark",), "history-mark"),
    "late leg with another amount": (("UPDATE late_leg SET amount = amount + 1",), "late-leg"),
    "late leg gone": (("DELETE FROM late_leg",), "late-leg"),
}  # fmt: skip
