BEGIN;
SET LOCAL client_min_messages = warning;
-- The index goes with the function that it calls.
\ir ../parts/uninstall.sql
COMMIT;
