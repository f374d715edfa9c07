-- CLIProxyAPI's Postgres store as it makes it itself, and rows to try the adapter on.  The secrets are
-- throwaway.
BEGIN;
CREATE TABLE config_store (
    id text PRIMARY KEY, content text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE auth_store (
    id text PRIMARY KEY, content jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE cooldown_store (
    auth_id text NOT NULL, model text NOT NULL DEFAULT '', content jsonb NOT NULL, deleted boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (auth_id, model));
INSERT INTO config_store (id, content) VALUES ('config', E'port: 8317\napi-keys:\n  - "sk-cpa-one"\n');
INSERT INTO auth_store (id, content) VALUES
    ('codex-a.json', '{"type": "codex", "access_token": "at-a", "refresh_token": "rt-a", "account_id": "acc-a", "email": "a@example.test", "expired": "2099-01-01T00:00:00Z"}'),
    ('codex-b.json', '{"type": "codex", "access_token": "at-b", "account_id": "acc-b", "disabled": true}'),
    ('codex-c.json', '{"type": "codex", "access_token": "at-c", "account_id": "acc-c", "expired": "2026-01-01T00:00:00Z"}'),
    ('codex-d.json', '{"type": "codex", "account_id": "acc-d"}'),
    ('codex-e.json', '["not", "an", "object"]'),
    ('codex-f.json', '{"type": "codex", "access_token": "at-f", "account_id": "acc-f", "disabled": "true"}'),
    ('claude-g.json', '{"type": "claude", "access_token": "at-g"}'),
    ('team/codex-h.json', '{"type": "codex", "access_token": "at-h", "account_id": "acc-h", "proxy_url": "socks5://u:p%40ss@10.0.0.9:1080"}'),
    ('codex-i.json', '{"type": "codex", "access_token": "at-i", "account_id": "acc-i", "proxy_url": "direct", "weight": 5}');
COMMIT;
