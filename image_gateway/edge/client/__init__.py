"""The client's side of the wire: the listener, one request's socket, its body, its event stream.

Every input is bounded in bytes and time, and a client that leaves is noticed at once.  What an
answer says is decided elsewhere.  Start with ``downstream``.
"""
