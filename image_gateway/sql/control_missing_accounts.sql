-- Which of these names no account has.  Parameter: account_names.
SELECT name
FROM unnest(%(account_names)s::text[]) AS given (name)
WHERE NOT EXISTS (SELECT FROM image_control.accounts a WHERE a.account_name = given.name)
ORDER BY name
