"""Calls: purchases, from their first attempt to the answer that their clients get.

``call`` is one purchase, a task of its own that outlives the request that started it, and
``keeping`` is what others find of it on the disk; ``registry`` knows those of this process, and
``search`` finds the one that a request gets.  ``dispatch`` ranks the accounts and waits for a slot,
``account_calls`` asks one of them as often as the policy says, ``attempt`` makes one attempt and
returns how it ended, ``fan_out`` makes several where one makes one picture.  ``collecting`` puts
what an upstream answers into an ``answer``, which clients read, and ``conclusion`` says how the
call ended.  This folder does not know the client's connection; ``core.routing.failover`` decides
what follows from an outcome and ``core.calls.finding`` which call a request finds.  Start with
``call.Call``.
"""
