-- The tables of new-api that the adapter reads or writes, with rows.  GORM makes them from Go structs
-- and there are no SQL migrations, so the types are those that it gives to Postgres.
BEGIN;
CREATE TABLE users (
    id bigserial PRIMARY KEY, username text UNIQUE, password text NOT NULL, display_name text,
    role bigint DEFAULT 1, status bigint DEFAULT 1, email text, quota bigint DEFAULT 0,
    used_quota bigint DEFAULT 0, request_count bigint DEFAULT 0, "group" varchar(64) DEFAULT 'default',
    setting text, deleted_at timestamptz);
CREATE TABLE tokens (
    id bigserial PRIMARY KEY, user_id bigint, "key" varchar(128) UNIQUE,          -- char(48) on old installs
    status bigint DEFAULT 1, name text, created_time bigint, accessed_time bigint,
    expired_time bigint DEFAULT -1, remain_quota bigint DEFAULT 0, unlimited_quota boolean,
    model_limits_enabled boolean, model_limits text, allow_ips text DEFAULT '',
    used_quota bigint DEFAULT 0, "group" text DEFAULT '', cross_group_retry boolean, deleted_at timestamptz);
CREATE TABLE channels (
    id bigserial PRIMARY KEY, type bigint DEFAULT 0, "key" text NOT NULL, open_ai_organization text,
    test_model text, status bigint DEFAULT 1, name text, weight bigint DEFAULT 0, created_time bigint,
    test_time bigint, response_time bigint, base_url text DEFAULT '', other text, balance numeric,
    balance_updated_time bigint, models text, "group" varchar(64) DEFAULT 'default', used_quota bigint DEFAULT 0,
    model_mapping text, status_code_mapping varchar(1024) DEFAULT '', priority bigint DEFAULT 0,
    auto_ban bigint DEFAULT 1, other_info text, tag text, setting text, param_override text,
    header_override text, remark varchar(255), channel_info json, settings text);
CREATE TABLE abilities (
    "group" varchar(64) NOT NULL, model varchar(255) NOT NULL, channel_id bigint NOT NULL,
    enabled boolean, priority bigint DEFAULT 0, weight bigint DEFAULT 0, tag text,
    PRIMARY KEY ("group", model, channel_id));
CREATE TABLE options ("key" text PRIMARY KEY, value text);
CREATE TABLE logs (
    id bigserial PRIMARY KEY, user_id bigint, created_at bigint, type bigint, content text,
    username text DEFAULT '', token_name text DEFAULT '', model_name text DEFAULT '', quota bigint DEFAULT 0,
    prompt_tokens bigint DEFAULT 0, completion_tokens bigint DEFAULT 0, use_time bigint DEFAULT 0,
    is_stream boolean, channel_id bigint, token_id bigint DEFAULT 0, "group" text, ip text DEFAULT '',
    request_id text DEFAULT '', upstream_request_id text DEFAULT '',                -- newer installs only
    other text);
CREATE TABLE quota_data (
    id bigserial PRIMARY KEY, user_id bigint, username text DEFAULT '', model_name text DEFAULT '',
    created_at bigint, token_used bigint DEFAULT 0, count bigint DEFAULT 0, quota bigint DEFAULT 0);

INSERT INTO options VALUES
    ('UserUsableGroups', '{"default": "Default", "vip": "VIP"}'),
    ('GroupRatio', '{"default": 1, "vip": 0.5, "svip": 0.3}'),
    ('AutoGroups', '["vip", "default"]'),
    ('ModelPrice', '{"gpt-image-2": 0.04}'), ('QuotaPerUnit', '500000');
INSERT INTO users (id, username, password, role, status, quota, "group", deleted_at) VALUES
    (1, 'rich', 'x', 1, 1, 5000000, 'default', NULL), (2, 'banned', 'x', 1, 2, 5000000, 'default', NULL),
    (3, 'empty', 'x', 1, 1, 0, 'default', NULL), (4, 'gone', 'x', 1, 1, 5000000, 'default', now()),
    (5, 'vip', 'x', 1, 1, 5000000, 'vip', NULL), (6, 'root', 'x', 100, 1, 5000000, 'default', NULL);
