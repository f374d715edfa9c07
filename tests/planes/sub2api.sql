-- sub2api, as far as its adapter reads and writes it: tables of early 2026 with the columns that came
-- later marked, and rows for each of its rules.  Names, types and defaults are those of its
-- migrations.  All secrets are made up.
BEGIN;
CREATE TABLE proxies (
    id bigserial PRIMARY KEY, name varchar(100) NOT NULL, protocol varchar(20) NOT NULL,
    host varchar(255) NOT NULL, port int NOT NULL, username varchar(100), password varchar(100),
    status varchar(20) NOT NULL DEFAULT 'active',
    expires_at timestamptz, fallback_mode varchar(20) NOT NULL DEFAULT 'none',   -- newer installs only
    backup_proxy_id bigint, expiry_warn_days int NOT NULL DEFAULT 7,              -- newer installs only
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz);
CREATE TABLE groups (
    id bigserial PRIMARY KEY, name varchar(100) NOT NULL, description text,
    rate_multiplier decimal(10,4) NOT NULL DEFAULT 1.0, is_exclusive boolean NOT NULL DEFAULT false,
    status varchar(20) NOT NULL DEFAULT 'active', platform varchar(50) NOT NULL DEFAULT 'anthropic',
    subscription_type varchar(20) NOT NULL DEFAULT 'standard',
    daily_limit_usd decimal(20,8), weekly_limit_usd decimal(20,8), monthly_limit_usd decimal(20,8),
    allow_image_generation boolean NOT NULL DEFAULT false,
    image_rate_independent boolean NOT NULL DEFAULT false,
    image_rate_multiplier decimal(10,4) NOT NULL DEFAULT 1.0,
    image_price_1k decimal(20,8), image_price_2k decimal(20,8), image_price_4k decimal(20,8),
    require_oauth_only boolean NOT NULL DEFAULT false, require_privacy_set boolean NOT NULL DEFAULT false,
    rpm_limit int NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz);
CREATE UNIQUE INDEX groups_name_unique_active ON groups (name) WHERE deleted_at IS NULL;
CREATE TABLE users (
    id bigserial PRIMARY KEY, email varchar(255) NOT NULL, password_hash varchar(255) NOT NULL,
    role varchar(20) NOT NULL DEFAULT 'user', balance decimal(20,8) NOT NULL DEFAULT 0,
    frozen_balance decimal(20,8) NOT NULL DEFAULT 0,                               -- newer installs only
    concurrency int NOT NULL DEFAULT 5, status varchar(20) NOT NULL DEFAULT 'active',
    rpm_limit int NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz);
CREATE TABLE user_allowed_groups (
    user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    group_id bigint NOT NULL REFERENCES groups ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (user_id, group_id));
CREATE TABLE user_group_rate_multipliers (
    user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    group_id bigint NOT NULL REFERENCES groups ON DELETE CASCADE,
    rate_multiplier decimal(10,4) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, group_id));
CREATE TABLE accounts (
    id bigserial PRIMARY KEY, name varchar(100) NOT NULL, platform varchar(50) NOT NULL,
    type varchar(20) NOT NULL, credentials jsonb NOT NULL DEFAULT '{}', extra jsonb NOT NULL DEFAULT '{}',
    proxy_id bigint REFERENCES proxies ON DELETE SET NULL, concurrency int NOT NULL DEFAULT 3,
    load_factor int, priority int NOT NULL DEFAULT 50, rate_multiplier decimal(10,4) NOT NULL DEFAULT 1.0,
    status varchar(20) NOT NULL DEFAULT 'active', error_message text, last_used_at timestamptz,
    expires_at timestamptz, auto_pause_on_expired boolean NOT NULL DEFAULT true,
    schedulable boolean NOT NULL DEFAULT true, rate_limited_at timestamptz, rate_limit_reset_at timestamptz,
    overload_until timestamptz, temp_unschedulable_until timestamptz, temp_unschedulable_reason text,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz);
CREATE TABLE account_groups (
    account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,
    group_id bigint NOT NULL REFERENCES groups ON DELETE CASCADE,
    priority int NOT NULL DEFAULT 50, created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, group_id));
