-- Notes that a file was charged to its end.  Parameters: digest, file_name.
INSERT INTO charged_files (digest, file_name)
VALUES (%(digest)s, %(file_name)s)
ON CONFLICT (digest) DO NOTHING
