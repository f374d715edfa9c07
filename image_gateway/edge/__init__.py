"""The half of the gateway that does IO: sockets, Postgres, files.  It has no policy."""
