"""Reads the events of an upstream, and writes the events and answers that a client gets.

The events read here are those whose frames are forwarded unchanged: of the Images API
(``image_generation.completed``), and of the Responses API for its own clients.  ``response_events``
and ``picture_events`` take pictures out of events.  An event comes as a JSON skeleton: a
placeholder stands for each picture, whose text stays in the spool (``core.codec.json_scanner``).
The functions here that write JSON return a body of segments.
Sources: README.md in this folder, "Images answers" and "Codex, Responses route".
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

SHARED: Final = ("background", "output_format", "quality", "size")
"""The fields that an answer has once for all of its pictures."""
_MOST_TOKENS: Final = 2**53
"""A larger number is ignored: the sum of several could not be written as JSON."""
_PREFIXES: Final[Mapping[Endpoint, str]] = {
    "generations": "image_generation",
    "edits": "image_edit",
}
_COMPLETED: Final = frozenset(f"{prefix}.completed" for prefix in _PREFIXES.values())
_PARTIAL_IMAGE: Final = frozenset(f"{prefix}.partial_image" for prefix in _PREFIXES.values())


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it came: its name, the skeleton of its data, and the strings lifted out of it.

    ``value`` is None if the data is not JSON.
    """

    name: str | None
    value: object = field(default=None, repr=False)
    lifted: Sequence[json_skeleton.LiftedString] = ()

    def fields(self) -> Mapping[str, object]:
        """The data's fields; empty if the data is not an object."""
        return self.value if isinstance(self.value, dict) else {}

    def kind(self) -> str:
        """The ``type`` in the data, or else the event's name."""
        return text(self.fields().get("type")) or self.name or ""


class EventKind(Enum):
    """What an event means for a client that waits for pictures."""

    OTHER = auto()
    OPENING = auto()
    """No picture exists yet: a failure after it counts as one before the answer."""
    PARTIAL = auto()
    PICTURE = auto()
    END = auto()
    FAILURE = auto()


@dataclass(frozen=True, slots=True)
class ParsedEvent:
    """What an event says.

    ``picture`` holds a picture's fields by the names of the Images API, ``others`` those of further
    pictures in the same event; ``pictures`` is the number of pictures in an ``END``.  ``status``
    and ``error`` belong to a ``FAILURE``; the ``error`` of an ``END`` without a picture has the
    upstream's words in its place.  ``usage`` is that of the pictures, ``usage_text`` that of the
    main model, ``svg_usages`` those of the models that wrote an SVG, unread.
    """

    kind: EventKind
    picture: Mapping[str, object] = field(default_factory=dict, repr=False)
    usage: Mapping[str, object] | None = None
    usage_text: Mapping[str, object] | None = None
    svg_usages: Sequence[object] = ()
    status: int = 0
    error: UpstreamError = field(default_factory=UpstreamError)
    pictures: int = 0
    others: Sequence[Mapping[str, object]] = field(default=(), repr=False)


def text(value: object) -> str | None:
    """A string of the skeleton; None for any other value and for a lifted string."""
    return value if isinstance(value, str) and not json_skeleton.is_placeholder(value) else None


def usage(value: object) -> dict[str, object] | None:
    """The token counts, at any depth; other values are left out."""
    if not isinstance(value, dict):
        return None
    counts: dict[str, object] = {}
    for name, count in value.items():
        if untrusted.count(count, _MOST_TOKENS) is not None:
            counts[name] = count
        elif (inner := usage(count)) is not None:
            counts[name] = inner
    return counts or None


def add_usage(
    first: Mapping[str, object] | None, second: Mapping[str, object] | None
) -> Mapping[str, object] | None:
    """The sum of two usages, name by name."""
    if first is None or second is None:
        return first or second
    total = dict(first)
    for name, count in second.items():
        subtotal = total.get(name)
        if isinstance(subtotal, int) and isinstance(count, int):
            total[name] = subtotal + count
        elif isinstance(subtotal, Mapping) and isinstance(count, Mapping):
            total[name] = add_usage(subtotal, count)
        else:
            total.setdefault(name, count)
    return total


def error_in(fields: Mapping[str, object]) -> UpstreamError:
    """The error in an event or an item: nested as ``error``, or flat."""
    nested = fields.get("error")
    if isinstance(nested, str):
        return errors.from_fields({"message": text(nested)})
    error_fields = nested if isinstance(nested, dict) else fields
    plain = {
        name: value
        for name, value in error_fields.items()
        if not json_skeleton.contains_placeholder(value)
    }
    error = errors.from_fields(plain)
    if nested is None and error.type == "error":
        # A flat event's own type says nothing about what went wrong.
        error = errors.from_fields({**plain, "type": None})
    return error


