"""One request's life: the only place where decisions and awaits interleave.

``Exchange.run`` walks a request from its key to its record.  Core says what may happen, edge makes
it happen, and this module keeps three promises between them:

- What is taken is given back: the key's place, the account's slot, the spool and the upstream's
  connection are context managers, left in the order of an onion by every way out.
- What may have been bought is not bought again: an attempt's outcome goes through
  ``failover.next_step`` before anything else is done with it.
- What happened is recorded, once, whatever it was.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from image_gateway.config import Settings
from image_gateway.core import (
    access,
    dialects,
    errors,
    failover,
    headers,
    record,
    request,
    routing,
    scan,
)
from image_gateway.core.errors import Refusal, Source
from image_gateway.core.failover import Action, Outcome, Stage, Step
from image_gateway.core.health import Health
from image_gateway.core.model import Account, Grant, Key
from image_gateway.core.models import Catalogue, Endpoint
from image_gateway.core.request import ImageRequest
from image_gateway.core.slots import Slot, SlotTable, StartClock
from image_gateway.edge.cache import UnavailableError
from image_gateway.edge.control_plane import ControlPlane
from image_gateway.edge.downstream import ClientLeftError, Downstream, DrainedError
from image_gateway.edge.intake import JsonIntake
from image_gateway.edge.logs import RequestLog
from image_gateway.edge.spool import Spool, SpoolFullError, Spools
from image_gateway.edge.upstream import Answer, LostError, UnsentError, Upstream

LEAST_ATTEMPT_SECONDS: Final = 30.0
"""A further attempt with less time left would buy a picture that comes too late."""

_PROXY_REFUSED: Final = 407
_ERROR_BYTES: Final = 64 * 1024
_ERROR_SECONDS: Final = 10.0
_UNAVAILABLE_RETRY_SECONDS: Final = 5.0
_OVERLOADED_RETRY_SECONDS: Final = 5.0
_KEY_RETRY_SECONDS: Final = 1.0
_DRAIN_RETRY_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class House:
    """What every exchange shares; built and closed by ``app``."""

    settings: Settings
    catalogue: Catalogue
    control_plane: ControlPlane
    upstream: Upstream
    spools: Spools
    logs: RequestLog
    prompt_key: bytes = field(repr=False)
    key_slots: SlotTable = field(default_factory=SlotTable)
    account_slots: SlotTable = field(default_factory=SlotTable)
    starts: StartClock = field(default_factory=StartClock)
    health: Health = field(default_factory=Health)


@dataclass(frozen=True, slots=True)
class _Failed:
    """An upstream's answer that was no success, kept until it is known whether it is the last."""

    account: Account
    outcome: Outcome
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Rest:
    """What the client still gets once slot, connection and spool are given back.

    Were the last byte sent before, a client that calls again at once could find its own slot taken.
    ``status`` None: the answer has begun, and ``body`` is its last chunk.
    """

    body: bytes = field(repr=False)
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Exchange:
    """One request to an image path, from its headers to its record."""

    def __init__(self, house: House, downstream: Downstream, draft: record.Draft) -> None:
        self._house = house
        self._downstream = downstream
        self._draft = draft
        self._began = time.monotonic()
        self._failed: list[_Failed] = []
        self._busy = False
        self._unreachable = False
        self._rest: _Rest | None = None

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
                await self._refuse(self._drained())
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
            self._put_record()

    # -- admission -------------------------------------------------------------------------------

    async def _serve(self, endpoint: Endpoint, path_model: str | None) -> None:
        key = await self._authenticate()
        with self._take_key(key), self._house.spools.open() as spool:
            parsed = await self._read(endpoint, path_model, key, spool)
            access.check_model(key, parsed.model)
            async with self._downstream.watch():
                await self._forward(key, parsed, spool)
        if self._rest is None:
            self._downstream.break_off()
        elif self._rest.status is None:
            await self._downstream.send(self._rest.body)
            await self._downstream.finish()
        else:
            await self._downstream.answer(self._rest.status, self._rest.headers, self._rest.body)

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
        self._downstream.check_size()
        self._check_form()
        self._draft.body_form = "json"
        intake = JsonIntake(spool)
        try:
            await self._downstream.read_body(intake)
            body = intake.close()
        except scan.ScanError as error:
            raise Refusal("invalid_body", str(error)) from None
        except UnicodeDecodeError:
            raise Refusal("invalid_body", "The body is not valid UTF-8.") from None
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
        parsed = request.parse(endpoint, body, intake.lifted, rules, path_model)
        self._draft.note_request(parsed, self._house.prompt_key)
        return parsed

    def _check_form(self) -> None:
        got = self._downstream.headers
        if headers.media_type(got.get("content-type")) != "application/json":
            raise Refusal(
                "unsupported_media_type",
                "Send the body as `content-type: application/json`; multipart bodies are not taken "
                "yet. A JSON edit carries its pictures as `images`: "
                '[{"image_url": "data:image/png;base64,..."}].',
            )
        if (got.get("content-encoding") or "identity").lower() != "identity":
            raise Refusal("unsupported_media_type", "Send the body without a `content-encoding`.")

    # -- the way to an account -------------------------------------------------------------------

    async def _forward(self, key: Key, parsed: ImageRequest, spool: Spool) -> None:
        house = self._house
        began = time.monotonic()
        try:
            grant: Grant = await house.control_plane.grant(key)
        except UnavailableError:
            raise _control_plane_unavailable() from None
        self._draft.auth_ms = (self._draft.auth_ms or 0) + _ms(began)
        accounts = routing.order(
            grant,
            parsed,
            house.catalogue,
            routing.State(house.account_slots.in_use, house.health, began, datetime.now(UTC)),
            house.settings.budget_threshold_percent,
        )
        wait = house.starts.wait(key.key_id, key.min_start_interval_ms, began)
        if wait > 0:
            raise Refusal(
                "key_start_interval",
                f"This key may start an image call every {key.min_start_interval_ms} ms.",
                retry_after=wait,
            )
        deadline = began + house.settings.total_seconds
        self._draft.wait_ms = 0
        for account in accounts:
            slot = house.account_slots.take(account.account_name, account.image_max_concurrency)
            if slot is None:
                self._busy = True
                continue
            with slot:
                if self._draft.attempts:
                    if deadline - time.monotonic() < LEAST_ATTEMPT_SECONDS:
                        break
                else:
                    house.starts.start(key.key_id, time.monotonic())
                if await self._try(account, parsed, spool, deadline):
                    return
        self._give_up()

    async def _try(
        self, account: Account, parsed: ImageRequest, spool: Spool, deadline: float
    ) -> bool:
        """One account, twice at most: once more where its credential was renewed meanwhile.

        True when the client has its answer.
        """
        began = time.monotonic()
        action = await self._attempt(account, parsed, spool, deadline, reread=False)
        if action is not Action.REREAD:
            return action is not Action.NEXT
        renewed = await self._house.control_plane.reread(account.account_name, began)
        if (
            renewed is not None
            and renewed.credential != account.credential
            and routing.has_credential(renewed, datetime.now(UTC))
            and deadline - time.monotonic() >= LEAST_ATTEMPT_SECONDS
        ):
            self._failed.pop()
            action = await self._attempt(renewed, parsed, spool, deadline, reread=True)
            return action is not Action.NEXT
        failed = self._failed.pop()
        refused = replace(failed, outcome=replace(failed.outcome, reread=True))
        self._failed.append(refused)
        step = failover.next_step(refused.outcome)
        self._draft.attempts[-1].action = step.action
        self._cool(account, parsed, step)
        return False

    async def _attempt(
        self,
        account: Account,
        parsed: ImageRequest,
        spool: Spool,
        deadline: float,
        *,
        reread: bool,
    ) -> Action:
        """One call.  What it led to is done on return, but for ``NEXT`` and ``REREAD``."""
        settings = self._house.settings
        call = dialects.BY_NAME[account.dialect].encode(
            parsed,
            account,
            self._downstream.headers,
            dialects.Defaults(settings.codex_base_url, settings.codex_client_version),
        )
        note = record.Attempt(account.account_name, account.dialect, stage=Stage.CONNECT)
        self._draft.attempts.append(note)
        self._draft.account_name = account.account_name
        self._draft.dialect = account.dialect
        began = time.monotonic()
        seconds = min(settings.codex_seconds, deadline - began)
        async with self._house.upstream.attempt(call, spool, account.proxy) as attempt:
            failed: _Failed | None = None
            answer: Answer | None = None
            try:
                answer = await attempt.open(seconds)
                note.stage = Stage.ANSWER
            except UnsentError as error:
                outcome = Outcome(Stage.CONNECT, account.dialect)
                note.error_code = str(error)
                self._unreachable = True
            except LostError as error:
                note.stage = Stage.SENT
                outcome = Outcome(Stage.SENT, account.dialect)
                note.error_code = str(error)
            else:
                failed = await self._judge(account, answer, reread=reread)
                outcome = failed.outcome
                note.status = answer.status
                note.error_code = record.upstream_code(outcome.error)
            finally:
                if attempt.connected and note.stage is Stage.CONNECT:
                    note.stage = Stage.SENT
                note.upstream_ms = _ms(began)
                self._draft.upstream_ms = (self._draft.upstream_ms or 0) + note.upstream_ms
            step = failover.next_step(outcome)
            note.action = step.action
            self._cool(account, parsed, step)
            self._draft.may_be_billed = step.may_be_billed
            if step.action is Action.DELIVER and answer is not None:
                # Headers that came late must not cost a picture that is on its way.
                first_seconds = max(
                    seconds - (time.monotonic() - began), settings.upstream_idle_seconds
                )
                await self._deliver(account, parsed, answer, first_seconds, note)
            elif step.action is Action.RETURN and failed is not None:
                self._pass_on(failed, step)
            elif step.action is Action.REPLACE and step.code is not None:
                raise failover.replacement(step.code)
            elif failed is not None:
                self._failed.append(failed)
            return step.action

    async def _judge(self, account: Account, answer: Answer, *, reread: bool) -> _Failed:
        """What an answer's head, and the body of one that is no success, say."""
        kind = headers.media_type(answer.headers.get("content-type"))
        plain = answer.headers.get("content-encoding", "identity").lower() == "identity"
        if 200 <= answer.status < 300:
            usable = kind == "application/json" and plain
            outcome = Outcome(Stage.ANSWER, account.dialect, answer.status, usable=usable)
            return _Failed(account, outcome, answer.headers, b"")
        if answer.status == _PROXY_REFUSED and account.proxy is not None:
            # The proxy speaks for itself; what it refused did not reach the upstream.
            self._unreachable = True
            return _Failed(account, Outcome(Stage.CONNECT, account.dialect), answer.headers, b"")
        body = await answer.read(_ERROR_BYTES, _ERROR_SECONDS)
        error = errors.read_upstream_error(body)
        outcome = Outcome(
            Stage.ANSWER,
            account.dialect,
            answer.status,
            error=error,
            wait=headers.named_wait(answer.headers, error, time.time()),
            challenge=kind == "text/html",
            reread=reread,
        )
        return _Failed(account, outcome, answer.headers, body)

    def _cool(self, account: Account, parsed: ImageRequest, step: Step) -> None:
        health = self._house.health
        if step.cooling is not None:
            now = time.monotonic()
            seconds = health.cool(
                account.account_name, parsed.upstream_model, step.cooling, now, account.credential
            )
            last = self._draft.attempts[-1]
            _log.warning(
                "account %s cools down for %.0f s: status %s, code %s, request %s",
                account.account_name,
                seconds,
                last.status,
                last.error_code,
                self._draft.request_id,
            )
        elif step.action is Action.DELIVER:
            health.succeed(account.account_name, parsed.upstream_model)

    # -- answers ---------------------------------------------------------------------------------

    async def _deliver(
        self,
        account: Account,
        parsed: ImageRequest,
        answer: Answer,
        first_seconds: float,
        note: record.Attempt,
    ) -> None:
        """Stream the picture through, counting on the way."""
        meter = record.Meter()
        left = headers.whole(answer.headers.get("content-length"))
        last = b""
        urls = scan.DataUrls() if parsed.answer_as_url else None
        sent = headers.to_client(answer.headers)
        if urls is not None:
            sent.pop("content-length", None)
        began: float | None = None
        try:
            async for chunk in answer.chunks(
                first_seconds, self._house.settings.upstream_idle_seconds
            ):
                if began is None:
                    began = time.monotonic()
                    note.stage = Stage.STREAM
                    await self._downstream.start(answer.status, sent)
                meter.feed(chunk)
                left = None if left is None else left - len(chunk)
                out = chunk if urls is None else urls.feed(chunk)
                if left == 0:
                    last = out
                else:
                    await self._downstream.send(out)
        except (LostError, scan.ScanError) as error:
            self._break_off(account, error, note)
            return
        finally:
            self._draft.stream_ms = None if began is None else _ms(began)
            meter.close(self._draft)
        if began is None:
            note.action = Action.REPLACE
            self._draft.may_be_billed = True
            raise failover.replacement("upstream_invalid")
        self._rest = _Rest(last)

    def _break_off(self, account: Account, error: Exception, note: record.Attempt) -> None:
        """The answer broke off: before its first byte a 504, after it an end that shows."""
        stage = Stage.STREAM if self._downstream.status is not None else Stage.SENT
        step = failover.next_step(Outcome(stage, account.dialect))
        note.stage, note.action = stage, step.action
        self._draft.may_be_billed = step.may_be_billed
        if step.code is not None:
            note.error_code = type(error).__name__
            raise failover.replacement(step.code)
        note.error_code = errors.UPSTREAM_CUT
        self._draft.note_failure(errors.UPSTREAM_CUT, Source.UPSTREAM)

    def _pass_on(self, failed: _Failed, step: Step) -> None:
        """An upstream's error, in its own words, without what is nobody's business."""
        error = failed.outcome.error
        status = failed.outcome.status or 502
        body = failed.body
        if not error.shaped:
            message = error.message or f"The upstream answered {status} without an error in JSON."
            kind = error.type or ("api_error" if status >= 500 else "invalid_request_error")
            body = errors.error_body(message, kind, error.param, error.code)
        body = errors.scrub(body, [*failed.account.secrets(), failed.account.account_name])
        sent = headers.to_client_with_error(failed.headers)
        if failed.outcome.wait is not None and not headers.RETRY & set(sent):
            sent |= errors.retry_headers(failed.outcome.wait)
        if not step.retry:
            sent["x-should-retry"] = "false"
        self._draft.note_failure(
            record.upstream_code(error) or f"upstream_{status}", Source.UPSTREAM
        )
        self._rest = _Rest(body, status, {**sent, "content-type": "application/json"})

    def _give_up(self) -> None:
        """No account is left: the most telling upstream answer, else what kept us from one."""
        best = failover.most_telling([failed.outcome for failed in self._failed])
        if best is not None:
            failed = self._failed[best]
            self._draft.account_name = failed.account.account_name
            self._draft.dialect = failed.account.dialect
            self._pass_on(failed, Step(Action.RETURN))
            return
        self._draft.account_name = self._draft.dialect = None
        if self._busy:
            raise routing.all_busy()
        if self._unreachable:
            raise Refusal(
                "upstream_unreachable",
                "No connection to any upstream could be made; nothing was sent. Try again.",
                retry_after=_UNAVAILABLE_RETRY_SECONDS,
            )
        raise routing.no_credentials()

    def _drained(self) -> Refusal:
        """The drain deadline: what was sent stays unknown, what was not may come again."""
        self._note_unfinished()
        if self._draft.may_be_billed:
            self._draft.note_failure("outcome_unknown", Source.GATEWAY)
            return failover.replacement("outcome_unknown")
        return draining()

    async def _refuse(self, refusal: Refusal) -> None:
        self._draft.note_failure(refusal.code, refusal.kind.source)
        if self._downstream.status is not None:
            self._downstream.break_off()
            return
        await self._downstream.answer(
            refusal.kind.status,
            {"content-type": "application/json", **refusal.headers()},
            refusal.body(),
        )

    # -- the record ------------------------------------------------------------------------------

    def _note_left(self) -> None:
        draft = self._draft
        draft.client_left = True
        draft.note_failure(errors.CLIENT_LEFT, Source.CLIENT)
        self._note_unfinished()

    def _note_unfinished(self) -> None:
        """Sent and not answered, or answered and not delivered: it may be billed all the same."""
        last = self._draft.attempts[-1] if self._draft.attempts else None
        if last is not None and last.stage != Stage.CONNECT:
            self._draft.may_be_billed |= last.action in {None, Action.DELIVER}

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
