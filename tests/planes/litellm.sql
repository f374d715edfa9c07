-- The tables of LiteLLM 1.110.2, as far as an adapter reads or writes them, and rows of each kind.
-- timestamp(3) is UTC.  Array columns without a default may be NULL.
-- Salt key of the rows: sk-throwaway-salt-1234
BEGIN;
CREATE TABLE "LiteLLM_BudgetTable" (
    budget_id text PRIMARY KEY, max_budget double precision, soft_budget double precision,
    max_parallel_requests integer, tpm_limit bigint, rpm_limit bigint, model_max_budget jsonb,
    budget_duration text, budget_reset_at timestamp(3), allowed_models text[] DEFAULT '{}',
    temp_budget_increase double precision, temp_budget_expiry timestamp(3),
    created_at timestamp(3) NOT NULL DEFAULT now(), created_by text NOT NULL DEFAULT '',
    updated_at timestamp(3) NOT NULL DEFAULT now(), updated_by text NOT NULL DEFAULT '');
CREATE TABLE "LiteLLM_OrganizationTable" (
    organization_id text PRIMARY KEY, organization_alias text NOT NULL,
    budget_id text NOT NULL REFERENCES "LiteLLM_BudgetTable", metadata jsonb NOT NULL DEFAULT '{}',
    models text[], spend double precision NOT NULL DEFAULT 0);
CREATE TABLE "LiteLLM_TeamTable" (
    team_id text PRIMARY KEY, team_alias text, organization_id text,
    members_with_roles jsonb NOT NULL DEFAULT '{}', metadata jsonb NOT NULL DEFAULT '{}', max_budget double precision,
    spend double precision NOT NULL DEFAULT 0, models text[], max_parallel_requests integer,
    budget_reset_at timestamp(3), blocked boolean NOT NULL DEFAULT false, access_group_ids text[] DEFAULT '{}',
    model_id integer, model_max_budget jsonb NOT NULL DEFAULT '{}', budget_limits jsonb);
CREATE TABLE "LiteLLM_ModelTable" (id serial PRIMARY KEY, aliases jsonb);
CREATE TABLE "LiteLLM_ProjectTable" (
    project_id text PRIMARY KEY, team_id text, budget_id text, models text[],
    spend double precision NOT NULL DEFAULT 0, blocked boolean NOT NULL DEFAULT false);
CREATE TABLE "LiteLLM_UserTable" (
    user_id text PRIMARY KEY, team_id text, user_role text, max_budget double precision,
    spend double precision NOT NULL DEFAULT 0, models text[], metadata jsonb NOT NULL DEFAULT '{}',
    max_parallel_requests integer, budget_reset_at timestamp(3), model_max_budget jsonb NOT NULL DEFAULT '{}');
CREATE TABLE "LiteLLM_TeamMembership" (
    user_id text NOT NULL, team_id text NOT NULL, spend double precision NOT NULL DEFAULT 0,
    total_spend double precision NOT NULL DEFAULT 0, budget_id text, PRIMARY KEY (user_id, team_id));
CREATE TABLE "LiteLLM_OrganizationMembership" (
    user_id text NOT NULL, organization_id text NOT NULL, spend double precision DEFAULT 0, budget_id text,
    PRIMARY KEY (user_id, organization_id));
CREATE TABLE "LiteLLM_VerificationToken" (
    token text PRIMARY KEY, key_name text, key_alias text, soft_budget_cooldown boolean NOT NULL DEFAULT false,
    spend double precision NOT NULL DEFAULT 0, total_spend double precision NOT NULL DEFAULT 0,
    expires timestamp(3), models text[], aliases jsonb NOT NULL DEFAULT '{}', config jsonb NOT NULL DEFAULT '{}',
    user_id text, team_id text, agent_id text, project_id text, permissions jsonb NOT NULL DEFAULT '{}',
    max_parallel_requests integer, metadata jsonb NOT NULL DEFAULT '{}', blocked boolean,
    tpm_limit bigint, rpm_limit bigint, max_budget double precision, budget_duration text, budget_reset_at timestamp(3),
    allowed_routes text[] DEFAULT '{}', key_type text, access_group_ids text[] DEFAULT '{}',
    model_spend jsonb NOT NULL DEFAULT '{}', model_max_budget jsonb NOT NULL DEFAULT '{}',
    budget_id text REFERENCES "LiteLLM_BudgetTable", organization_id text, object_permission_id text,
    created_at timestamp(3) DEFAULT now(), updated_at timestamp(3) DEFAULT now(), last_active timestamp(3), budget_limits jsonb);
