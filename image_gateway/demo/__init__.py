"""A demo of the gateway with an embedded Postgres, a sample upstream that draws, and real clients.

It is for people who want to see it before they install it.  ``serve`` uses nothing of it.
"""
