-- Postgres notices within half a minute instead of two hours that the host of this session is gone,
-- and frees its slots.
SET tcp_keepalives_idle = 15;
SET tcp_keepalives_interval = 5;
SET tcp_keepalives_count = 3;
SET tcp_user_timeout = 30000
