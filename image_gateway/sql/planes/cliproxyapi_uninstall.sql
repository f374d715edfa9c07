BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL image_gateway.plane = 'cliproxyapi';
\ir ../parts/uninstall.sql
COMMIT;
