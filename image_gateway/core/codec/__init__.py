"""Bytes and text: JSON, base64, data URLs, multipart forms, server-sent events, body segments.

Everything here is incremental and gives the same result for any split of its input, because bodies
of 60 MB and answers of 100 MB are never held in memory as a whole.  It knows nothing about
parameters, accounts or prices.  Start with ``json_scanner`` and ``body_segments``.
"""
