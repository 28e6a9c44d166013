-- applies-to: cell
-- What a provider said no with in answer to the last try of an order, where that by itself proves
-- nothing: it is believed once the provider does not know the order. `put_off`: it was no more than
-- "not now", so the same bytes go again for as long as that is safe.
ALTER TABLE batch ADD COLUMN doubted_no text, ADD COLUMN put_off boolean NOT NULL DEFAULT false;
