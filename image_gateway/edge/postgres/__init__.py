"""The control plane's Postgres: the contract's views, a cache that outlives an outage, LISTEN.

The daemon reads and never writes; only ``standalone``, behind ``image-gateway control``, does.
``core.rows`` reads a row, ``core.model`` says what it means.  Start with ``control_plane``.
"""
