"""What the events of an upstream mean, and the events and answers that a client gets of them.

Two vocabularies are read: the Images API's own (``image_generation.completed``), whose frames go on
as they are, and the Responses API's, from which pictures are taken.  Events come as skeletons: a
picture in one is a placeholder and stays where it was spooled (``core.codec.json_scanner``), and
what is made of it here is a body of segments again.  Sources: README.md in
this folder, "Images answers" and "Codex, Responses route".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final

import orjson

from image_gateway.core import errors, untrusted
from image_gateway.core.codec import base64_text, json_skeleton
from image_gateway.core.codec.body_segments import Body, from_json, of_lifted
from image_gateway.core.errors import UpstreamError
from image_gateway.core.request.catalogue import Endpoint

_SHARED: Final = ("background", "output_format", "quality", "size")
"""What an answer says once for all of its pictures."""
_LONGEST_WORDS: Final = 2000
_PREFIXES: Final[Mapping[Endpoint, str]] = {
    "generations": "image_generation",
    "edits": "image_edit",
}
_COMPLETED: Final = frozenset(f"{prefix}.completed" for prefix in _PREFIXES.values())
_PARTIAL_IMAGE: Final = frozenset(f"{prefix}.partial_image" for prefix in _PREFIXES.values())
_WORDS: Final = "The upstream answered in words instead of a picture."


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it came: its name, the skeleton of its data, what was lifted out of it.

    ``value`` is None where the data is no JSON.
    """

    name: str | None
    value: object = field(default=None, repr=False)
    lifted: Sequence[json_skeleton.LiftedString] = ()

    def fields(self) -> Mapping[str, object]:
        """The data's names; none where it is no object."""
        return self.value if isinstance(self.value, dict) else {}

    def kind(self) -> str:
        """The type that the data names, else the event's own name."""
        return text(self.fields().get("type")) or self.name or ""


class EventKind(Enum):
    """What an event is for whoever waits for pictures."""

    OTHER = auto()
    OPENING = auto()
    """Nothing was made yet: a failure now is one before the answer."""
    PARTIAL = auto()
    PICTURE = auto()
    END = auto()
    FAILURE = auto()


@dataclass(frozen=True, slots=True)
class ParsedEvent:
    """An event's meaning.

    ``picture`` holds what is known of a picture, by the names of the Images API, ``pictures`` how
    many an end holds; ``status`` and ``error`` belong to a failure.
    """

    kind: EventKind
    picture: Mapping[str, object] = field(default_factory=dict, repr=False)
    usage: Mapping[str, object] | None = None
    status: int = 0
    error: UpstreamError = field(default_factory=UpstreamError)
    pictures: int = 0


def text(value: object) -> str | None:
    """A text that is really here; None for anything else, a lifted one included."""
    return value if isinstance(value, str) and not json_skeleton.is_placeholder(value) else None


def usage(value: object) -> dict[str, object] | None:
    """Counts of tokens, at any depth; whatever is none is left out."""
    if not isinstance(value, dict):
        return None
    found: dict[str, object] = {}
    for name, count in value.items():
        if isinstance(count, int) and not isinstance(count, bool):
            found[name] = count
        elif (inner := usage(count)) is not None:
            found[name] = inner
    return found or None


def add_usage(
    one: Mapping[str, object] | None, other: Mapping[str, object] | None
) -> Mapping[str, object] | None:
    """The sum of two usages, name by name."""
    if one is None or other is None:
        return one or other
    total = dict(one)
    for name, count in other.items():
        known = total.get(name)
        if isinstance(known, int) and isinstance(count, int):
            total[name] = known + count
        elif isinstance(known, Mapping) and isinstance(count, Mapping):
            total[name] = add_usage(known, count)
        else:
            total.setdefault(name, count)
    return total


def failure(fields: Mapping[str, object]) -> ParsedEvent:
    """An error as an event tells it: nested as ``error``, or flat."""
    nested = fields.get("error")
    found = nested if isinstance(nested, dict) else fields
    plain = {
        name: value
        for name, value in found.items()
        if not json_skeleton.contains_placeholder(value)
    }
    error = errors.from_fields(plain)
    if isinstance(nested, str):
        error = errors.from_fields({"message": text(nested)})
    if nested is None and error.type == "error":
        # A flat event's own type says nothing about what went wrong.
        error = errors.from_fields({**plain, "type": None})
    if error.message is None:
        error = replace(error, message="The upstream told of an error, without a message.")
    for place in (found, fields):
        for name in ("status", "status_code"):
            status = place.get(name)
            if isinstance(status, int) and 400 <= status < 600:
                return ParsedEvent(EventKind.FAILURE, status=status, error=error)
    return ParsedEvent(EventKind.FAILURE, status=errors.status_of(error), error=error)


# -- the Images API's own events -------------------------------------------------------------------


