"""What the application's database role may do to each table.

Facts are inserted and read, never changed: no UPDATE, no DELETE. State tables may change exactly
the columns that carry state. A test compares this list with the catalogue of a migrated schema,
table by table and partition by partition.
"""

from __future__ import annotations

APPEND_ONLY = frozenset({
    "commit", "trace_commit", "outbox", "audit", "entry", "posting", "account_mark", "late_leg",
    "legal_move",
    "event", "answer", "dead_letter", "slice_wait", "task_move", "reward_move",
    "withdrawal_move", "applied_rule_set", "verdict", "transfer_move", "statement", "recon_run",
    "day_close", "proof", "environment", "cell", "rule_set", "registry", "directory", "seal",
    "login_used", "issuer_audience", "kyc_record", "earning_policy",
    "applied_policy", "reward_reversal", "fee_plan", "fx_rate",
    "attempt_proof", "automatic_run",
})  # fmt: skip
"""Tables whose rows never change."""

READ_ONLY = frozenset({"schema_version", "archive", "progress", "environment_removal"})
"""Tables that only the owner writes: migrations, archiving, removals. Nobody writes `progress` any
more: a process of an older version, which would count without what newer ones keep, fails there."""

UPDATABLE: dict[str, tuple[str, ...]] = {
    "head": ("seq", "recorded_at", "closed_through"),
    "worker": ("holder", "token", "last_ms", "expires_at"),
    "lease": ("holder", "token", "expires_at"),
    "permit": ("number",),  # needed for FOR UPDATE; the number is never changed
    "cursor": ("seq",),
    "aside": ("tries", "slug", "detail", "due_at", "done_at"),
    "float_fence": ("token",),
    "rail_outflow": ("amount",),
    "funding_state": ("short", "changed_at"),
    "broker_aside": ("tries", "detail", "due_at", "done_at"),
    "inbox": ("due_at", "tries", "lease_token", "done_at", "result", "sealed"),
    "rewrap": ("key_id", "since", "started_at", "after_key", "changed", "missed", "done_at"),
    "sealed_key": ("wrapped", "kek_id"),
    "day_draft": ("day",),  # needed for FOR UPDATE; the day is never changed
    "idempotency": ("status", "answer"),
    # cells
    "test_clock": ("ahead_seconds",),
    "account": ("balance", "postings", "last_posting_id", "closed_at"),
    "hold": ("remaining", "state", "version"),
    "app_user": ("status", "status_reason", "version"),
    "data_key": ("wrapped", "kek_id"),
    "pii": ("sealed", "updated_at"),
    "destination": (
        "state", "closed_reason", "usable_at", "version", "fingerprint", "paused_code", "paused_at",
        "resumed_at",
    ),
    "factor": (
        "state", "sealed", "credential_hash", "counter", "challenge", "expires_at", "confirmed_at",
        "last_used_at", "version",
    ),
    "recovery_code": ("used_at",),
    "step_up": (
        "state", "passkeys", "method", "factor_id", "used_for", "expires_at", "verified_at",
        "used_at", "version",
    ),
    "factor_guard": ("cooling_until", "version"),
    "task_state": (
        "state", "number", "rewards", "expires_at", "updated_at", "version", "barred", "counted",
        "counted_type",
    ),
    "reward": (
        "state", "remaining", "due_at", "lease_token", "version", "matures_at", "taken",
        "waits_for", "exempt",
    ),
    "reserve": ("remaining", "due_at", "released", "released_at", "version"),
    "early_reversal": ("due_at", "met_at"),
    "chargeback_day": ("rewards", "credited", "reversed"),
    "payout_wait": ("seconds", "since", "version"),
    "write_off": ("state", "undone_reason", "undone_by", "undone_at", "version"),
    "slice": ("granted", "state", "answered_at"),
    "earn_round": ("after_id",),
    "slice_lease": ("grants", "idle", "recalled", "refuse"),
    "withdrawal": (
        "state", "number", "rail_account_id", "reason", "due_at", "tries", "lease_token", "version",
    ),
    "quote": ("withdrawal_id",),
    "legal_hold": ("lifted_by", "lift_reason", "lifted_at", "version"),
    "batch": (
        "state", "tries", "due_at", "lease_token", "sent_at", "detail", "version", "sealed",
        "ended", "ended_at", "doubted_no", "put_off",
    ),
    "attempt": (
        "state", "provider_id", "code", "detail", "tries", "due_at", "lease_token", "resolved_at",
        "booked_on", "booked_line", "returned_on", "returned_line", "version", "alerted",
        "cancel_at", "apart",
    ),
    "automatic_payout": (
        "mode", "destination_id", "minimum", "at_most", "every", "on_day", "own", "proven",
        "due_at", "last_at", "last_slug", "last_detail", "last_withdrawal_id", "changed_at",
        "version",
    ),
    "confirmation": ("sealed", "expires_at"),
    "charge": (
        "state", "maybe_there", "found", "provider_id", "code", "detail", "refunded", "opened_at",
        "close_at", "paid_at", "ended_at", "booked_on", "booked_line", "due_at", "tries",
        "lease_token", "sealed", "alerted", "version",
    ),
    "charge_refund": (
        "state", "maybe_there", "found", "provider_id", "code", "detail", "ended_at", "booked_on",
        "booked_line", "due_at", "tries", "lease_token", "alerted", "version",
    ),
    "link_way": ("state", "code_hash", "lease_until", "slug", "link_id", "version"),
    "link": ("state", "owner_id", "owner_version", "unlinked_at", "version"),
    "payout_window": ("due_at", "lease_token", "version"),
    "transfer": ("state", "number", "due_at", "lease_token", "version"),
    "rail_file": ("state", "slug", "detail", "sealed"),
    "statement_line": (
        "state", "posted_id", "accepted", "matched", "given_reference", "due_at", "version",
        "sealed",
    ),
    "break": (
        "found", "expected", "detail", "state", "owner", "resolution", "resolved_by",
        "resolved_at", "version",
    ),
    "webhook_delivery": (
        "state", "tries", "due_at", "lease_token", "status", "outcome", "duration_ms", "tried_at",
        "created_at",
    ),
    "webhook_order": ("endpoint_id",),  # needed for FOR UPDATE; the id is never changed
    "webhook_replay": ("at_seq", "queued", "done_at"),
    "mail": ("state", "tries", "due_at", "lease_token", "outcome", "tried_at"),
    # control
    "link_provider": (
        "settings", "secrets", "currency", "return_to", "enabled", "version", "changed_at",
    ),
    "link_owner": ("cell", "user_id", "owner_id", "version", "bound_at"),
    "payout_policy": (
        "failover", "most_orders", "tries_before_leaving", "automatic", "version", "changed_at",
    ),
    "lockout": ("failures", "counted_from", "failed_at", "locks", "locked_until"),
    "rate_bucket": ("per_minute", "left_milli", "filled_at"),
    "webhook_endpoint": (
        "url", "description", "types", "state", "disabled_reason", "failing_since", "version",
    ),
    "webhook_secret": ("sealed", "expires_at"),
    "step_up_policy": ("above_minor", "applies_to", "changed_at"),
    "credential": ("expires_at", "revoked_at", "last_used_on"),
    "issuer": ("enabled", "removed_at"),
    "person": ("name", "state", "version"),
    "person_identity": ("last_login_at",),
    "person_role": ("role", "given_at"),
    "identity_provider": (
        "secret_name", "email_domains", "groups_claim", "group_roles", "state", "version",
    ),
    "staff_session": ("used_at", "ended_at", "ended_why"),
    "break_glass": ("ended_at",),
    "four_eyes_limit": ("minor", "version", "changed_at"),
    "approval": ("state", "decider", "decider_id", "decided_at", "decision_reason"),
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
        "settings", "secrets", "time_zone", "payout_window", "state", "version", "settings_at",
    ),
}  # fmt: skip
"""Columns that the application may change; all other columns stay as they were inserted."""

DELETABLE = frozenset({
    "idempotency", "lockout", "pii", "data_key", "rate_bucket", "slice_wait", "person_identity",
    "person_role", "login_used", "staff_session", "four_eyes_limit", "issuer_audience",
    "factor", "recovery_code", "step_up", "step_up_policy",
    "webhook_delivery", "webhook_replay", "webhook_secret", "mail", "day_draft", "quote",
    "confirmation", "link_way", "link_owner",
})  # fmt: skip
"""Tables from which rows may go: expired keys, personal data on erasure, asks that were served,
factors that were removed, step-ups long past, rules that were replaced, messages out and their
secrets after their time, days that were signed, quotes that nobody used,
what opened a provider's page for a payment that has its end, ways to link that are long over, and
whose a linked account was."""
