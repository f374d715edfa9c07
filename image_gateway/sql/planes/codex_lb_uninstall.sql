BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL image_gateway.plane = 'codex_lb';
\ir ../parts/uninstall.sql
COMMIT;
