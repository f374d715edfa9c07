-- The version of the gateway's own tables, and whether keys are among them; fails if the version is
-- older than this function.
SELECT schema_version() AS version, to_regclass('keys') IS NOT NULL AS has_keys
