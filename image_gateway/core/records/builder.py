"""The facts that the phases of a request collect, and the record that is built from them.

Each phase stores its facts in the request's ``RecordBuilder``: the arrival, the key, the
parameters, one attempt for each call to an account, the pictures, the failure.  Nothing is computed
twice: the times come from the ``Timeline``, and ``build`` only puts the parts together.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Final, Self

from image_gateway.core.calls.model import CallSource
from image_gateway.core.dialects import DIALECTS
from image_gateway.core.errors import Source
from image_gateway.core.model import Key
from image_gateway.core.records import usage as usages
from image_gateway.core.records.phases import Phase, Timeline
from image_gateway.core.records.prices import Bill, Prices
from image_gateway.core.records.record import AttemptRecord, Record
from image_gateway.core.records.usage import Usage
from image_gateway.core.request import intent
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.request.model_names import is_image_model


@dataclass(frozen=True, slots=True)
class Arrival:
    """The facts from a request's head."""

    time: datetime
    request_id: str
    client_address: str | None = None
    endpoint: str | None = None
    path: str | None = None
    user_agent: str | None = None


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
        tool = next(iter(intent.image_tools(request.body)), {})
        return cls(
            model=request.model,
            upstream_model=request.upstream_model,
            size=_word(tool, "size"),
            quality=_word(tool, "quality"),
            stream=request.stream,
            input_image_count=request.input_image_count,
            prompt_chars=None if prompt is None else len(prompt),
            prompt_hmac=None if prompt is None else prompt_hmac(prompt_key, prompt),
        )


@dataclass(frozen=True, slots=True)
class FoundCall:
    """The call whose answer the request gets, and the request that started it.

    ``source`` None: the request asked for the call by its id.
    """

    call_id: str
    source: CallSource | None
    request_id: str


