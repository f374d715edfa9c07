-- Those of the names that no account has.  Parameter: account_names.
SELECT name
FROM unnest(%(account_names)s::text[]) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM accounts a WHERE a.account_name = wanted.name)
ORDER BY name
