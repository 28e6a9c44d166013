-- applies-to: cell
-- Lines that say only that money was set apart for a payment, or is no longer: `apart` is the mark of
-- an attempt that such a line was booked on, before its provider had said what became of it.
ALTER TABLE attempt ADD COLUMN apart boolean NOT NULL DEFAULT false;

-- Refused, and seen leaving or coming back but not both: one of the lines is still to come.
CREATE INDEX attempt_one_line ON attempt (rail_account_id, id)
    WHERE state = 'rejected' AND (booked_on IS NULL) <> (returned_on IS NULL);
