"""The pure half of the gateway: values and decisions, no clock, randomness, IO or logging.

Time and randomness are arguments; a decision returns a value, and the caller acts on it.  Read from
the bottom: ``model`` (keys, accounts), ``errors``, ``codec`` (bytes and text), ``request`` (what a
client asks for), ``routing`` (who may serve it), ``dialects`` (what each upstream speaks), and
``records`` (what is kept of it afterwards).
"""
