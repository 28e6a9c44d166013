"""What the application's database role may do to each table.

Facts are inserted and read, never changed: no UPDATE, no DELETE. State tables may change exactly
the columns that carry state. A test compares this list with the catalogue of a migrated schema,
table by table and partition by partition.
"""

from __future__ import annotations

APPEND_ONLY = frozenset({
    "commit", "trace_commit", "outbox", "audit", "entry", "posting", "account_mark", "late_leg",
    "legal_move",
    "event", "answer", "progress", "dead_letter", "slice_wait", "task_move", "reward_move",
    "withdrawal_move", "applied_rule_set", "verdict", "transfer_move", "statement", "recon_run",
    "day_close", "proof", "environment", "cell", "rule_set", "registry", "directory", "seal",
})  # fmt: skip
"""Tables whose rows never change."""

READ_ONLY = frozenset({"schema_version", "archive"})
"""Tables that only the owner writes: migrations, archiving."""

UPDATABLE: dict[str, tuple[str, ...]] = {
    "head": ("seq", "recorded_at", "closed_through"),
    "worker": ("holder", "token", "last_ms", "expires_at"),
    "lease": ("holder", "token", "expires_at"),
    "permit": ("number",),  # needed for FOR UPDATE; the number is never changed
    "cursor": ("seq",),
    "aside": ("tries", "slug", "detail", "due_at", "done_at"),
    "inbox": ("due_at", "tries", "lease_token", "done_at", "result"),
    "idempotency": ("status", "answer"),
    # cells
    "account": ("balance", "postings", "last_posting_id", "closed_at"),
    "hold": ("remaining", "state", "version"),
    "app_user": ("status", "status_reason", "version"),
    "data_key": ("wrapped", "kek_id"),
    "pii": ("sealed", "updated_at"),
    "destination": ("state", "closed_reason", "usable_at", "version"),
    "task_state": ("state", "number", "rewards", "expires_at", "updated_at", "version"),
    "reward": ("state", "remaining", "due_at", "lease_token", "version"),
    "slice": ("granted", "state", "answered_at"),
    "earn_round": ("after_id",),
    "slice_lease": ("grants", "idle", "recalled", "refuse"),
    "withdrawal": (
        "state", "number", "rail_account_id", "reason", "due_at", "tries", "lease_token", "version",
    ),
    "batch": ("state", "tries", "due_at", "lease_token", "sent_at", "detail", "version"),
    "attempt": (
        "state", "provider_id", "code", "detail", "tries", "due_at", "lease_token", "resolved_at",
        "booked_on", "booked_line", "returned_on", "returned_line", "version",
    ),
    "payout_window": ("due_at", "lease_token", "version"),
    "transfer": ("state", "number", "due_at", "lease_token", "version"),
    "rail_file": ("state", "slug", "detail"),
    "statement_line": (
        "state", "posted_id", "accepted", "matched", "given_reference", "due_at", "version",
    ),
    "break": (
        "found", "expected", "detail", "state", "owner", "resolution", "resolved_by",
        "resolved_at", "version",
    ),
    # control
    "credential": ("expires_at", "revoked_at", "last_used_on"),
    "sponsor": ("name",),
    "campaign": (
        "name", "ends_at", "state", "when_exhausted", "vesting_seconds", "targeting", "version",
    ),
    "task": (
        "title", "reward_minor", "verification", "requirements", "user_cap", "expires_at", "state",
        "version",
    ),
    "gold": ("answer",),
    "rail_account": (
        "settings", "secrets", "time_zone", "payout_window", "state", "version",
    ),
}  # fmt: skip
"""Columns that the application may change; all other columns stay as they were inserted."""

DELETABLE = frozenset({"idempotency", "pii", "data_key", "slice_wait"})
"""Tables from which rows may go: expired keys, personal data on erasure, asks that were served."""
