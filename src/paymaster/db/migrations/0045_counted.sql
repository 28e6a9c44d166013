-- applies-to: cell
-- How many kept events count towards a user's task, and of which type they all are; '' where they
-- are of several, as the rule was another one when some of them came. A pattern that asks for nothing
-- but a number is decided by these; of the others only those are looked at event by event that
-- have enough of them.
ALTER TABLE task_state ADD COLUMN counted integer NOT NULL DEFAULT 0,
    ADD COLUMN counted_type text NOT NULL DEFAULT '';

UPDATE task_state s SET counted = e.counted, counted_type = e.type
FROM (
    SELECT user_id, task_id, count(*) AS counted,
        CASE WHEN min(type) = max(type) THEN min(type) ELSE '' END AS type
    FROM event WHERE outcome = 'counts' GROUP BY 1, 2
) e
WHERE s.user_id = e.user_id AND s.task_id = e.task_id;

-- By task first: the events of a day are of few tasks, so their places in the index lie together.
DROP INDEX event_counted;

CREATE INDEX event_counted ON event (task_id, user_id, occurred_at) WHERE outcome = 'counts';
