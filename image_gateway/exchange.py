"""One request's life: where decisions and awaits interleave.

``Exchange.run`` walks a request from its key to its record; ``dispatch``, ``attempts`` and
``delivery`` are its inner rooms: the way from account to account, one account asked, one answer
delivered.  Core says what may happen, edge makes
it happen, and between them three promises are kept:

- What is taken is given back: the key's place, the account's slot, the spool and the upstream's
  connection are context managers, left in the order of an onion by every way out.
- What may have been bought is not bought again: how a call ended goes through
  ``failover.next_step`` before another account is asked.
- What happened is recorded, once, whatever it was.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Final

from image_gateway.attempts import Ending
from image_gateway.core import (
    access,
    errors,
    failover,
    headers,
    multipart,
    record,
    request,
)
from image_gateway.core.errors import Refusal, Source
from image_gateway.core.failover import Action, Stage
from image_gateway.core.model import Grant, Key
from image_gateway.core.models import Endpoint
from image_gateway.core.request import ImageRequest
from image_gateway.core.slots import Slot
from image_gateway.delivery import Desk, Rest
from image_gateway.dispatch import Dispatch
from image_gateway.edge.cache import UnavailableError
from image_gateway.edge.downstream import ClientLeftError, Downstream, DrainedError
from image_gateway.edge.event_stream import EventStream
from image_gateway.edge.intake import Intake, JsonIntake, PartsIntake
from image_gateway.edge.spool import Spool, SpoolFullError
from image_gateway.house import House

_UNAVAILABLE_RETRY_SECONDS: Final = 5.0
_OVERLOADED_RETRY_SECONDS: Final = 5.0
_KEY_RETRY_SECONDS: Final = 1.0
_DRAIN_RETRY_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class Exchange:
    """One request to an image path, from its headers to its record."""

    def __init__(self, house: House, downstream: Downstream, draft: record.Draft) -> None:
        self._house = house
        self._downstream = downstream
        self._draft = draft
        self._began = time.monotonic()
        self._dispatch: Dispatch | None = None
        self._stream: EventStream | None = None
        self._rest: Rest | None = None
        self._kept = ExitStack()

    def __repr__(self) -> str:
        return f"<Exchange {self._draft.request_id} {self._downstream!r}>"

    async def run(self, way: Endpoint | Refusal, path_model: str | None = None) -> None:
        """Answer the request and record it.  Raises nothing but a cancellation from outside.

        ``way``: where the path leads, or the refusal that it leads to.
        """
        try:
            try:
                if isinstance(way, Refusal):
                    raise way
                await self._serve(way, path_model)
            except Refusal as refusal:
                await self._refuse(refusal)
            except DrainedError:
                await self._end_drained()
            except ClientLeftError:
                raise
            except Exception:  # noqa: BLE001 - the last resort of a request
                self._note_unfinished()
                _log.exception("request %s failed by a mistake of ours", self._draft.request_id)
                await self._refuse(
                    Refusal(
                        "internal_error",
                        "The gateway made a mistake. Whoever runs it can find it by the request "
                        f"id {self._draft.request_id}.",
                    )
                )
        except ClientLeftError:
            self._note_left()
        except asyncio.CancelledError:
            self._note_left()
            raise
        finally:
            if self._stream is not None:
                self._stream.quiet()
            self._kept.close()
            self._put_record()

    # -- admission -------------------------------------------------------------------------------

    async def _serve(self, endpoint: Endpoint, path_model: str | None) -> None:
        key = await self._authenticate()
        with self._take_key(key), self._house.spools.open() as spool:
            parsed = await self._read(endpoint, path_model, key, spool)
            access.check_model(key, parsed.model)
            if parsed.stream:
                seconds = self._house.settings.keepalive_seconds
                self._stream = EventStream(self._downstream, seconds)
            async with self._downstream.watch():
                await self._forward(key, parsed, spool)
        if self._rest is None:
            self._downstream.break_off()
        else:
            await self._rest()

    async def _authenticate(self) -> Key:
        began = time.monotonic()
        secret = headers.secret(self._downstream.headers)
        if secret is None:
            raise errors.missing_key()
        try:
            key = await self._house.control_plane.key(secret)
        except UnavailableError:
            raise _control_plane_unavailable() from None
        finally:
            self._draft.auth_ms = _ms(began)
        if key is None:
            raise errors.unknown_key()
        self._draft.note_key(key)
        access.check_key(key)
        return key

    def _take_key(self, key: Key) -> Slot:
        slot = self._house.key_slots.take(key.key_id, key.max_concurrency)
        if slot is None:
            raise Refusal(
                "key_concurrency",
                f"This key may have {key.max_concurrency} image calls in flight, and has. "
                "Wait for one to end.",
                retry_after=_KEY_RETRY_SECONDS,
            )
        return slot

    async def _read(
        self, endpoint: Endpoint, path_model: str | None, key: Key, spool: Spool
    ) -> ImageRequest:
        began = time.monotonic()
        intake = self._intake(spool)
        self._downstream.check_size()
        try:
            await self._downstream.read_body(intake)
            given = intake.close(self._house.catalogue, takes_pictures=endpoint == "edits")
        except SpoolFullError:
            raise Refusal(
                "overloaded",
                "The gateway holds as many request bytes as it may. Try again in a moment.",
                retry_after=_OVERLOADED_RETRY_SECONDS,
            ) from None
        finally:
            self._draft.body_ms = _ms(began)
        settings = self._house.settings
        rules = request.Rules(
            self._house.catalogue,
            settings.default_model,
            key.model_map,
            settings.forward_parameters,
        )
        parsed = request.parse(endpoint, given, rules, path_model)
        self._draft.note_request(parsed, self._house.prompt_key)
        return parsed

    def _intake(self, spool: Spool) -> Intake:
        got, settings = self._downstream.headers, self._house.settings
        if (got.get("content-encoding") or "identity").lower() != "identity":
            raise Refusal("unsupported_media_type", "Send the body without a `content-encoding`.")
        content_type = got.get("content-type")
        match headers.media_type(content_type):
            case "application/json":
                self._draft.body_form = "json"
                return JsonIntake(spool)
            case "multipart/form-data":
                self._draft.body_form = "multipart"
                limits = multipart.Limits(settings.max_part_bytes, settings.max_parts)
                return PartsIntake(spool, multipart.boundary(content_type), limits)
        raise Refusal(
            "unsupported_media_type",
            "Send the body as `content-type: application/json`, or an edit with its pictures as "
            "`multipart/form-data`.",
        )

    # -- the way to an account -------------------------------------------------------------------

    async def _forward(self, key: Key, parsed: ImageRequest, spool: Spool) -> None:
        house = self._house
        began = time.monotonic()
        try:
            grant: Grant = await house.control_plane.grant(key)
        except UnavailableError:
            raise _control_plane_unavailable() from None
        self._draft.auth_ms = (self._draft.auth_ms or 0) + _ms(began)
        desk = Desk(
            parsed,
            self._downstream,
            self._stream,
            self._draft,
            house.spools,
            self._kept,
            house.settings.upstream_idle_seconds,
        )
        self._dispatch = Dispatch(house, desk, grant, self._downstream.headers, spool)
        ending = await self._dispatch.run()
        self._conclude(ending, self._dispatch.attempts.rest)

    def _conclude(self, ending: Ending, rest: Rest | None) -> None:
        """What the client gets of the call that decides; raises ``Refusal``."""
        step = ending.step
        if step.action is Action.DELIVER:
            self._rest = rest
        elif step.action is Action.REPLACE and step.code is not None:
            raise failover.replacement(step.code)
        elif step.action in {Action.RETURN, Action.NEXT} or ending.outcome.told:
            self._pass_on(ending)
        else:
            raise failover.replacement("upstream_cut")

    # -- answers ---------------------------------------------------------------------------------

    def _pass_on(self, ending: Ending) -> None:
        """An upstream's error, in its own words, without what is nobody's business."""
        outcome, account = ending.outcome, ending.account
        status = outcome.status or 502
        body = errors.scrub(
            errors.passed_on(status, ending.body, outcome.error),
            [*account.secrets(), account.account_name],
        )
        sent = headers.to_client_with_error(ending.headers)
        if outcome.wait is not None and not headers.RETRY & set(sent):
            sent |= errors.retry_headers(outcome.wait)
        if not ending.step.retry:
            sent["x-should-retry"] = "false"
        self._draft.note_failure(
            record.upstream_code(outcome.error) or f"upstream_{status}", Source.UPSTREAM
        )
        self._rest = partial(self._answer, status, sent, body)

    async def _answer(self, status: int, sent: Mapping[str, str], body: bytes) -> None:
        """An error as JSON: with its status, or as the last event of a stream that has begun."""
        if self._stream is not None:
            self._stream.quiet()
            if self._stream.committed:
                await self._stream.fail(body)
                return
        await self._downstream.answer(status, {**sent, "content-type": "application/json"}, body)

    async def _end_drained(self) -> None:
        """The drain deadline: what was made is delivered, what was sent stays unknown, what was
        not may come again.
        """
        self._note_unfinished()
        rest = None if self._dispatch is None else self._dispatch.attempts.salvage()
        if rest is not None:
            await rest()
        elif self._draft.may_be_billed:
            self._draft.note_failure("outcome_unknown", Source.GATEWAY)
            await self._refuse(failover.replacement("outcome_unknown"))
        else:
            await self._refuse(draining())

    async def _refuse(self, refusal: Refusal) -> None:
        self._draft.note_failure(refusal.code, refusal.kind.source)
        if self._stream is None and self._downstream.status is not None:
            self._downstream.break_off()
            return
        await self._answer(refusal.kind.status, refusal.headers(), refusal.body())

    # -- the record ------------------------------------------------------------------------------

    def _note_left(self) -> None:
        draft = self._draft
        draft.client_left = True
        draft.note_failure(errors.CLIENT_LEFT, Source.CLIENT)
        self._note_unfinished()

    def _note_unfinished(self) -> None:
        """Sent and not answered, or answered and not delivered: it may be billed all the same."""
        for attempt in self._draft.attempts:
            if attempt.stage != Stage.CONNECT:
                self._draft.may_be_billed |= attempt.action in {None, Action.DELIVER}

    def _put_record(self) -> None:
        draft = self._draft
        draft.status = self._downstream.status
        draft.request_bytes = self._downstream.request_bytes
        draft.response_bytes = self._downstream.response_bytes
        draft.total_ms = _ms(self._began)
        self._house.logs.put(record.build(draft))


def draining() -> Refusal:
    """This instance stops; another one, or the next, is there for the call."""
    return Refusal(
        "draining",
        "This instance is stopping. Send the call again.",
        retry_after=_DRAIN_RETRY_SECONDS,
    )


def _control_plane_unavailable() -> Refusal:
    return Refusal(
        "control_plane_unavailable",
        "The gateway cannot look up API keys right now. Try again in a moment.",
        retry_after=_UNAVAILABLE_RETRY_SECONDS,
    )


def _ms(since: float) -> int:
    return round((time.monotonic() - since) * 1000)