def read_image_event(event: Event) -> ParsedEvent:
    """One event of a stream that goes on as it is."""
    fields, kind = event.fields(), event.kind()
    if "error" in {kind, event.name} or isinstance(fields.get("error"), dict | str):
        return failure(fields)
    # What cannot be read is believed its name: it has been paid for.
    holds_picture = event.value is None or _is_picture(fields.get("b64_json"))
    if kind in _COMPLETED and holds_picture:
        return ParsedEvent(EventKind.PICTURE, fields, usage(fields.get("usage")))
    if kind in _PARTIAL_IMAGE:
        return ParsedEvent(EventKind.PARTIAL, fields)
    return ParsedEvent(EventKind.OTHER)


# -- the Responses API's events --------------------------------------------------------------------


class ResponseReader:
    """Reads the events of one call on the Responses route, which makes one picture."""

    def __init__(self) -> None:
        self._made = False
        self._words: str | None = None

    def __repr__(self) -> str:
        return f"<ResponseReader {'made' if self._made else 'waiting'}>"

    def read(self, event: Event) -> ParsedEvent:
        """The next event's meaning; an end without a picture is a failure."""
        fields = event.fields()
        match event.kind():
            case "response.image_generation_call.partial_image":
                return ParsedEvent(EventKind.PARTIAL, _partial(fields))
            case "response.output_item.done":
                return self._read_item(fields.get("item"))
            case "response.output_text.done":
                self._words = self._words or _words(fields.get("text"))
            case "response.refusal.done":
                self._words = _words(fields.get("refusal")) or self._words
            case "response.completed":
                return self._end(fields.get("response"))
            case "response.failed" | "response.incomplete" | "error":
                return _unmade(event.kind(), fields)
        return ParsedEvent(EventKind.OTHER)

    def _read_item(self, value: object) -> ParsedEvent:
        item = untrusted.mapping(value)
        if item.get("type") == "image_generation_call" and _is_picture(item.get("result")):
            self._made = True
            return ParsedEvent(EventKind.PICTURE, _picture(item))
        if item.get("type") == "message":
            content = item.get("content")
            for part in content if isinstance(content, list) else []:
                said = untrusted.mapping(part)
                words = _words(said.get("refusal")) or _words(said.get("text"))
                self._words = words or self._words
        return ParsedEvent(EventKind.OTHER)

    def _end(self, value: object) -> ParsedEvent:
        response = untrusted.mapping(value)
        counts = usage(untrusted.mapping(response.get("tool_usage")).get("image_gen"))
        if self._made:
            return ParsedEvent(EventKind.END, usage=counts)
        # Its output is often empty, and the items have come before; but it may be all there is.
        output = response.get("output")
        for value_of_item in output if isinstance(output, list) else []:
            found = self._read_item(value_of_item)
            if found.kind is EventKind.PICTURE:
                return ParsedEvent(EventKind.END, found.picture, counts)
        if self._words is None:
            return ParsedEvent(EventKind.END)
        return ParsedEvent(
            EventKind.FAILURE,
            status=400,
            error=UpstreamError(
                self._words[:_LONGEST_WORDS],
                "image_generation_user_error",
                "prompt",
                "moderation_blocked",
            ),
        )


_OPENING: Final = frozenset({"response.created", "response.queued", "response.in_progress"})


def read_conversation_event(event: Event) -> ParsedEvent:
    """One event for a client of the Responses API itself.

    There an end without a picture is no failure: a model may answer an intent in words.
    """
    fields, kind = event.fields(), event.kind()
    if kind in _OPENING:
        return ParsedEvent(EventKind.OPENING)
    if kind == "response.output_item.done":
        found = _pictures([fields.get("item")])
        if found:
            return ParsedEvent(EventKind.PICTURE, found[0])
    if kind in {"response.completed", "response.incomplete"}:
        response = untrusted.mapping(fields.get("response"))
        counts = usage(untrusted.mapping(response.get("tool_usage")).get("image_gen"))
        made = _pictures(response.get("output"))
        first = made[0] if made else {}
        counts = counts or usage(response.get("usage"))
        return ParsedEvent(EventKind.END, first, counts, pictures=len(made))
    if kind == "response.failed":
        return failure(untrusted.mapping(fields.get("response")))
    return failure(fields) if kind == "error" else ParsedEvent(EventKind.OTHER)


def _words(value: object) -> str | None:
    """What was said; of a very long text only that something was."""
    return text(value) or (_WORDS if isinstance(value, str) and value else None)


