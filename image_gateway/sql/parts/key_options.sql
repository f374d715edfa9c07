-- What the control plane has no column for, key by key; a key without a row has none of it and may
-- make images, as it may there.
CREATE TABLE IF NOT EXISTS key_options (
    key_id                  text PRIMARY KEY,
    image_enabled           boolean NOT NULL DEFAULT true,
    max_concurrency         integer CHECK (max_concurrency >= 0),
    min_start_interval_ms   integer CHECK (min_start_interval_ms >= 0),
    images_remaining        bigint,
    json_keepalive_seconds  integer CHECK (json_keepalive_seconds >= 0)
);

CREATE OR REPLACE TRIGGER tell_key_options
    AFTER INSERT OR DELETE OR TRUNCATE ON key_options
    FOR EACH STATEMENT EXECUTE FUNCTION tell('keys');

-- Charges count the pictures down; only whether any are left is told.
CREATE OR REPLACE TRIGGER tell_key_option
    AFTER UPDATE ON key_options
    FOR EACH ROW
    WHEN ((OLD.key_id, OLD.image_enabled, OLD.max_concurrency, OLD.min_start_interval_ms,
           OLD.images_remaining > 0, OLD.json_keepalive_seconds)
          IS DISTINCT FROM
          (NEW.key_id, NEW.image_enabled, NEW.max_concurrency, NEW.min_start_interval_ms,
           NEW.images_remaining > 0, NEW.json_keepalive_seconds))
    EXECUTE FUNCTION tell('keys');
