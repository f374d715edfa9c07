"""The pure half of the gateway: values and decisions, no clock, randomness, IO or logging.

Time and randomness are arguments; a decision returns a value, and the caller acts on it.  Read from
the bottom layer up: ``model`` (keys, accounts) and ``errors``, ``codec`` (bytes and text),
``request`` (the client's request), ``dialects`` (the API of each upstream), ``routing`` (which
account serves the request), and ``records`` (the log record of each request).
"""
