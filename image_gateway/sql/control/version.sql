-- The version of the standalone tables; fails if they are missing or older than it.
SELECT image_control.schema_version() AS version
