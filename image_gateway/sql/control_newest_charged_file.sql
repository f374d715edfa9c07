-- The newest sealed log file that was charged to its end; null where there is none.  The daemon's names
-- sort by when they were sealed; what somebody named otherwise tells no time.
SELECT max(file_name COLLATE "C") AS file_name
FROM image_control.charged_files
WHERE file_name ~ '^requests-[0-9]{8}T[0-9]{6}Z-'
