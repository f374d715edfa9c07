"""The upstream's side of the wire: one POST, its answer, its events, and the text API.

What matters here is certainty: an error says whether anything was sent (``UnsentError``) or not
(``LostError``).  Nothing is retried.  Start with ``http_client``.
"""
