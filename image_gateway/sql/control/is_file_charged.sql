-- Whether a file was charged to its end.  Parameter: digest.
SELECT EXISTS (SELECT FROM charged_files WHERE digest = %(digest)s) AS is_charged
