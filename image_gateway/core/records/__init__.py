"""What is kept of a request afterwards: the log record, charges, summaries, the status page's data.

A record is built from an allow-list, so no prompt, picture or credential can get into one.  Start
with ``record``.
"""
