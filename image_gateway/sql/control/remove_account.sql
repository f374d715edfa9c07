-- Removes an account.  Parameter: account_name.
DELETE FROM image_control.accounts
WHERE account_name = %(account_name)s
RETURNING account_name
