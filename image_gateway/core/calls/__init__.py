"""Calls: how a purchase is named, and which call a request finds.

A call is one purchase and what came of it; it outlives the request that started it.  This folder
owns the names of calls and the table that says whether a request starts a call or gets what an
earlier one made.  It does not know how a call is made (``image_gateway.calls``) or where its answer
is kept.  Start with ``finding.find``.
"""
