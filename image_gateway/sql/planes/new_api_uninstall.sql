BEGIN;
SET LOCAL client_min_messages = warning;
DROP INDEX IF EXISTS public.image_adapter_token_hash;
\ir ../parts/uninstall.sql
COMMIT;
