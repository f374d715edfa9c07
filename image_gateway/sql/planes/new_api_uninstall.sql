BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL image_gateway.plane = 'new_api';
-- The index goes with the function that it calls.
\ir ../parts/uninstall.sql
COMMIT;
