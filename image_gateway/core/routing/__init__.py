"""Who may serve a request, in which order, and what follows from a failure.

Admission of the key, capability, ranking, budgets, cooldowns, slots and failover: each a table or a
small state machine that is given the time.  It never waits and never asks; ``calls`` does.  Start
with ``failover``, the rule that the whole gateway is built around.
"""
