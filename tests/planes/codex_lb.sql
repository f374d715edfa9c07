-- codex-lb on Postgres as its migrations leave it, as far as the adapter reads and writes; rows to try
-- it on.  The key of the encrypted values: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
BEGIN;
CREATE TYPE account_status AS ENUM ('active', 'rate_limited', 'quota_exceeded', 'paused', 'reauth_required', 'deactivated');
CREATE TYPE limit_type AS ENUM ('total_tokens', 'input_tokens', 'output_tokens', 'cost_usd', 'credits');
CREATE TYPE limit_window AS ENUM ('daily', 'weekly', 'monthly', '5h', '7d');
CREATE TABLE accounts (
    id varchar PRIMARY KEY, chatgpt_account_id varchar, chatgpt_user_id varchar,
    codex_installation_id varchar(36) NOT NULL, email varchar NOT NULL, alias varchar,
    workspace_id varchar, workspace_label varchar, seat_type varchar, plan_type varchar NOT NULL,
    routing_policy varchar NOT NULL DEFAULT 'normal',
    access_token_encrypted bytea NOT NULL, refresh_token_encrypted bytea NOT NULL, id_token_encrypted bytea NOT NULL,
    last_refresh timestamp NOT NULL, created_at timestamp NOT NULL DEFAULT now(),
    status account_status NOT NULL, deactivation_reason text, reset_at integer, blocked_at integer,
    limit_warmup_enabled boolean NOT NULL DEFAULT false, security_work_authorized boolean NOT NULL DEFAULT false,
    delete_requested_at timestamp, delete_history_requested boolean NOT NULL DEFAULT false);
CREATE TABLE usage_history (
    id serial PRIMARY KEY, account_id varchar NOT NULL REFERENCES accounts ON DELETE CASCADE,
    recorded_at timestamp NOT NULL DEFAULT now(), "window" varchar, used_percent double precision NOT NULL,
    input_tokens integer, output_tokens integer, reset_at integer, window_minutes integer,
    credits_has boolean, credits_unlimited boolean, credits_balance double precision);
CREATE INDEX idx_usage_recorded_at ON usage_history (recorded_at);
CREATE INDEX idx_usage_account_time ON usage_history (account_id, recorded_at);
CREATE INDEX idx_usage_window_account_latest ON usage_history
    (coalesce("window", 'primary'), account_id, recorded_at DESC, id DESC);
CREATE TABLE api_keys (
    id varchar PRIMARY KEY, name varchar NOT NULL, key_hash varchar NOT NULL UNIQUE, key_prefix varchar NOT NULL,
    allowed_models text, apply_to_codex_model boolean NOT NULL DEFAULT false, enforced_model varchar,
    enforced_reasoning_effort varchar, allowed_reasoning_efforts text, enforced_service_tier varchar,
    traffic_class varchar NOT NULL DEFAULT 'foreground', transport_policy_override varchar,
    account_assignment_scope_enabled boolean NOT NULL DEFAULT false,
    source_assignment_scope_enabled boolean NOT NULL DEFAULT false,
    usage_sections text NOT NULL DEFAULT 'upstream_limits,account_pool_usage',
    expires_at timestamp, is_active boolean NOT NULL, created_at timestamp NOT NULL DEFAULT now(), last_used_at timestamp);
CREATE INDEX idx_api_keys_hash ON api_keys (key_hash);
CREATE TABLE api_key_accounts (
    api_key_id varchar NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    account_id varchar NOT NULL REFERENCES accounts ON DELETE CASCADE,
    created_at timestamp NOT NULL DEFAULT now(), PRIMARY KEY (api_key_id, account_id));
CREATE TABLE api_key_limits (
    id serial PRIMARY KEY, api_key_id varchar NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    limit_type limit_type NOT NULL, limit_window limit_window NOT NULL, max_value bigint NOT NULL,
    current_value bigint NOT NULL DEFAULT 0, model_filter varchar, reset_at timestamp NOT NULL);
CREATE INDEX idx_api_key_limits_key_id ON api_key_limits (api_key_id);
CREATE TABLE api_key_usage_reservations (
    id varchar PRIMARY KEY, api_key_id varchar NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    model varchar NOT NULL, status varchar NOT NULL, input_tokens bigint, output_tokens bigint,
    cached_input_tokens bigint, cost_microdollars bigint,
    created_at timestamp NOT NULL DEFAULT now(), updated_at timestamp NOT NULL DEFAULT now());
