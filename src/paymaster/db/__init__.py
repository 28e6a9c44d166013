"""PostgreSQL: cells, transactions, messages in and out, callers' keys, leases, the audit trail."""
