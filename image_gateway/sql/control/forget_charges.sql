-- Deletes charges that prevent no second charge any more.
SELECT forget_charges()
