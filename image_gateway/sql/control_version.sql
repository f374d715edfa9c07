-- The version of the standalone tables; fails where there are none, or older ones.
SELECT image_control.schema_version() AS version
