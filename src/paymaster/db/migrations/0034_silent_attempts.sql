-- applies-to: cell
-- Orders that were taken in and that nobody can be asked about: warned about when they get old.
CREATE INDEX attempt_silent ON attempt (created_at, id) WHERE state = 'sent' AND due_at IS NULL;
