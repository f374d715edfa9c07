BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL image_gateway.plane = 'sub2api';
\ir ../parts/uninstall.sql
DROP INDEX IF EXISTS public.image_adapter_key_hash;
COMMIT;