INSERT INTO tokens (id, user_id, "key", status, name, expired_time, remain_quota, unlimited_quota, model_limits_enabled, model_limits, allow_ips, "group", deleted_at) VALUES
    (1, 1, rpad('Active', 48, '0'), 1, 'ok', -1, 0, true, false, '', '', '', NULL),
    (2, 1, rpad('Expired', 48, '0'), 1, 'expired', 1700000000, 0, true, false, '', '', '', NULL),
    (3, 1, rpad('Deleted', 48, '0'), 1, 'soft-deleted', -1, 0, true, false, '', '', '', now()),
    (4, 2, rpad('Banned', 48, '0'), 1, 'user banned', -1, 0, true, false, '', '', '', NULL),
    (5, 1, rpad('Exhausted', 48, '0'), 1, 'nothing left, status still 1', -1, 0, false, false, '', '', '', NULL),
    (6, 1, rpad('Limited', 48, '0'), 1, 'models', -1, 500000, false, true, 'gpt-image-2,gpt-5.5', '', '', NULL),
    (7, 1, rpad('NoModel', 48, '0'), 1, 'models on, list empty', -1, 500000, false, true, '', '', '', NULL),
    (8, 1, rpad('Ips', 48, '0'), 1, 'ip list', -1, 500000, false, false, NULL, E'10.0.0.0/8\n192.0.2.1', '', NULL),
    (9, 1, rpad('Svip', 48, '0'), 1, 'a group the user may not use', -1, 500000, false, false, '', '', 'svip', NULL),
    (10, 1, rpad('Auto', 48, '0'), 1, 'auto', -1, 500000, false, false, '', '', 'auto', NULL),
    (11, 3, rpad('Empty', 48, '0'), 1, 'user has no quota', -1, 0, true, false, '', '', '', NULL),
    (12, 5, rpad('Vip', 48, '0'), 1, 'group of the user', -1, 500000, false, false, '', '', '', NULL),
    (13, 4, rpad('Orphan', 48, '0'), 1, 'user soft-deleted', -1, 0, true, false, '', '', '', NULL),
    (14, 1, rpad('Off', 48, '0'), 2, 'disabled', -1, 0, true, false, '', '', '', NULL);
INSERT INTO channels (id, type, "key", status, name, weight, base_url, other, models, "group", model_mapping, priority, setting, channel_info, settings, created_time) VALUES
    (1, 1, 'sk-up-1', 1, 'openai', 10, '', '', 'gpt-image-2,gpt-5.5', 'default,vip', '{"gpt-image-2": "gpt-image-2.5-flare", "gpt-image-2.5-flare": "gpt-image-2.5-flare-2026-09-08"}', 0, '{"proxy": "socks5://pu:p%40ss@10.0.0.9:1080"}', '{"is_multi_key": false}', '{}', 1760000000),
    (2, 1, E'sk-up-2a\nsk-up-2b\nsk-up-2c', 1, 'multi', 0, 'https://compat.example.test', '', 'gpt-image-2', 'default', NULL, 0, '', '{"is_multi_key": true, "multi_key_size": 3, "multi_key_status_list": {"1": 3}, "multi_key_polling_index": 0, "multi_key_mode": "random"}', '', 1760000000),
    (3, 3, 'az-key', 1, 'azure', 0, 'https://NAME.openai.azure.com', '2025-04-01-preview', 'gpt-image-2', 'default', '{"gpt-image-2": "my.deployment"}', 5, NULL, '{"is_multi_key": false}', '{"azure_responses_version": "preview"}', 1740000000),
    (4, 57, '{"type": "codex", "access_token": "at-4", "refresh_token": "rt-4", "account_id": "acc-4", "expired": "2027-01-01T00:00:00Z"}', 1, 'codex', 0, NULL, '', 'gpt-image-2', 'vip', '', 0, '', NULL, NULL, 1760000000),
    (5, 57, 'not json', 1, 'codex-broken', 0, '', '', 'gpt-image-2', 'default', 'not json', 0, '{', '{"is_multi_key": false}', '', 1760000000),
    (6, 1, 'sk-up-6', 3, 'auto-disabled', 0, '', '', 'gpt-image-2', 'default', NULL, 0, NULL, '{"is_multi_key": false}', NULL, 1760000000),
    (7, 1, 'sk-up-7', 1, 'text only', 0, '', '', 'gpt-5.5', 'default', NULL, 0, NULL, '{"is_multi_key": false}', NULL, 1760000000);
-- abilities as the plane makes them: every model of a channel times every group of it.
INSERT INTO abilities ("group", model, channel_id, enabled, priority, weight)
SELECT g, m, c.id, c.status = 1, c.priority, c.weight
FROM channels c, unnest(string_to_array(c."group", ',')) g, unnest(string_to_array(c.models, ',')) m;
UPDATE abilities SET enabled = false WHERE channel_id = 1 AND "group" = 'vip';   -- odd: switched off by hand
COMMIT;
