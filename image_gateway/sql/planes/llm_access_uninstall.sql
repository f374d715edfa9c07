BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL image_gateway.plane = 'llm_access';
\ir ../parts/uninstall.sql
COMMIT;
