BEGIN;
SET LOCAL client_min_messages = warning;
\ir ../parts/uninstall.sql
DROP INDEX IF EXISTS public.image_adapter_key_hash;
COMMIT;
