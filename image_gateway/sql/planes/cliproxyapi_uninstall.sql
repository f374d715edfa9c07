BEGIN;
SET LOCAL client_min_messages = warning;
\ir ../parts/uninstall.sql
COMMIT;
