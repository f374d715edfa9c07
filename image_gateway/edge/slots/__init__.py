"""Slots of the accounts, shared by all processes that read the same control plane.

One advisory lock stands for one slot.  Which call is next is policy (``core.routing.slots``);
this folder holds the futures and the locks.  Start with ``broker``.
"""