def _is_picture(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _pictures(items: object) -> list[dict[str, object]]:
    found = [untrusted.mapping(item) for item in (items if isinstance(items, list) else [])]
    return [
        _picture(item)
        for item in found
        if item.get("type") == "image_generation_call" and _is_picture(item.get("result"))
    ]


def _partial(fields: Mapping[str, object]) -> dict[str, object]:
    return {
        "b64_json": fields.get("partial_image_b64"),
        "partial_image_index": fields.get("partial_image_index"),
        **{name: text(fields.get(name)) for name in _SHARED},
    }


def _picture(item: Mapping[str, object]) -> dict[str, object]:
    found = {"b64_json": item.get("result"), **{name: text(item.get(name)) for name in _SHARED}}
    if isinstance(item.get("revised_prompt"), str):
        found["revised_prompt"] = item["revised_prompt"]
    return found


def _unmade(kind: str, fields: Mapping[str, object]) -> ParsedEvent:
    if kind == "error":
        return failure(fields)
    response = untrusted.mapping(fields.get("response"))
    return failure(response) if kind == "response.failed" else _incomplete(response)


def _incomplete(response: Mapping[str, object]) -> ParsedEvent:
    details = untrusted.mapping(response.get("incomplete_details"))
    reason = text(details.get("reason")) or "incomplete"
    if reason == "content_filter":
        return ParsedEvent(
            EventKind.FAILURE,
            status=400,
            error=UpstreamError(
                "The upstream's content filter stopped this picture.",
                "image_generation_user_error",
                "prompt",
                reason,
            ),
        )
    message = "The upstream ended before the picture was made."
    return ParsedEvent(
        EventKind.FAILURE, status=502, error=UpstreamError(message, None, None, reason)
    )


# -- what the client gets --------------------------------------------------------------------------


def frame(
    endpoint: Endpoint,
    kind: str,
    fields: Mapping[str, object],
    lifted: Sequence[json_skeleton.LiftedString],
) -> Body:
    """One event of the Images API; ``kind`` is ``partial_image`` or ``completed``."""
    name = f"{_PREFIXES[endpoint]}.{kind}"
    data = from_json({"type": name, **fields}, of_lifted(lifted))
    return (f"event: {name}\ndata: ".encode(), *data, b"\n\n")


def error_frame(body: bytes) -> bytes:
    """An error as an event; ``body`` is its JSON text in OpenAI's shape.

    Nested and without a name of its own: openai-python takes a flat one for an event like any
    other and raises nothing (measured; README.md in this folder, "Images answers").
    """
    nested = orjson.loads(body)["error"]
    return b"data: " + orjson.dumps({"type": "error", "error": nested}) + b"\n\n"


def entry(
    picture: Mapping[str, object], lifted: Sequence[json_skeleton.LiftedString], *, as_url: bool
) -> Body:
    """A picture as an entry of ``data`` in an Images answer."""
    fields = {name: value for name, value in picture.items() if name == "revised_prompt"}
    bodies = list(of_lifted(lifted))
    made = picture.get("b64_json")
    if as_url and isinstance(made, str):
        number = json_skeleton.placeholder_number(made)
        head = made.encode() if number is None else lifted[number].head
        prefix = f"data:{base64_text.image_type_of_base64(head) or 'image/png'};base64,"
        if number is None:
            made = prefix + made
        else:
            bodies[number] = (prefix.encode(), *bodies[number])
    return from_json({"url" if as_url else "b64_json": made, **fields}, bodies)


def answer_ends(
    first: Mapping[str, object], usage: Mapping[str, object] | None, created: int
) -> tuple[bytes, bytes]:
    """What stands before and behind the entries of an Images answer, as JSON text.

    ``first`` is the first picture, which says the size and the like for all.
    """
    behind = {name: value for name in _SHARED if (value := first.get(name)) is not None}
    if usage is not None:
        behind["usage"] = dict(usage)
    return (
        b'{"created":%d,"data":[' % created,
        b"]" + b"," * bool(behind) + orjson.dumps(behind)[1:],
    )


def as_json(fields: Mapping[str, object], lifted: Sequence[json_skeleton.LiftedString]) -> Body:
    """A part of an event as it came, as JSON text."""
    return from_json(fields, of_lifted(lifted))


def response_ends(
    response: Mapping[str, object], lifted: Sequence[json_skeleton.LiftedString]
) -> tuple[Body, Body]:
    """What stands before and behind the items of a response's output, as JSON text."""
    rest = {name: value for name, value in response.items() if name != "output"}
    first, *others = from_json({"object": "response", **rest}, of_lifted(lifted))
    assert isinstance(first, bytes)  # JSON of an object begins with a brace, not with a span
    return (b'{"output":[',), (b"]," + first.removeprefix(b"{"), *others)


def completed_events(
    answer: object, created: int
) -> tuple[list[dict[str, object]], Mapping[str, object] | None]:
    """The fields of the completed events that a whole Images answer, a skeleton, stands for.

    Gives its usage, too; it is for all of them together, so the last event carries it.
    """
    whole = untrusted.mapping(answer)
    data = whole.get("data")
    shared = {name: text(whole.get(name)) for name in _SHARED}
    found: list[dict[str, object]] = [
        {
            "b64_json": item["b64_json"],
            "created_at": whole.get("created") or created,
            **shared,
            "usage": None,
        }
        for item in (data if isinstance(data, list) else [])
        if _is_picture(untrusted.mapping(item).get("b64_json"))
    ]
    counts = usage(whole.get("usage"))
    if found:
        found[-1]["usage"] = counts
    return found, counts
