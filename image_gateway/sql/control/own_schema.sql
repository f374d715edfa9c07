-- The schema that holds the gateway's own tables, and whether this role may use it; fails on a
-- control plane that has none.
SELECT own_schema, has_schema_privilege(own_schema, 'USAGE') AS may_use
FROM image_gateway.own_schema() AS own_schema
