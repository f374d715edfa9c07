"""Calls in flight, counted over all processes that read the same control plane.

One advisory lock stands for one place under a name: an account's, whose slots calls wait for, a
key's or an owner's, whose limits refuse.  Which call is next is policy (``core.routing.slots``);
this folder holds the futures and the locks.  Start with ``broker``.

    broker  ->  leases            whom a slot is granted, when
    claims                        the limits of keys and owners
    places                        which calls hold which locks
    shared_slots                  a session that may be lost
    advisory_locks                the session and its statements
"""
