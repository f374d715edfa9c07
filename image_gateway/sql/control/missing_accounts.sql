-- Those of the names that no account has, be it the control plane's.  Parameter: account_names.
SELECT name
FROM unnest(%(account_names)s::text[]) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM image_gateway.accounts a WHERE a.account_name = wanted.name)
ORDER BY name
