-- applies-to: cell
-- Every event of a user changes the state of a task: the new version finds room in its page, and no
-- index is touched.
ALTER TABLE task_state SET (fillfactor = 60);

-- Each row of a foreign key is a query of its own, and locks the row of `legal_move`: half of what
-- it cost to write a move, and two writers who share such a lock make a multixact of it each time.
-- The moves of a batch are of few kinds; each kind is looked up in `legal_move` once, before they
-- are written.
ALTER TABLE reward_move DROP CONSTRAINT reward_move_machine_source_event_target_fkey;

ALTER TABLE task_move DROP CONSTRAINT task_move_machine_source_event_target_fkey;

-- Where a round over more campaigns than fit into one go stands: it goes on after this one.
CREATE TABLE earn_round (
    name text PRIMARY KEY,
    after_id bigint NOT NULL
);
