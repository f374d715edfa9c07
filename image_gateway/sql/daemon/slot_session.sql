-- Postgres notices within half a minute instead of two hours that the host of this session is gone,
-- and frees its slots.
SELECT 1
WHERE set_config('tcp_keepalives_idle', '15', false) IS NOT NULL
  AND set_config('tcp_keepalives_interval', '5', false) IS NOT NULL
  AND set_config('tcp_keepalives_count', '3', false) IS NOT NULL
  AND set_config('tcp_user_timeout', '30000', false) IS NOT NULL