CREATE TABLE "LiteLLM_DeprecatedVerificationToken" (
    id text PRIMARY KEY, token text NOT NULL UNIQUE, active_token_id text NOT NULL, revoke_at timestamp(3) NOT NULL,
    created_at timestamp(3) NOT NULL DEFAULT now());
CREATE TABLE "LiteLLM_AccessGroupTable" (
    access_group_id text PRIMARY KEY, access_group_name text NOT NULL UNIQUE, access_model_names text[] DEFAULT '{}',
    assigned_team_ids text[] DEFAULT '{}', assigned_key_ids text[] DEFAULT '{}');
CREATE TABLE "LiteLLM_ProxyModelTable" (
    model_id text PRIMARY KEY, model_name text NOT NULL, litellm_params jsonb NOT NULL, model_info jsonb,
    blocked boolean NOT NULL DEFAULT false, created_at timestamp(3) NOT NULL DEFAULT now(), created_by text NOT NULL DEFAULT '',
    updated_at timestamp(3) NOT NULL DEFAULT now(), updated_by text NOT NULL DEFAULT '');
CREATE TABLE "LiteLLM_CredentialsTable" (
    credential_id text PRIMARY KEY, credential_name text NOT NULL UNIQUE, credential_values jsonb NOT NULL,
    credential_info jsonb);
CREATE TABLE "LiteLLM_SpendLogs" (
    request_id text PRIMARY KEY, call_type text NOT NULL, api_key text NOT NULL DEFAULT '',
    spend double precision NOT NULL DEFAULT 0, total_tokens integer NOT NULL DEFAULT 0,
    prompt_tokens integer NOT NULL DEFAULT 0, completion_tokens integer NOT NULL DEFAULT 0,
    "startTime" timestamp(3) NOT NULL, "endTime" timestamp(3) NOT NULL, request_duration_ms integer,
    model text NOT NULL DEFAULT '', model_id text DEFAULT '', model_group text DEFAULT '',
    custom_llm_provider text DEFAULT '', api_base text DEFAULT '', "user" text DEFAULT '', metadata jsonb DEFAULT '{}',
    team_id text, organization_id text, end_user text, status text, litellm_call_id text,
    created_at timestamp(3) NOT NULL DEFAULT now(), updated_at timestamp(3) NOT NULL DEFAULT now());

INSERT INTO "LiteLLM_BudgetTable" (budget_id, max_budget) VALUES ('b-tier', 2), ('b-org', 100);
INSERT INTO "LiteLLM_OrganizationTable" (organization_id, organization_alias, budget_id, models) VALUES ('o1', 'org', 'b-org', '{}');
INSERT INTO "LiteLLM_ModelTable" (id, aliases) VALUES (1, '{"pictures": "gpt-image-2"}');
INSERT INTO "LiteLLM_TeamTable" (team_id, max_budget, spend, models, blocked, model_id) VALUES
    ('t1', NULL, 0, '{gpt-image-2}', false, 1), ('t-blocked', NULL, 0, '{}', true, NULL), ('t-spent', 5, 5, '{}', false, NULL);