CREATE TABLE api_key_usage_reservation_items (
    id serial PRIMARY KEY,
    reservation_id varchar NOT NULL REFERENCES api_key_usage_reservations ON DELETE CASCADE,
    limit_id integer NOT NULL REFERENCES api_key_limits ON DELETE CASCADE,
    limit_type varchar NOT NULL, reserved_delta bigint NOT NULL, actual_delta bigint,
    expected_reset_at timestamp NOT NULL, created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now(), UNIQUE (reservation_id, limit_id));
CREATE TABLE request_logs (
    id serial PRIMARY KEY, account_id varchar REFERENCES accounts ON DELETE SET NULL, api_key_id varchar,
    session_id varchar, request_id varchar NOT NULL, request_kind varchar NOT NULL DEFAULT 'normal',
    requested_at timestamp NOT NULL DEFAULT now(), deleted_at timestamp, model varchar NOT NULL, plan_type varchar,
    source varchar, useragent text, client_ip varchar, transport varchar, input_tokens integer,
    output_tokens integer, cached_input_tokens integer, reasoning_tokens integer, cost_usd double precision,
    latency_ms integer, status varchar NOT NULL, error_code varchar, error_message text);
CREATE TABLE proxy_endpoints (
    id varchar PRIMARY KEY, name varchar NOT NULL, scheme varchar NOT NULL, host varchar NOT NULL,
    port integer NOT NULL, username varchar, password_encrypted bytea, is_active boolean NOT NULL DEFAULT true,
    created_at timestamp NOT NULL DEFAULT now(), updated_at timestamp NOT NULL DEFAULT now());
CREATE TABLE proxy_pools (
    id varchar PRIMARY KEY, name varchar NOT NULL, is_active boolean NOT NULL DEFAULT true,
    created_at timestamp NOT NULL DEFAULT now(), updated_at timestamp NOT NULL DEFAULT now());
CREATE TABLE proxy_pool_members (
    id varchar PRIMARY KEY, pool_id varchar NOT NULL REFERENCES proxy_pools ON DELETE CASCADE,
    endpoint_id varchar NOT NULL REFERENCES proxy_endpoints ON DELETE CASCADE,
    sort_order integer NOT NULL DEFAULT 0, weight integer NOT NULL DEFAULT 1, is_active boolean NOT NULL DEFAULT true,
    created_at timestamp NOT NULL DEFAULT now(), UNIQUE (pool_id, endpoint_id));
CREATE TABLE account_proxy_bindings (
    id varchar PRIMARY KEY, account_id varchar NOT NULL UNIQUE REFERENCES accounts ON DELETE CASCADE,
    pool_id varchar NOT NULL REFERENCES proxy_pools ON DELETE RESTRICT, is_active boolean NOT NULL DEFAULT true,
    created_at timestamp NOT NULL DEFAULT now(), updated_at timestamp NOT NULL DEFAULT now());
-- One row, id 1; only the columns that matter here (the table has about fifty).
CREATE TABLE dashboard_settings (
    id integer PRIMARY KEY, api_key_auth_enabled boolean NOT NULL DEFAULT false,
    routing_strategy varchar NOT NULL DEFAULT 'capacity_weighted', single_account_id varchar,
    upstream_proxy_routing_enabled boolean NOT NULL DEFAULT false, upstream_proxy_default_pool_id varchar);
CREATE TABLE cache_invalidation (namespace varchar(50) PRIMARY KEY, version integer NOT NULL DEFAULT 0);
CREATE TABLE api_firewall_allowlist (ip_address varchar PRIMARY KEY, created_at timestamp NOT NULL DEFAULT now());

INSERT INTO dashboard_settings (id, api_key_auth_enabled, upstream_proxy_routing_enabled) VALUES (1, true, false);
INSERT INTO accounts (id, chatgpt_account_id, codex_installation_id, email, plan_type, access_token_encrypted,
    refresh_token_encrypted, id_token_encrypted, last_refresh, status, reset_at, blocked_at, delete_requested_at)
SELECT v.id, v.acc, gen_random_uuid()::text, v.id || '@example.test', v.plan, t.tok, t.tok, t.tok,
       '2026-11-28 20:00', v.status::account_status, v.reset_at, v.blocked_at, v.del
