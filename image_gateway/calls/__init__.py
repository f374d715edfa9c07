"""One purchase: account after account, attempt after attempt, until one answer decides.

``dispatch`` ranks the accounts and waits for a slot, ``account_calls`` asks one of them as often as
the policy says, ``attempt`` makes one call and returns how it ended, ``fan_out`` makes several
where one call makes one picture, and ``delivery`` turns an answer into what the client asked for.
This folder owns every await between a parsed request and the pictures it made.  It does not know
the client's paths, and what follows from an outcome is decided in ``core.routing.failover``.  Start
with ``dispatch.Dispatch.run``.
"""
