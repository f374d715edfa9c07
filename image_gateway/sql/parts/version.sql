-- `image-gateway control` checks this first.  Version 4 added what contract 2 has, and the charges
-- in pictures and money.
CREATE OR REPLACE FUNCTION schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE AS 'SELECT 4';
