-- Removes an account.  Parameter: account_name.
DELETE FROM accounts
WHERE account_name = %(account_name)s
RETURNING account_name