INSERT INTO "LiteLLM_UserTable" (user_id, max_budget, spend, models) VALUES ('u1', NULL, 0, '{}'), ('u-spent', 1, 1, NULL);
INSERT INTO "LiteLLM_AccessGroupTable" VALUES ('ag1', 'images', '{gpt-image-2}');
INSERT INTO "LiteLLM_VerificationToken" (token, key_name, key_alias, expires, models, blocked, max_budget, spend, budget_id, team_id, user_id, allowed_routes, access_group_ids, aliases, max_parallel_requests, metadata)
SELECT encode(sha256(convert_to('sk-ll-' || a, 'UTF8')), 'hex'), 'sk-...' || right(a, 4), a, expires, models, blocked, maxb, spend, bud, team, usr, routes, ags, al, par, meta
FROM (VALUES
    ('active',   NULL::timestamp, NULL::text[], NULL::boolean, NULL::float8, 7::float8, NULL, NULL, 'u1', '{}'::text[], '{}'::text[], '{}'::jsonb, 4, '{}'::jsonb),
    ('expired',  '2026-01-01', '{}', NULL, NULL, 0, NULL, NULL, NULL, '{}', '{}', '{}', NULL, '{}'),
    ('blocked',  NULL, '{}', true, NULL, 0, NULL, NULL, NULL, '{}', '{}', '{}', NULL, '{}'),
    ('spent',    NULL, '{}', false, 1, 1, NULL, NULL, NULL, '{}', '{}', '{}', NULL, '{}'),
    ('tier',     NULL, '{}', false, NULL, 2.5, 'b-tier', NULL, NULL, '{}', '{}', '{}', NULL, '{}'),
    ('star',     NULL, '{gpt-image-*,openai/*}', false, NULL, 0, NULL, NULL, NULL, '{}', '{}', '{}', NULL, '{}'),
    ('text',     NULL, '{gpt-5.5}', false, NULL, 0, NULL, NULL, NULL, '{}', '{}', '{}', NULL, '{}'),
    ('none',     NULL, '{no-default-models}', false, NULL, 0, NULL, NULL, NULL, '{}', '{}', '{}', NULL, '{}'),
    ('group',    NULL, '{gpt-5.5}', false, NULL, 0, NULL, NULL, NULL, '{}', '{ag1}', '{}', NULL, '{}'),
    ('team',     NULL, '{all-team-models}', false, NULL, 0, NULL, 't1', NULL, '{}', '{}', '{"draw": "gpt-image-2"}', NULL, '{}'),
    ('team-off', NULL, '{}', false, NULL, 0, NULL, 't-blocked', NULL, '{}', '{}', '{}', NULL, '{}'),
    ('team-over',NULL, '{}', false, NULL, 0, NULL, 't-spent', NULL, '{}', '{}', '{}', NULL, '{}'),
    ('user-over',NULL, '{}', false, NULL, 0, NULL, NULL, 'u-spent', '{}', '{}', '{}', NULL, '{}'),
    ('routes',   NULL, '{}', false, NULL, 0, NULL, NULL, NULL, '{/v1/chat/completions}', '{}', '{}', NULL, '{}')
) AS v (a, expires, models, blocked, maxb, spend, bud, team, usr, routes, ags, al, par, meta);
INSERT INTO "LiteLLM_DeprecatedVerificationToken" (id, token, active_token_id, revoke_at)
SELECT 'd1', encode(sha256('sk-ll-old'), 'hex'), encode(sha256('sk-ll-active'), 'hex'), '2099-01-01';
-- The strings of litellm_params are ciphertext (nacl form; api_key of m3 is v2:gcm:), numbers and booleans are not.
INSERT INTO "LiteLLM_CredentialsTable" VALUES ('c1', 'shared-openai',
    '{"api_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX8WhGI1QcbJb82FcfmBG_og0ecMJKjP35BEn-gbri"}', '{"custom_llm_provider": "openai"}');
INSERT INTO "LiteLLM_ProxyModelTable" (model_id, model_name, litellm_params, model_info, blocked) VALUES
    ('m1', 'gpt-image-2', '{"model": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXoOYXJ34JMrownSo0zoXh5RceZthZgLPzWVa2kfqyzaPjkg==", "api_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX8WhGI1QcbJb82FcfmBG_og0ecMJKjP35BEn-gbri", "rpm": 10}', '{"id": "m1", "mode": "image_generation", "db_model": true}', false),
    ('m2', 'gpt-image-2', '{"model": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXbZG_xhnrigkT0Gl5093ALxkUdsRdxvHtBEb-iPu806urzgs=", "api_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX8WhGI1QcbJb82FcfmBG_og0ecMJKjP35BEn-gbri", "api_base": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX1e9auolrtBmADpUUtBq9AhAad8ZL07O7Z2PWvbm82qOgwRZsM1nWSgGWupvu", "api_version": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXbFmtHSM7nTBN9gRhrHOmoEpeMYMV2ai5GRO2iOW23K-r1w=="}', '{"id": "m2", "access_groups": ["beta"]}', false),
    ('m3', 'gpt-image-2', '{"model": "openai/gpt-image-2", "api_key": "v2:gcm:AAECAwQFBgcICQoL-ENeTX1obBkZkZIbEzPYXvkSyWECiDs5z47Lkyio"}', NULL, false),
    ('m4', 'gpt-image-2', '{"model": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXoOYXJ34JMrownSo0zoXh5RceZthZgLPzWVa2kfqyzaPjkg=="}', NULL, true);
COMMIT;