def failure(fields: Mapping[str, object]) -> ParsedEvent:
    """The failure that an event reports, with a message and a status."""
    error = error_in(fields)
    if error.message is None:
        error = replace(error, message="The upstream reported an error without a message.")
    for source in (untrusted.mapping(fields.get("error")), fields):
        for name in ("status", "status_code"):
            status = source.get(name)
            if isinstance(status, int) and 400 <= status < 600:
                return ParsedEvent(EventKind.FAILURE, status=status, error=error)
    return ParsedEvent(EventKind.FAILURE, status=errors.status_of(error), error=error)


# -- the Images API's own events -------------------------------------------------------------------


def read_image_event(event: Event) -> ParsedEvent:
    """Read one event of a stream that is forwarded unchanged."""
    fields, kind = event.fields(), event.kind()
    # An event that cannot be read counts by its name: the picture has been paid for.
    is_finished = kind in _COMPLETED and (event.value is None or has_picture(fields))
    has_error = isinstance(fields.get("error"), dict | str) and not is_finished
    if "error" in {kind, event.name} or has_error:
        return failure(fields)
    if is_finished:
        return ParsedEvent(EventKind.PICTURE, fields, usage(fields.get("usage")))
    if kind in _PARTIAL_IMAGE:
        return ParsedEvent(EventKind.PARTIAL, fields)
    return ParsedEvent(EventKind.OTHER)


# -- the Responses API's events, for its own clients -----------------------------------------------

_OPENING: Final = frozenset({"response.created", "response.queued", "response.in_progress"})


def read_conversation_event(event: Event) -> ParsedEvent:
    """Read one event for a client of the Responses API itself.

    There an end without a picture is not a failure: a model may answer an intent with text.
    """
    fields, kind = event.fields(), event.kind()
    if kind in _OPENING:
        return ParsedEvent(EventKind.OPENING)
    if kind == "response.image_generation_call.partial_image":
        return ParsedEvent(EventKind.PARTIAL)
    if kind == "response.output_item.done":
        items = [fields.get("item")]
        pictures = _pictures(items)
        if pictures:
            svg_usages = _svg_usages(items)
            return ParsedEvent(EventKind.PICTURE, pictures[0], svg_usages=svg_usages)
    if kind in {"response.completed", "response.incomplete"}:
        response = untrusted.mapping(fields.get("response"))
        pictures = _pictures(response.get("output"))
        first = pictures[0] if pictures else {}
        svg_usages = _svg_usages(response.get("output"))
        return ParsedEvent(
            EventKind.END, first, *usages(response), svg_usages, pictures=len(pictures)
        )
    if kind == "response.failed":
        return failure(untrusted.mapping(fields.get("response")))
    return failure(fields) if kind == "error" else ParsedEvent(EventKind.OTHER)


_Counts = dict[str, object] | None


def usages(response: Mapping[str, object]) -> tuple[_Counts, _Counts]:
    """The usage of the pictures and that of the main model; one says nothing of the other."""
    pictures = untrusted.mapping(response.get("tool_usage")).get("image_gen")
    return usage(pictures), usage(response.get("usage"))


def _svg_usages(items: object) -> list[object]:
    mappings = [untrusted.mapping(item) for item in (items if isinstance(items, list) else [])]
    return [item["svg_usage"] for item in mappings if "svg_usage" in item]


def is_picture(value: object) -> bool:
    """Whether a field holds a picture: a text that is not empty."""
    return isinstance(value, str) and bool(value)


def has_picture(fields: Mapping[str, object]) -> bool:
    """Whether an entry or an event of the Images API holds a picture, or the address of one."""
    return is_picture(fields.get("b64_json")) or is_picture(fields.get("url"))


def source(entry: Mapping[str, object]) -> dict[str, object]:
    """The picture of an entry, or else its address."""
    name = "b64_json" if is_picture(entry.get("b64_json")) else "url"
    return {name: entry[name]}


def _pictures(items: object) -> list[dict[str, object]]:
    mappings = [untrusted.mapping(item) for item in (items if isinstance(items, list) else [])]
    return [
        item_picture(item)
        for item in mappings
        if item.get("type") == "image_generation_call" and is_picture(item.get("result"))
    ]


