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
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON key_options
    FOR EACH STATEMENT EXECUTE FUNCTION tell('keys');
