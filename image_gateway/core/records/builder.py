"""The facts that the phases of a request collect, and the record that is built from them.

Each phase stores its facts in the request's ``RecordBuilder``: the arrival, the key, the
parameters, one attempt for each call to an account, the pictures, the failure.  Nothing is computed
twice: the times come from the ``Timeline``, and ``build`` only puts the parts together.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final, Self

from image_gateway.core import untrusted
from image_gateway.core.codec import json_skeleton
from image_gateway.core.errors import Source
from image_gateway.core.model import Key
from image_gateway.core.records.phases import Phase, Timeline
from image_gateway.core.records.record import AttemptRecord, Record
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import IntentRequest


@dataclass(frozen=True, slots=True)
class Arrival:
    """The facts from a request's head."""

    time: datetime
    request_id: str
    client_address: str | None = None
    endpoint: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The facts from a request's body; of the prompt only its length and its keyed hash."""

    model: str | None = None
    upstream_model: str | None = None
    size: str | None = None
    quality: str | None = None
    n: int | None = None
    stream: bool | None = None
    input_image_count: int | None = None
    input_image_bytes: int | None = None
    prompt_chars: int | None = None
    prompt_hmac: str | None = None

    @classmethod
    def of_image(cls, request: ImageRequest, prompt_key: bytes) -> Self:
        """The facts from the body of an Images call."""
        size, quality = request.parameters.get("size"), request.parameters.get("quality")
        return cls(
            model=request.model,
            upstream_model=request.upstream_model,
            size=size if isinstance(size, str) else None,
            quality=quality if isinstance(quality, str) else None,
            n=request.count,
            stream=request.stream,
            input_image_count=len(request.input_images),
            input_image_bytes=sum(image.size or 0 for image in request.input_images),
            prompt_chars=len(request.prompt),
            prompt_hmac=prompt_hmac(prompt_key, request.prompt),
        )

    @classmethod
    def of_intent(cls, request: IntentRequest, prompt_key: bytes) -> Self:
        """The facts from the body of a Responses call, as far as they are known."""
        prompt = request.prompt
        return cls(
            model=request.model,
            upstream_model=request.upstream_model,
            stream=request.stream,
            input_image_count=request.input_image_count,
            prompt_chars=None if prompt is None else len(prompt),
            prompt_hmac=None if prompt is None else prompt_hmac(prompt_key, prompt),
        )


@dataclass(frozen=True, slots=True)
class Made:
    """The facts from an answer: pictures, usage, and its size and quality.

    Upstreams take the requested size and quality as advice and bill those of the answer.
    """

    pictures: int
    usage: Mapping[str, int] | None = None
    size: str | None = None
    quality: str | None = None

    @classmethod
    def of(
        cls,
        pictures: int,
        usage: object,
        source: Mapping[str, object],
        before: "Made | None" = None,
    ) -> Self:
        """``source`` holds size and quality: the fields of a picture or of the answer.  What it
        does not hold stays as it was ``before``.
        """
        return cls(
            pictures,
            sums(usage),
            _text(source, "size") or (None if before is None else before.size),
            _text(source, "quality") or (None if before is None else before.quality),
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed: the code of its record, and who failed."""

    code: str
    source: Source


@dataclass(frozen=True, slots=True)
class Sent:
    """The traffic on the client's connection; ``status`` None: no answer began."""

    status: int | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None


class RecordBuilder:
    """Collects the facts of one request until its record is built."""

    def __init__(self, arrival: Arrival, timeline: Timeline) -> None:
        self.arrival = arrival
        self.timeline = timeline
        self.key: Key | None = None
        self.body_form: str | None = None
        self.asked = Asked()
        self.attempts: list[AttemptRecord] = []
        self.answering: AttemptRecord | None = None
        """The attempt at the account that answers, or that the call was sent to last."""
        self.made: Made | None = None
        self.failure: Failure | None = None
        self.client_left = False
        self.may_be_billed = False

    def __repr__(self) -> str:
        return f"<RecordBuilder {self.arrival.request_id} {self.timeline!r}>"

    def enter(self, phase: Phase) -> None:
        """The request enters a phase."""
        self.timeline.enter(phase)

    def attempt(self, attempt: AttemptRecord) -> None:
        """A call to an account begins."""
        self.attempts.append(attempt)
        self.answering = attempt

    def fail(self, code: str, source: Source) -> None:
        """Record a failure; only the first one counts, because later ones follow from it."""
        if self.failure is None:
            self.failure = Failure(code, source)

    def break_off(self) -> None:
        """The request ends before its calls end, or before the client has their pictures."""
        self.may_be_billed |= any(attempt.may_be_billed for attempt in self.attempts)

    def build(self, sent: Sent) -> Record:
        """The record of a request that has ended."""
        key, asked, made, failure = self.key, self.asked, self.made, self.failure
        answering, timeline = self.answering, self.timeline
        return Record(
            **{name: getattr(self.arrival, name) for name in _ARRIVAL},
            **{name: getattr(asked, name) for name in _ASKED},
            key_id=None if key is None else key.key_id,
            key_name=None if key is None else key.key_name,
            group_id=None if key is None else key.group_id,
            body_form=self.body_form,
            request_bytes=sent.request_bytes,
            size=(None if made is None else made.size) or asked.size,
            quality=(None if made is None else made.quality) or asked.quality,
            status=sent.status,
            error_code=None if failure is None else failure.code,
            error_source=None if failure is None else failure.source,
            account_name=None if answering is None else answering.account_name,
            dialect=None if answering is None else answering.dialect,
            attempts=tuple(self.attempts),
            response_bytes=sent.response_bytes,
            response_image_count=None if made is None else made.pictures,
            usage=None if made is None else made.usage,
            auth_ms=timeline.milliseconds(Phase.RECEIVED, Phase.READ),
            body_ms=timeline.milliseconds(Phase.AUTHENTICATED),
            wait_ms=timeline.milliseconds(Phase.WAITING),
            upstream_ms=self._upstream_ms(),
            stream_ms=timeline.span_milliseconds(Phase.ARRIVING),
            total_ms=round(timeline.age() * 1000),
            client_left=self.client_left,
            may_be_billed=self.may_be_billed,
        )

    def _upstream_ms(self) -> int | None:
        """Until the heads of all answers; a call passed on to the text API has no attempt."""
        times = [each.upstream_ms for each in self.attempts if each.upstream_ms is not None]
        if times:
            return sum(times)
        is_answered = self.timeline.seconds(Phase.ANSWERED) is not None
        return self.timeline.milliseconds(Phase.SENT) if is_answered else None


_ARRIVAL: Final = tuple(item.name for item in fields(Arrival))
_ASKED: Final = tuple(item.name for item in fields(Asked) if item.name not in {"size", "quality"})


def prompt_hmac(key: bytes, prompt: str) -> str:
    """The prompt's keyed SHA-256 in hex: shows equal prompts, and short ones cannot be guessed."""
    return hmac.new(key, prompt.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def sums(usage: object) -> dict[str, int] | None:
    """The three token counts of an answer's ``usage``, None if it has none."""
    counts = {
        name: untrusted.mapping(usage).get(name)
        for name in ("input_tokens", "output_tokens", "total_tokens")
    }
    return {name: count for name, count in counts.items() if type(count) is int} or None


def _text(answer: Mapping[str, object], name: str) -> str | None:
    value = answer.get(name)
    return (
        value
        if isinstance(value, str) and json_skeleton.placeholder_number(value) is None
        else None
    )