FROM (VALUES
    ('a-active',   'acc-1', 'plus', 'active',          NULL::int, NULL::int, NULL::timestamp),
    ('a-limited',  'acc-2', 'pro',  'rate_limited',    2000000000, 1795000000, NULL),
    ('a-over',     'acc-3', 'plus', 'rate_limited',    1700000000, 1699990000, NULL),
    ('a-quota',    'acc-4', 'plus', 'quota_exceeded',  2000000000, 1795000000, NULL),
    ('a-paused',   'acc-5', 'plus', 'paused',          NULL, NULL, NULL),
    ('a-reauth',   'acc-6', 'plus', 'reauth_required', NULL, NULL, NULL),
    ('a-deleting', 'acc-7', 'plus', 'deactivated',     NULL, NULL, '2026-11-28 20:00'),
    ('a-noid',     NULL,    'free', 'active',          NULL, NULL, NULL)
) AS v (id, acc, plan, status, reset_at, blocked_at, del)
CROSS JOIN (SELECT convert_to('gAAAAABqsTuAZGVmZ2hpamtsbW5vcHFycz9dTu4LkOisgxZj5gf2X_E3ZflpplA36Ikg21rLZ86Zzai0vy4Ie24Rip16Sl_xHWbbIs0j2QEwKyQVL_nEv6k=', 'UTF8') AS tok) t;
INSERT INTO usage_history (account_id, recorded_at, "window", used_percent, reset_at, window_minutes) VALUES
    ('a-active', '2026-11-28 19:00', 'primary', 90, 2000000000, 300),
    ('a-active', '2026-11-28 20:00', NULL, 12.5, 2000000000, 300),
    ('a-active', '2026-11-28 20:00', 'secondary', 60, 2000000000, 10080),
    ('a-over',   '2026-11-20 20:00', 'secondary', 99, 1700000000, 10080);
INSERT INTO proxy_endpoints (id, name, scheme, host, port, username, password_encrypted, is_active) VALUES
    ('e1', 'first', 'SOCKS5 ', '10.0.0.9', 1080, 'pu',
     convert_to('gAAAAABqsTuAPD0-P0BBQkNERUZHSElKS4MhGKzgHyzvtMW7PDcPVe2Y9OQsmwxuaE5bbjXkDK1L2NAMMgxTfs15fPUcZf56Qw==', 'UTF8'), true),
    ('e2', 'off', 'http', '10.0.0.8', 3128, NULL, NULL, false);
INSERT INTO proxy_pools (id, name, is_active) VALUES ('p1', 'good', true), ('p2', 'switched off', false);
INSERT INTO proxy_pool_members (id, pool_id, endpoint_id, sort_order) VALUES ('m1', 'p1', 'e2', 0), ('m2', 'p1', 'e1', 1);
INSERT INTO account_proxy_bindings (id, account_id, pool_id) VALUES ('b1', 'a-active', 'p1'), ('b2', 'a-noid', 'p2');
INSERT INTO api_keys (id, name, key_hash, key_prefix, allowed_models, enforced_model, account_assignment_scope_enabled, expires_at, is_active)
SELECT id, id, encode(sha256(convert_to('sk-clb-' || id, 'UTF8')), 'hex'), left('sk-clb-' || id, 15), models, enforced, scope, expires, active
FROM (VALUES
    ('active',   NULL::text, NULL::text, false, NULL::timestamp, true),
    ('expired',  NULL, NULL, false, '2026-01-01 00:00', true),
    ('off',      NULL, NULL, false, NULL, false),
    ('models',   '["gpt-image-2", " gpt-5.5 ", 7]', NULL, false, NULL, true),
    ('empty',    '[]', NULL, false, NULL, true),
    ('badjson',  '{"a": 1}', NULL, false, NULL, true),
    ('scoped',   NULL, NULL, true, NULL, true),
    ('scoped-0', NULL, NULL, true, NULL, true),
    ('pinned',   NULL, 'gpt-5.5', false, NULL, true),
    ('limited',  NULL, NULL, false, NULL, true)
) AS v (id, models, enforced, scope, expires, active);
INSERT INTO api_key_accounts (api_key_id, account_id) VALUES ('scoped', 'a-noid'), ('scoped', 'a-active'), ('active', 'a-quota');
INSERT INTO api_key_limits (api_key_id, limit_type, limit_window, max_value, current_value, model_filter, reset_at) VALUES
    ('limited', 'total_tokens', 'daily', 100000, 100000, 'gpt-5.5', '2099-01-01'),
    ('limited', 'total_tokens', 'weekly', 100000, 40000, NULL, '2099-01-01'),
    ('limited', 'cost_usd', '5h', 2000000, 2000000, 'gpt-image-2', '2020-01-01'),
    ('active',  'credits', '7d', 10, 3, NULL, '2099-01-01');
COMMIT;
