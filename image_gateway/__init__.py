"""An image-only sidecar for people who run an LLM gateway: theory of operation.

One request goes through the gateway in one direction::

    bytes -> downstream.read -> request.parse -> access.check -> routing.able
      -> { routing.order -> waiting.slot -> dialect.encode -> upstream.send -> failover.next_step }*
      -> downstream.stream -> record.build -> logs.put     (finally: always, exactly once)

A call of the Responses API goes the same way where it asks for a picture, and past the accounts to
the text API where it does not (``core.request.intent``).

Four ideas hold the gateway together.

*Core decides, edge acts, the exchange is where they meet.*  ``core`` is pure: no clock, no
randomness, no environment, no logging, no asyncio.  ``edge`` does IO and has no policy.
``exchange`` is one request's life: only there, and in ``request_body`` and the modules of
``calls``, ``dispatch``, ``attempts``, ``fan_out``, ``responses_api`` and ``delivery``, decisions
and awaits interleave. ``app`` owns every resource and gives each to whoever needs it; nothing is
global.

*A picture costs money, so certainty decides.*  A call may go to another account only while it is
certain that no picture can exist: before the connection stood, or after an answer that says so.
``core.routing.failover`` is that rule as one table; everything it does not name is returned to the
client with ``x-should-retry: false``.

*Bodies are not values.*  A request of 60 MB or an answer of 100 MB is never held, parsed or copied
whole.  ``core.codec.json_scanner`` lifts long strings out of JSON while the bytes go by;
``core.codec.body_segments`` says what to send as literal bytes and spans of the spool;
``edge.spool`` plays it.

*Every request ends in one record.*  Slots are given back and the record is built synchronously, in
``finally``, whatever happened: a refusal, a client that left, a bug of ours.
"""

from importlib.metadata import version

__version__ = version("image-gateway")
