"""One HTTP request, from its headers to its log record.

``routes`` maps paths to handlers, ``request_body`` parses the body, and ``exchange`` takes the
request through its phases; ``call_lookup`` finds its call or starts one, and ``handover`` gives the
client the answer, or the id to ask for it by.  This folder owns the client's side: admission, the
answer's status and headers, the record.  It does not know how a picture is made (``calls``).  Start
with ``exchange.Exchange.run``.
"""