CREATE TABLE api_keys (
    id bigserial PRIMARY KEY, user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    key varchar(128) NOT NULL UNIQUE, name varchar(100) NOT NULL,
    group_id bigint REFERENCES groups ON DELETE SET NULL, status varchar(20) NOT NULL DEFAULT 'active',
    last_used_at timestamptz, ip_whitelist jsonb, ip_blacklist jsonb,
    quota decimal(20,8) NOT NULL DEFAULT 0, quota_used decimal(20,8) NOT NULL DEFAULT 0,
    expires_at timestamptz,
    rate_limit_5h decimal(20,8) NOT NULL DEFAULT 0, rate_limit_1d decimal(20,8) NOT NULL DEFAULT 0,
    rate_limit_7d decimal(20,8) NOT NULL DEFAULT 0, usage_5h decimal(20,8) NOT NULL DEFAULT 0,
    usage_1d decimal(20,8) NOT NULL DEFAULT 0, usage_7d decimal(20,8) NOT NULL DEFAULT 0,
    window_5h_start timestamptz, window_1d_start timestamptz, window_7d_start timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz);
CREATE TABLE user_subscriptions (
    id bigserial PRIMARY KEY, user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    group_id bigint NOT NULL REFERENCES groups ON DELETE CASCADE,
    starts_at timestamptz NOT NULL, expires_at timestamptz NOT NULL,
    status varchar(20) NOT NULL DEFAULT 'active',
    daily_window_start timestamptz, weekly_window_start timestamptz, monthly_window_start timestamptz,
    daily_usage_usd decimal(20,10) NOT NULL DEFAULT 0, weekly_usage_usd decimal(20,10) NOT NULL DEFAULT 0,
    monthly_usage_usd decimal(20,10) NOT NULL DEFAULT 0, assigned_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz);
CREATE TABLE usage_logs (
    id bigserial PRIMARY KEY, user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    api_key_id bigint NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,
    request_id varchar(64), model varchar(100) NOT NULL, requested_model varchar(100),
    upstream_model varchar(100), group_id bigint, subscription_id bigint,
    input_tokens int NOT NULL DEFAULT 0, output_tokens int NOT NULL DEFAULT 0,
    cache_creation_tokens int NOT NULL DEFAULT 0, cache_read_tokens int NOT NULL DEFAULT 0,
    input_cost decimal(20,10) NOT NULL DEFAULT 0, output_cost decimal(20,10) NOT NULL DEFAULT 0,
    cache_read_cost decimal(20,10) NOT NULL DEFAULT 0, total_cost decimal(20,10) NOT NULL DEFAULT 0,
    actual_cost decimal(20,10) NOT NULL DEFAULT 0, rate_multiplier decimal(10,4) NOT NULL DEFAULT 1,
    account_rate_multiplier decimal(10,4), billing_type smallint NOT NULL DEFAULT 0,
    billing_mode varchar(20), stream boolean NOT NULL DEFAULT false, duration_ms int,
    user_agent varchar(512), ip_address varchar(45), image_count int DEFAULT 0, image_size varchar(10),
    inbound_endpoint varchar(128), upstream_endpoint varchar(128),
    created_at timestamptz NOT NULL DEFAULT now());
