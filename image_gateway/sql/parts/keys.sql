-- Groups, owners, keys and their quotas in tables of the gateway's own, and the view over them.

CREATE TABLE IF NOT EXISTS groups (
    group_id       text PRIMARY KEY,
    group_name     text NOT NULL DEFAULT '',
    image_enabled  boolean NOT NULL DEFAULT false,
    created_at     timestamptz NOT NULL DEFAULT now()
);

-- People or teams with several keys.
CREATE TABLE IF NOT EXISTS owners (
    owner_id         text PRIMARY KEY CHECK (length(owner_id) <= 256),
    owner_name       text NOT NULL DEFAULT '',
    max_concurrency  integer CHECK (max_concurrency >= 0),
    created_at       timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS keys (
    -- A log record holds no more of it, and charges go by the id in the record.
    key_id                 text PRIMARY KEY CHECK (length(key_id) <= 256),
    key_name               text NOT NULL DEFAULT '',
    key_hash               text NOT NULL UNIQUE CHECK (key_hash ~ '^[0-9a-f]{64}$'),
    status                 text NOT NULL DEFAULT 'active',
    image_enabled          boolean NOT NULL DEFAULT true,
    group_id               text REFERENCES groups,
    quota_limit            bigint,
    quota_used             bigint NOT NULL DEFAULT 0,
    max_concurrency        integer CHECK (max_concurrency >= 0),
    min_start_interval_ms  integer CHECK (min_start_interval_ms >= 0),
    allowed_models         text[],
    model_map              jsonb CHECK (jsonb_typeof(model_map) = 'object'),
    account_names          text[],
    route_strategy         text NOT NULL DEFAULT 'auto' CHECK (route_strategy IN ('fixed', 'auto')),
    created_at             timestamptz NOT NULL DEFAULT now()
);
-- The limits beside quota_limit are quotas in pictures and in money (USD), in total and for each day
-- and month (UTC); null is no limit.
ALTER TABLE keys
    ADD COLUMN IF NOT EXISTS owner_id text REFERENCES owners,
    ADD COLUMN IF NOT EXISTS expires_at timestamptz,
    ADD COLUMN IF NOT EXISTS json_keepalive_seconds integer CHECK (json_keepalive_seconds >= 0),
    ADD COLUMN IF NOT EXISTS image_limit bigint CHECK (image_limit >= 0),
    ADD COLUMN IF NOT EXISTS image_limit_day bigint CHECK (image_limit_day >= 0),
    ADD COLUMN IF NOT EXISTS image_limit_month bigint CHECK (image_limit_month >= 0),
    ADD COLUMN IF NOT EXISTS cost_limit numeric CHECK (cost_limit >= 0),
    ADD COLUMN IF NOT EXISTS cost_limit_day numeric CHECK (cost_limit_day >= 0),
    ADD COLUMN IF NOT EXISTS cost_limit_month numeric CHECK (cost_limit_month >= 0);
CREATE INDEX IF NOT EXISTS keys_owner_id ON keys (owner_id);

-- What was charged to a key in the span that began on a day: one row a span, the newest.
CREATE TABLE IF NOT EXISTS key_usage (
    key_id  text NOT NULL REFERENCES keys ON DELETE CASCADE,
    span    text NOT NULL CHECK (span IN ('total', 'day', 'month')),
    since   date NOT NULL,
    images  bigint NOT NULL DEFAULT 0,
    cost    numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (key_id, span)
);

-- The day on which the span began that holds a moment.
CREATE OR REPLACE FUNCTION span_start(span text, moment timestamptz) RETURNS date
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE span WHEN 'day' THEN (moment AT TIME ZONE 'UTC')::date
                     WHEN 'month' THEN date_trunc('month', moment AT TIME ZONE 'UTC')::date
                     ELSE date '1970-01-01' END;

-- A view calls functions with the rights of the role that reads it.
GRANT EXECUTE ON FUNCTION span_start TO PUBLIC;

-- The spans that hold the present moment, one row a key.
CREATE OR REPLACE VIEW key_used AS
SELECT key_id,
       coalesce(sum(images) FILTER (WHERE span = 'total'), 0)::bigint AS images_used,
       coalesce(sum(images) FILTER (WHERE span = 'day'), 0)::bigint AS images_used_day,
       coalesce(sum(images) FILTER (WHERE span = 'month'), 0)::bigint AS images_used_month,
       coalesce(sum(cost) FILTER (WHERE span = 'total'), 0) AS cost_used,
       coalesce(sum(cost) FILTER (WHERE span = 'day'), 0) AS cost_used_day,
       coalesce(sum(cost) FILTER (WHERE span = 'month'), 0) AS cost_used_month
FROM key_usage
WHERE since = span_start(span, now())
GROUP BY key_id;

CREATE OR REPLACE VIEW image_gateway.keys AS
SELECT k.key_hash,
       k.key_id,
       k.key_name,
       k.status,
       k.image_enabled,
       k.group_id,
       k.group_id IS NULL OR coalesce(g.image_enabled, false) AS group_image_enabled,
       k.quota_limit - k.quota_used AS quota_remaining,
       k.max_concurrency,
       k.min_start_interval_ms,
       k.allowed_models,
       k.model_map,
       k.account_names,
       k.route_strategy,
       k.expires_at,
       NULL::boolean AS quota_allows,
       least(k.image_limit - coalesce(u.images_used, 0),
             k.image_limit_day - coalesce(u.images_used_day, 0),
             k.image_limit_month - coalesce(u.images_used_month, 0)) AS images_remaining,
       least(k.cost_limit - coalesce(u.cost_used, 0),
             k.cost_limit_day - coalesce(u.cost_used_day, 0),
             k.cost_limit_month - coalesce(u.cost_used_month, 0)) AS cost_remaining,
       k.owner_id,
       o.max_concurrency AS owner_max_concurrency,
       k.json_keepalive_seconds
FROM keys k
LEFT JOIN groups g USING (group_id)
LEFT JOIN owners o USING (owner_id)
LEFT JOIN LATERAL (SELECT * FROM key_used used WHERE used.key_id = k.key_id) u ON true;

-- Charges a call: 'charged', 'charged_before', 'too_old' or 'unknown_key'.  A call whose day or month
-- is over counts for the total alone.  One that is said to come later than now counts for today: else
-- nothing would count for a day until that day is there.
CREATE OR REPLACE FUNCTION image_gateway.charge(
    request_id text, key_id text, at timestamptz, model text, account_name text, tokens jsonb,
    images integer, cost numeric
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    pictures integer := greatest(coalesce(charge.images, 0), 0);
    -- Null if it is not known, or no number.
    price numeric := CASE WHEN charge.cost < 'Infinity' THEN greatest(charge.cost, 0) END;
    result text;
    before image_gateway.keys;
BEGIN
    PERFORM FROM keys k WHERE k.key_id = charge.key_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN 'unknown_key';
    END IF;
    result := note_charge(charge.request_id, charge.key_id, charge.at, charge.model,
                          charge.account_name, charge.tokens, pictures, price);
    IF result <> 'charged' THEN
        RETURN result;
    END IF;
    SELECT v.* INTO before FROM image_gateway.keys v WHERE v.key_id = charge.key_id;
    UPDATE keys k
    SET quota_used = k.quota_used + token_count(charge.tokens, 'total')
    WHERE k.key_id = charge.key_id;
    INSERT INTO key_usage AS u (key_id, span, since, images, cost)
    SELECT charge.key_id, s.span, span_start(s.span, least(charge.at, now())), pictures,
           coalesce(price, 0)
    FROM unnest(ARRAY['total', 'day', 'month']) AS s (span)
    ON CONFLICT (key_id, span) DO UPDATE
    SET images = excluded.images + CASE WHEN excluded.since = u.since THEN u.images ELSE 0 END,
        cost = excluded.cost + CASE WHEN excluded.since = u.since THEN u.cost ELSE 0 END,
        since = excluded.since
    WHERE excluded.since >= u.since;
    -- Of a used quota a gateway only needs to know at once that nothing is left: if each charge were
    -- notified, it would hold no key in memory when this database goes away.
    PERFORM pg_notify('image_gateway_changed', 'key:' || v.key_hash)
    FROM image_gateway.keys v
    WHERE v.key_id = charge.key_id
      AND (v.images_remaining <= 0 AND before.images_remaining > 0
           OR v.cost_remaining <= 0 AND before.cost_remaining > 0);
    RETURN result;
END
$$;
REVOKE ALL ON FUNCTION image_gateway.charge FROM PUBLIC;

-- A group or an owner affects any number of keys, so its payload means all of them.  A key's used
-- quota is told as in charge: only where it decides something.
CREATE OR REPLACE FUNCTION tell_key() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    had_left boolean;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        had_left := OLD.quota_limit > OLD.quota_used;
        OLD.quota_used := NEW.quota_used;
        IF OLD IS NOT DISTINCT FROM NEW
            AND had_left IS NOT DISTINCT FROM (NEW.quota_limit > NEW.quota_used)
        THEN
            RETURN NULL;
        END IF;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('image_gateway_changed', 'key:' || OLD.key_hash);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('image_gateway_changed', 'key:' || NEW.key_hash);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER tell_key
    AFTER INSERT OR UPDATE OR DELETE ON keys
    FOR EACH ROW EXECUTE FUNCTION tell_key();
CREATE OR REPLACE TRIGGER tell_keys
    AFTER TRUNCATE ON keys
    FOR EACH STATEMENT EXECUTE FUNCTION tell('keys');
CREATE OR REPLACE TRIGGER tell_groups
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON groups
    FOR EACH STATEMENT EXECUTE FUNCTION tell('keys');
CREATE OR REPLACE TRIGGER tell_owners
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON owners
    FOR EACH STATEMENT EXECUTE FUNCTION tell('keys');
