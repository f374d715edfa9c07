"""Calls to accounts for one request: account after account, until one answer decides.

``dispatch`` ranks the accounts and waits for a slot, ``account_calls`` asks one of them as often as
the policy says, ``attempt`` makes one call and returns how it ended, ``fan_out`` makes several
calls where one call makes one picture, and ``delivery`` turns the answer into what the client asked
for.  This folder owns every await between a parsed request and its pictures.  It does not know the
client's paths, and ``core.routing.failover`` decides what follows from an outcome.  Start with
``dispatch.Dispatch.run``.
"""
