-- Deletes charges that are not needed: control_charge refuses calls older than keep_days, so a row
-- that is a day older prevents no second charge, even if a transaction that charges began earlier.
WITH calls AS (
    DELETE FROM image_control.charges
    WHERE called_at < now() - make_interval(days => %(keep_days)s + 1)
)
DELETE FROM image_control.charged_files
WHERE charged_at < now() - make_interval(days => %(keep_days)s + 1)