@dataclass(frozen=True, slots=True)
class Called:
    """The facts from a call to an account: the path of its URL, and the models for its price.

    Where a main model is asked for pictures, ``picture_model`` is the model that draws them, and
    ``main_model`` that of the account, for a client that names none; None where not known.
    """

    path: str
    picture_model: str | None = None
    main_model: str | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """The facts from an answer: its pictures, what they look like, and what they used.

    Upstreams take the requested size, quality and background as advice, and bill those of the
    answer.
    """

    pictures: int
    usage: Usage | None = None
    usage_text: Usage | None = None
    svg_usage: Usage | None = None
    size: str | None = None
    quality: str | None = None
    background: str | None = None

    @classmethod
    def of(
        cls,
        pictures: int,
        usage: object,
        source: Mapping[str, object],
        before: "Made | None" = None,
        usage_text: object = None,
    ) -> Self:
        """``source`` holds size, quality and background: the fields of a picture or of the answer.
        What it does not hold stays as it was ``before``.
        """
        return cls(
            pictures,
            usages.read(usage),
            usages.read(usage_text),
            usages.read_svg(source.get("svg_usage")),
            **{
                name: _word(source, name) or (None if before is None else getattr(before, name))
                for name in ("size", "quality", "background")
            },
        )

    def cleaned(self, clean: Callable[[str], str]) -> "Made":
        """The same, its texts as ``clean`` makes them."""

        def word(text: str | None) -> str | None:
            return None if text is None else clean(text)

        svg_usage = self.svg_usage
        if svg_usage is not None:
            svg_usage = {
                name: clean(value) if isinstance(value, str) else value
                for name, value in svg_usage.items()
            }
        return replace(
            self,
            svg_usage=svg_usage,
            size=word(self.size),
            quality=word(self.quality),
            background=word(self.background),
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
        self.found_call: FoundCall | None = None
        """None: no call was started or found."""
        self.attempts: list[AttemptRecord] = []
        self.answering: AttemptRecord | None = None
        """The attempt at the account that answers, or that the call was sent to last."""
        self.called: Called | None = None
        """The last call."""
        self.made: Made | None = None
        self.failure: Failure | None = None
        self.client_left = False
        self.may_be_billed = False
        self.gave_id = False
        """Its client has the call's id, and waits for nothing more."""

    def __repr__(self) -> str:
        return f"<RecordBuilder {self.arrival.request_id} {self.timeline!r}>"

    def enter(self, phase: Phase) -> None:
        """The request enters a phase."""
        self.timeline.enter(phase)

    def attempt(self, attempt: AttemptRecord, called: Called) -> None:
        """A call to an account begins."""
        self.attempts.append(attempt)
        self.answering = attempt
        self.called = called

    def clean(self, clean: Callable[[str], str]) -> None:
        """Take out what must not be recorded of the words in an answer."""
        self.made = None if self.made is None else self.made.cleaned(clean)

    def fail(self, code: str, source: Source) -> None:
        """Record a failure; only the first one counts, because later ones follow from it."""
        if self.failure is None:
            self.failure = Failure(code, source)

    def break_off(self) -> None:
        """The request ends before its calls end, or before the client has their pictures."""
        self.may_be_billed |= any(attempt.may_be_billed for attempt in self.attempts)

    def build(self, sent: Sent, prices: Prices) -> Record:
        """The record of a request that has ended."""
        key, asked, made, failure = self.key, self.asked, self.made, self.failure
        answering, timeline, found = self.answering, self.timeline, self.found_call
        return Record(
            **{name: getattr(self.arrival, name) for name in _ARRIVAL},
            **{name: getattr(asked, name) for name in _ASKED},
            call_id=None if found is None else found.call_id,
            call_source=None if found is None else found.source,
            call_request_id=None if found is None else found.request_id,
            key_id=None if key is None else key.key_id,
            key_name=None if key is None else key.key_name,
            group_id=None if key is None else key.group_id,
            owner_id=None if key is None else key.owner_id,
            body_form=self.body_form,
            request_bytes=sent.request_bytes,
            status=sent.status,
            error_code=None if failure is None else failure.code,
            error_source=None if failure is None else failure.source,
            account_name=None if answering is None else answering.account_name,
            dialect=None if answering is None else answering.dialect,
            upstream_path=None if self.called is None else self.called.path,
            attempts=tuple(self.attempts),
            response_bytes=sent.response_bytes,
            response_image_count=None if made is None else made.pictures,
            size_given=None if made is None else made.size,
            quality_given=None if made is None else made.quality,
            background_given=None if made is None else made.background,
            usage=None if made is None else made.usage,
            usage_text=None if made is None else made.usage_text,
            svg_usage=None if made is None else made.svg_usage,
            cost_usd=self._cost_usd(prices),
            auth_ms=timeline.milliseconds(Phase.RECEIVED, Phase.READ),
            body_ms=timeline.milliseconds(Phase.AUTHENTICATED),
            wait_ms=timeline.milliseconds(Phase.WAITING),
            upstream_ms=self._upstream_ms(),
            stream_ms=timeline.span_milliseconds(Phase.ARRIVING),
            total_ms=round(timeline.age() * 1000),
            client_left=self.client_left,
            may_be_billed=self.may_be_billed,
        )

    def _cost_usd(self, prices: Prices) -> float | None:
        """None if it is not known, or if the account has no price for a picture."""
        made, called, answering = self.made, self.called, self.answering
        dialect = None if answering is None else DIALECTS.get(answering.dialect)
        if made is None or called is None or dialect is None or not dialect.bills_pictures:
            return None
        model, is_response = self.asked.upstream_model, self.arrival.endpoint == "responses"
        bill = Bill(
            made.pictures,
            made.usage,
            called.picture_model if is_response else model,
            # An edit and a conversation may hold pictures.
            only_text_in=self.arrival.endpoint == "generations",
            usage_text=made.usage_text,
            main_model=called.main_model if is_image_model(model or "") else model,
            svg_usage=made.svg_usage,
        )
        return prices.cost_usd(bill)

    def _upstream_ms(self) -> int | None:
        """Until the heads of all answers; a call passed on to the text API has no attempt."""
        times = [each.upstream_ms for each in self.attempts if each.upstream_ms is not None]
        if times:
            return sum(times)
        is_answered = self.timeline.seconds(Phase.ANSWERED) is not None
        return self.timeline.milliseconds(Phase.SENT) if is_answered else None


_ARRIVAL: Final = tuple(item.name for item in fields(Arrival))
_ASKED: Final = tuple(item.name for item in fields(Asked))


def prompt_hmac(key: bytes, prompt: str) -> str:
    """The prompt's keyed SHA-256 in hex: shows equal prompts, and short ones cannot be guessed."""
    return hmac.new(key, prompt.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _word(source: Mapping[str, object], name: str) -> str | None:
    value = source.get(name)
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


_WORD: Final = re.compile(r"[A-Za-z0-9._:-]{1,32}")
"""A size, a quality, a background; a longer or other text may be content."""
