-- applies-to: control
-- When a rail account's settings were changed: an order from before may have gone to another
-- merchant, so that one's "not found" proves nothing, and its bytes do not go again.
ALTER TABLE rail_account ADD COLUMN settings_at timestamptz;
