"""One purchase: account after account, attempt after attempt, until one answer decides.

``dispatch`` ranks the accounts and waits for a slot, ``attempts`` asks one of them, and
``delivery`` turns its answer into what the client asked for.  This folder owns every await between
a parsed request and the pictures it made.  It does not know the client's headers or paths, and what
follows from an outcome is decided in ``core.routing.failover``.  Start with
``dispatch.Dispatch.run``.
"""
