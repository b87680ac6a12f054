-- What the last sync saw of the store's pages, so that the next one looks only at others (readers/pages.py). Of at most
-- one row: a sync that writes clears it everywhere else, because it is only true of the mirror as that one sync left it.
ALTER TABLE mlflow.sync_state ADD COLUMN memory BLOB;
