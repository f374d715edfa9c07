"""Which accounts may serve a request, in which order, and what follows from a failure.

Admission of the key, capability, ranking, budgets, cooldowns, slots and failover: each is a table
or a small state machine that gets the time as an argument.  Nothing here waits or sends a call;
``calls`` does.  Start with ``failover``, the rule that the whole gateway is built around.
"""
