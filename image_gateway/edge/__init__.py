"""The half of the gateway that does IO: sockets, Postgres, files.  It has no policy.

Each folder owns one kind of peer: ``client``, ``upstream``, ``postgres``, ``slots`` (locks shared
by all processes), ``records`` (the log) and ``kept`` (the folder of calls that outlive their
request).  ``spool`` holds bodies for all of them, and a ``file_span`` is a part of one in a file.
Exceptions of libraries stop here: the rest of the gateway sees only the gateway's own.
"""
