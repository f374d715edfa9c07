-- Whether calls can be charged here, and files noted that were charged to their end.
SELECT to_regproc('image_gateway.charge') IS NOT NULL AS can_charge,
       to_regclass('charged_files') IS NOT NULL AS notes_files
