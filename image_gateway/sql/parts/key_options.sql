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
    AFTER INSERT OR DELETE OR TRUNCATE
    OR UPDATE OF key_id, image_enabled, max_concurrency, min_start_interval_ms,
                 json_keepalive_seconds
    ON key_options
    FOR EACH STATEMENT EXECUTE FUNCTION tell('keys');

-- Charges may count the pictures down; only a change of whether any are left is notified.
CREATE OR REPLACE TRIGGER tell_images_remaining
    AFTER UPDATE OF images_remaining ON key_options
    FOR EACH ROW
    WHEN ((OLD.images_remaining > 0) IS DISTINCT FROM (NEW.images_remaining > 0))
    EXECUTE FUNCTION tell('keys');
