BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL image_gateway.plane = 'litellm';
\ir ../parts/uninstall.sql
COMMIT;
