"""The client's side of the wire: the listener, one request's socket, its body, its event stream.

Every input is bounded in bytes and time, and a client that disconnects is noticed at once.  Other
folders decide what a response says.  Start with ``downstream``.
"""