def item_picture(item: Mapping[str, object]) -> dict[str, object]:
    """The picture in an item of a response, by the names of the Images API."""
    fields = {"b64_json": item.get("result"), **{name: text(item.get(name)) for name in SHARED}}
    if isinstance(item.get("revised_prompt"), str):
        fields["revised_prompt"] = item["revised_prompt"]
    return fields


# -- events and answers for the client -------------------------------------------------------------


def frame(
    endpoint: Endpoint,
    kind: str,
    fields: Mapping[str, object],
    lifted: Sequence[json_skeleton.LiftedString],
) -> Body:
    """An event of the Images API; ``kind`` is ``partial_image`` or ``completed``."""
    name = f"{_PREFIXES[endpoint]}.{kind}"
    data = from_json({"type": name, **fields}, of_lifted(lifted))
    return (f"event: {name}\ndata: ".encode(), *data, b"\n\n")


def error_frame(body: bytes, number: int | None = None) -> bytes:
    """An error as an event; ``body`` is its JSON text in OpenAI's shape, ``number`` its sequence
    number in a stream of the Responses API.

    The error is nested and the event has no name: the SDKs take a flat error for a normal event and
    raise nothing (measured; README.md in this folder, "Images answers").  The Responses API has a
    flat one with a number, so that its clients get both: the AI SDK reads none without a number.
    """
    nested = orjson.loads(body)["error"]
    fields = {"type": "error", "error": nested}
    if number is not None:
        flat = {name: nested[name] for name in ("code", "message", "param")}
        fields |= {"sequence_number": number, **flat}
    return b"data: " + orjson.dumps(fields) + b"\n\n"


@dataclass(frozen=True, slots=True)
class UrlEntry:
    """An entry of ``data`` in an Images answer, in four pieces: the JSON text before its URL, the
    data URL's head and its base64, and the JSON text after it.
    """

    before: Body
    head: bytes
    base64: Body
    after: Body


def entry(
    picture: Mapping[str, object], lifted: Sequence[json_skeleton.LiftedString], *, as_url: bool
) -> Body | UrlEntry:
    """A picture as an entry of ``data`` in an Images answer.

    With ``as_url`` a picture gets a data URL; one that is an address already keeps it.
    """
    fields = {name: value for name, value in picture.items() if name == "revised_prompt"}
    bodies = of_lifted(lifted)
    image = picture.get("b64_json")
    if image is None:
        return from_json({"url": picture.get("url"), **fields}, bodies)
    if not as_url or not isinstance(image, str):
        return from_json({"b64_json": image, **fields}, bodies)
    number = json_skeleton.placeholder_number(image)
    head = image.encode() if number is None else lifted[number].head
    mime_type = base64_text.image_type_of_base64(head) or "image/png"
    text: Body = (orjson.dumps(image)[1:-1],) if number is None else bodies[number]
    others = from_json(fields, bodies)
    assert isinstance(others[0], bytes)
    after = (b'"' + b"," * bool(fields) + others[0][1:], *others[1:])
    return UrlEntry((b'{"url":"',), f"data:{mime_type};base64,".encode(), text, after)


def answer_ends(
    first: Mapping[str, object], usage: Mapping[str, object] | None, created: int
) -> tuple[bytes, bytes]:
    """The JSON text before and after the entries of an Images answer.

    ``first`` is the first picture, whose size and other shared fields count for all.
    """
    after = {name: value for name in SHARED if (value := first.get(name)) is not None}
    if usage is not None:
        after["usage"] = dict(usage)
    return (
        b'{"created":%d,"data":[' % created,
        b"]" + b"," * bool(after) + orjson.dumps(after)[1:],
    )


def completed_events(
    answer: object, created: int
) -> tuple[list[dict[str, object]], Mapping[str, object] | None]:
    """The fields of one completed event for each picture of an Images answer, a skeleton.

    Also returns the answer's usage; it covers all pictures, so only the last event has it.
    """
    answer_fields = untrusted.mapping(answer)
    data = answer_fields.get("data")
    shared = {name: text(answer_fields.get(name)) for name in SHARED}
    completed: list[dict[str, object]] = [
        {
            **source(item),
            "created_at": answer_fields.get("created") or created,
            **shared,
            "usage": None,
        }
        for item in (data if isinstance(data, list) else [])
        if has_picture(untrusted.mapping(item))
    ]
    counts = usage(answer_fields.get("usage"))
    if completed:
        completed[-1]["usage"] = counts
    return completed, counts
