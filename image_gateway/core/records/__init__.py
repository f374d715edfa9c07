"""Data about requests that have ended: the log record, charges, summaries, the status page's data.

A record is built from an allow-list, so it cannot hold a prompt, a picture or a credential.  Start
with ``record``.
"""
