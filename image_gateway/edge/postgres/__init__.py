"""The control plane's Postgres: the contract's views, a cache that outlives an outage, LISTEN.

The daemon reads and never writes; only ``standalone``, behind ``image-gateway control``, does.
What a row means is ``core.model``.  Start with ``control_plane``.
"""
