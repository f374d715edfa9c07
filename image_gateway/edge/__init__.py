"""The half of the gateway that does IO: sockets, Postgres, files.  It has no policy.

Each folder owns one kind of peer: ``client``, ``upstream``, ``postgres``, ``slots`` (locks shared
by all processes) and ``records`` (the log).  ``spool`` holds bodies for all of them.  Exceptions of
libraries stop here: the rest of the gateway sees only the gateway's own.
"""
