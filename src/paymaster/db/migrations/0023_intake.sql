-- applies-to: cell
-- What counts towards a pattern is read from the events themselves: a copy of each in a table of its own cost
-- as much as the event. `progress` keeps what was written there, for the blocks that seal it.
CREATE INDEX event_counted ON event (user_id, task_id, occurred_at) WHERE outcome = 'counts';
