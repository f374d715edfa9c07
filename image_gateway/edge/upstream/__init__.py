"""The upstream's side of the wire: one POST, its response, its events, and the text API.

An error says for certain that nothing was sent (``UnsentError``), or that something was or may have
been sent (``LostError``).  Nothing is retried here.  Start with ``http_client``.
"""
