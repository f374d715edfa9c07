-- The newest sealed log file that was charged to its end; null if there is none.  The daemon's file
-- names sort by the time of sealing; other names do not show a time.
SELECT max(file_name COLLATE "C") AS file_name
FROM charged_files
WHERE file_name ~ '^requests-[0-9]{8}T[0-9]{6}Z-'
