-- applies-to: cell
-- The quotes of a user that are still good: there may only be so many.
CREATE INDEX quote_open ON quote (user_id, expires_at) WHERE withdrawal_id IS NULL;
