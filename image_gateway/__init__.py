"""An image-only sidecar for people who run an LLM gateway: theory of operation.

One request passes these phases, in this order::

    received       routes, exchange       its path leads somewhere; its key is looked up
    authenticated  request_body           its body comes in, checked on its way into the spool
    read           image_request, intent  what it asks for is a value; the accounts are looked up
    (joined)       search, registry       it is a retry: it waits for the call that it finds
    admitted       capability, ranking    some account can do all of it, and the key may start
    waiting        broker                 for a slot of the best account that has one   <--+
    sent           encoder, http_client   an upstream has it                               |
    answered       attempt                its head is here  -- failover: next account -----+
    arriving       collecting             its body, or its events, come in
    delivered      delivery               the client gets the answer, at its own pace
    recorded       builder, writer        always, exactly once

From ``admitted`` to ``arriving`` a request is a call: a purchase, which goes on when its client has
left.  A call of the Responses API goes the same way where it asks for a picture, and on to the text
API where it does not (``core.request.intent_signals``).

Five ideas hold the gateway together.

*Core decides, edge acts, exchange and calls are where they meet.*  ``core`` is pure: no clock, no
randomness, no environment, no logging, no asyncio.  ``edge`` does IO and has no policy.
``exchange`` is one HTTP request and ``calls`` one purchase: only there do decisions and awaits
interleave.  ``app`` owns every resource and hands it on; nothing is global.

*A picture costs money, so certainty decides.*  A call may go to another account only while it is
certain that no picture can exist: before the connection stood, or after an answer that says so.
``core.routing.failover`` is that rule as one table; everything it does not name is returned to the
client with ``x-should-retry: false``.

*A call outlives its connection.*  What was paid for is kept, and a request that comes back gets it:
``core.calls.finding`` says which call a request finds, as one table.

*Bodies are not values.*  A request of 60 MB or an answer of 100 MB is never held, parsed or copied
whole.  ``core.codec.json_scanner`` lifts long strings out of JSON while the bytes go by;
``core.codec.body_segments`` says what to send as literal bytes and spans of the spool;
``edge.spool`` plays it.

*Every request ends in one record.*  Slots are given back synchronously and the record is built
whatever happened: a refusal, a client that left, a bug in the gateway.  The record of a request
that started a call waits for the call's end, because the usage stands there.
"""

from importlib.metadata import version

__version__ = version("image-gateway")
