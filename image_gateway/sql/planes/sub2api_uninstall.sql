BEGIN;
-- Removing the triggers and the index waits for sub2api's running writes and blocks later ones.
SET LOCAL lock_timeout = '5s';
SET LOCAL client_min_messages = warning;
\ir ../parts/uninstall.sql
DROP INDEX IF EXISTS public.image_adapter_key_hash;
COMMIT;
