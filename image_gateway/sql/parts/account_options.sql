-- What the control plane has no column for, account by account; an account without a row has none of
-- it and may make images, as it may there.
CREATE TABLE IF NOT EXISTS account_options (
    account_name           text PRIMARY KEY,
    image_enabled          boolean NOT NULL DEFAULT true,
    image_max_concurrency  integer CHECK (image_max_concurrency BETWEEN 1 AND 1024),
    routing_weight         double precision CHECK (routing_weight > 0),
    responses_model        text,
    codex_route            text CHECK (codex_route IN ('direct', 'responses')),
    same_account_retries   integer CHECK (same_account_retries >= 0),
    fails_free             boolean
);

CREATE OR REPLACE TRIGGER tell_account_options
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON account_options
    FOR EACH STATEMENT EXECUTE FUNCTION tell('accounts');
