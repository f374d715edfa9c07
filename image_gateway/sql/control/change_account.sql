-- Changes an account.  Parameters: the columns.
UPDATE accounts
SET status = %(status)s,
    image_enabled = %(image_enabled)s,
    image_max_concurrency = %(image_max_concurrency)s,
    base_url = %(base_url)s,
    deployments = %(deployments)s,
    credential = %(credential)s,
    responses_model = %(responses_model)s,
    fails_free = %(fails_free)s
WHERE account_name = %(account_name)s
RETURNING account_name
