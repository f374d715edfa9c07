"""One HTTP request, from its headers to its log record.

``routes`` says where a path leads, ``request_body`` turns the body into what is asked for, and
``exchange`` walks the request through its phases and answers it.  This folder owns the client's
side: admission, the answer's status and headers, the record.  It does not know how a picture is
made; that is a call's business (``calls``).  Start with ``exchange.Exchange.run``.
"""