CREATE UNIQUE INDEX idx_usage_logs_request_id_api_key_unique ON usage_logs (request_id, api_key_id);
CREATE TABLE usage_billing_dedup (
    id bigserial PRIMARY KEY, request_id varchar(255) NOT NULL, api_key_id bigint NOT NULL,
    request_fingerprint varchar(64) NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE UNIQUE INDEX idx_usage_billing_dedup_request_api_key ON usage_billing_dedup (request_id, api_key_id);
CREATE TABLE usage_billing_dedup_archive (
    request_id varchar(255) NOT NULL, api_key_id bigint NOT NULL, request_fingerprint varchar(64) NOT NULL,
    created_at timestamptz NOT NULL, archived_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (request_id, api_key_id));
CREATE TABLE scheduler_outbox (
    id bigserial PRIMARY KEY, event_type text NOT NULL, account_id bigint, group_id bigint, payload jsonb,
    created_at timestamptz NOT NULL DEFAULT now());

INSERT INTO proxies (id, name, protocol, host, port, username, password, status, deleted_at) VALUES
    (1, 'good', 'socks5', '10.0.0.9', 1080, 'pu', 'p@ss:w/rd', 'active', NULL),
    (2, 'off', 'http', '10.0.0.8', 3128, NULL, NULL, 'disabled', NULL),
    (3, 'v6', 'http', 'fd00::7', 3128, 'only-user', NULL, 'active', NULL);
INSERT INTO groups (id, name, platform, status, allow_image_generation, subscription_type, is_exclusive,
                    daily_limit_usd, image_price_1k, image_price_2k, deleted_at) VALUES
    (1, 'images', 'openai', 'active', true, 'standard', false, NULL, 0.05, 0.08, NULL),
    (2, 'text only', 'openai', 'active', false, 'standard', false, NULL, NULL, NULL, NULL),
    (3, 'claude', 'anthropic', 'active', true, 'standard', false, NULL, NULL, NULL, NULL),
    (4, 'plan', 'openai', 'active', true, 'subscription', false, 5, NULL, NULL, NULL),
    (5, 'vip', 'openai', 'active', true, 'standard', true, NULL, NULL, NULL, NULL),
    (6, 'gone', 'openai', 'active', true, 'standard', false, NULL, NULL, NULL, now()),
    (7, 'paused', 'openai', 'disabled', true, 'standard', false, NULL, NULL, NULL, NULL);
INSERT INTO users (id, email, password_hash, balance, concurrency, status, deleted_at) VALUES
    (1, 'rich@example.test', 'x', 20, 5, 'active', NULL),
    (2, 'off@example.test', 'x', 20, 5, 'disabled', NULL),
    (3, 'empty@example.test', 'x', -0.01, 5, 'active', NULL),
    (4, 'deleted@example.test', 'x', 20, 5, 'active', now());
INSERT INTO user_allowed_groups (user_id, group_id) VALUES (1, 5);
INSERT INTO user_subscriptions (user_id, group_id, starts_at, expires_at, daily_window_start, daily_usage_usd) VALUES
    (3, 4, now() - interval '9 days', now() + interval '9 days', now() - interval '25 hours', 99),
    (1, 4, now() - interval '9 days', now() + interval '9 days', now() - interval '1 hour', 5.01);
INSERT INTO accounts (id, name, platform, type, credentials, extra, proxy_id, concurrency, priority, status,
                      schedulable, rate_limit_reset_at, expires_at, deleted_at) VALUES
    (1, 'codex-1', 'openai', 'oauth',
     '{"access_token": "at-1", "refresh_token": "rt-1", "id_token": "it-1", "chatgpt_account_id": "acc-1", "expires_at": "2027-01-01T00:00:00Z"}',
     '{"codex_5h_used_percent": 12.5, "codex_7d_used_percent": 80, "codex_5h_reset_at": "2099-01-01T00:00:00Z", "codex_usage_updated_at": "2026-11-28T20:00:00Z"}',
     1, 3, 10, 'active', true, NULL, NULL, NULL),
    (2, 'codex-limited', 'openai', 'oauth', '{"access_token": "at-2", "chatgpt_account_id": "acc-2"}',
     '{"codex_5h_used_percent": "not a number"}', NULL, 3, 20, 'active', true, now() + interval '1 hour', NULL, NULL),
    (3, 'azure-like', 'openai', 'apikey',
     '{"api_key": "ak-3", "base_url": "https://NAME.openai.azure.com/openai/v1/", "model_mapping": {"gpt-image-2": "my-deployment", "gpt-image-*": "other-deployment", "*": "all"}, "pool_mode": true, "pool_mode_retry_count": 99}',
     '{"quota_limit": 10, "quota_used": 10}', NULL, 0, 50, 'active', true, NULL, NULL, NULL),
    (4, 'bad-json', 'openai', 'apikey', '{"api_key": 17, "base_url": ["x"], "model_mapping": "gpt"}', '[]',
     2, 3, 50, 'active', true, NULL, NULL, NULL),
    (5, 'expired', 'openai', 'oauth', '{"access_token": "at-5"}', '{}', NULL, 3, 50, 'active', true, NULL,
     now() - interval '1 day', NULL),
    (6, 'claude-1', 'anthropic', 'oauth', '{"access_token": "at-6"}', '{}', NULL, 3, 50, 'active', true, NULL, NULL, NULL),
    (7, 'codex-1', 'openai', 'oauth', '{"access_token": "at-7"}', '{}', 3, 3, 50, 'active', false, NULL, NULL, NULL),
    (8, 'image-cooled', 'openai', 'oauth', '{"access_token": "at-8"}',
     '{"model_rate_limits": {"openai:image_generation": {"rate_limited_at": "2026-11-28T20:00:00Z", "rate_limit_reset_at": "2099-01-01T00:00:00Z"}}}',
     NULL, 3, 50, 'active', true, NULL, NULL, NULL);
INSERT INTO account_groups (account_id, group_id, priority) VALUES
    (1, 1, 50), (2, 1, 10), (3, 1, 90), (6, 1, 1), (1, 4, 50), (1, 2, 50), (8, 1, 95), (4, 5, 1);
INSERT INTO api_keys (id, user_id, key, name, group_id, status, quota, quota_used, expires_at, ip_whitelist, rate_limit_1d, usage_1d, window_1d_start, deleted_at) VALUES
    (1, 1, 'sk-s2a-active', 'ok', 1, 'active', 0, 3, NULL, '[]', 0, 0, NULL, NULL),
    (2, 1, 'sk-s2a-expired', 'expired by time', 1, 'active', 0, 0, now() - interval '1 minute', NULL, 0, 0, NULL, NULL),
    (3, 1, 'sk-s2a-deleted', 'soft-deleted', 1, 'active', 0, 0, NULL, NULL, 0, 0, NULL, now()),
    (4, 2, 'sk-s2a-user-off', 'user disabled', 1, 'active', 0, 0, NULL, NULL, 0, 0, NULL, NULL),
    (5, 1, 'sk-s2a-text', 'group without images', 2, 'active', 0, 0, NULL, NULL, 0, 0, NULL, NULL),
    (6, 1, 'sk-s2a-quota', 'used up', 1, 'active', 2, 2.00000001, NULL, NULL, 0, 0, NULL, NULL),
    (7, 3, 'sk-s2a-broke', 'no balance', 1, 'active', 0, 0, NULL, NULL, 0, 0, NULL, NULL),
    (8, 3, 'sk-s2a-plan', 'subscription, window over', 4, 'active', 0, 0, NULL, NULL, 0, 0, NULL, NULL),
    (9, 1, 'sk-s2a-plan-full', 'subscription, day used up', 4, 'active', 0, 0, NULL, NULL, 0, 0, NULL, NULL),
    (10, 1, 'sk-s2a-ungrouped', 'no group', NULL, 'active', 0, 0, NULL, NULL, 0, 0, NULL, NULL),
    (11, 1, 'sk-s2a-claude', 'other platform', 3, 'active', 0, 0, NULL, NULL, 0, 0, NULL, NULL),
    (12, 1, 'sk-s2a-ip', 'allow list', 1, 'active', 0, 0, NULL, '["10.0.0.0/8"]', 0, 0, NULL, NULL),
    (13, 1, 'sk-s2a-window', '1d limit used up', 1, 'active', 0, 0, NULL, NULL, 1, 1, now() - interval '2 hours', NULL),
    (14, 4, 'sk-s2a-user-gone', 'user soft-deleted', 1, 'active', 0, 0, NULL, NULL, 0, 0, NULL, NULL),
    (15, 1, 'sk-s2a-paused', 'group disabled', 7, 'active', 0, 0, NULL, NULL, 0, 0, NULL, NULL),
    (16, 3, 'sk-s2a-vip', 'exclusive, not allowed', 5, 'active', 0, 0, NULL, NULL, 0, 0, NULL, NULL);
-- Rows that a test adds get ids of their own.
SELECT setval(pg_get_serial_sequence(name, 'id'), 100)
FROM unnest(ARRAY['proxies', 'groups', 'users', 'accounts', 'api_keys']) AS name;
COMMIT;
