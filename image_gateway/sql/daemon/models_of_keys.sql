-- The models that active keys name and that look like one of the patterns: how many keys name each,
-- and one of them.  A name in allowed_models stands for the model that the key maps it to.
-- Parameter: patterns.
SELECT model, count(*) AS keys, min(key_id) AS key_id
FROM (
    SELECT keys.key_id, coalesce(keys.model_map ->> allowed.model, allowed.model) AS model
    FROM image_gateway.keys, unnest(keys.allowed_models) AS allowed (model)
    WHERE keys.status = 'active'
    UNION
    SELECT keys.key_id, mapped.value
    FROM image_gateway.keys,
         jsonb_each_text(
             CASE WHEN jsonb_typeof(keys.model_map) = 'object' THEN keys.model_map ELSE '{}' END
         ) AS mapped
    WHERE keys.status = 'active'
) AS named
WHERE lower(model) LIKE ANY (%(patterns)s)
GROUP BY model
ORDER BY model
LIMIT 100
