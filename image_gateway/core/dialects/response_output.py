"""The output of a response, as a client of the Responses API gets it.

Codex sends the items of the output one by one, as events, and ends with a response whose output is
empty; SDKs take that for the whole answer, and an agent asks again.  So the end gets the items that
came.  An item with a picture is finished, whatever its status says: Codex Desktop shows nothing for
``generating``.  The functions here that write JSON return a body of segments.  Source: README.md in
this folder, "Codex, Responses route".
"""

from collections.abc import Mapping, Sequence
from typing import Final

from image_gateway.core import untrusted
from image_gateway.core.codec import json_skeleton
from image_gateway.core.codec.body_segments import Body, from_json, of_lifted
from image_gateway.core.dialects.events import Event
from image_gateway.core.scrubbing import REDACTED, Scrubber

_CALL: Final = "image_generation_call"
_DONE: Final = "response.output_item.done"
_ENDS: Final = frozenset({"response.completed", "response.incomplete"})


def item_of(event: Event) -> Mapping[str, object] | None:
    """The whole item that an event brings, finished; None for any other event."""
    item = event.fields().get("item")
    return finished(item) if event.kind() == _DONE and isinstance(item, dict) else None


def finished(item: Mapping[str, object]) -> Mapping[str, object]:
    """An item of the output; if it holds a picture, its status is ``completed``."""
    return {**item, "status": "completed"} if has_picture(item) else item


def has_picture(item: object) -> bool:
    """Whether an item of the output holds a picture."""
    fields = untrusted.mapping(item)
    result = fields.get("result")
    return fields.get("type") == _CALL and isinstance(result, str) and bool(result)


def ended(event: Event) -> Mapping[str, object] | None:
    """The response that an event ends with success; None for any other event."""
    response = event.fields().get("response")
    return response if event.kind() in _ENDS and isinstance(response, dict) else None


def event_of(response: object, lifted: Sequence[json_skeleton.LiftedString]) -> Event | None:
    """The event that a whole response, a skeleton, stands for; None if it is not a response."""
    fields = untrusted.mapping(response)
    if not isinstance(fields.get("output"), list):
        return None if fields.get("error") is None else Event("error", dict(fields), lifted)
    status = fields.get("status")
    name = f"response.{status}" if status in {"failed", "incomplete"} else "response.completed"
    return Event(name, {"type": name, "response": fields}, lifted)


def is_empty(event: Event) -> bool:
    """Whether an event ends a response as completed, and the response holds no items."""
    response = ended(event)
    return response is not None and event.kind() == "response.completed" and not own_items(response)


def opening_frame(event: Event) -> Body | None:
    """The frame of the event that opens a response, from the event that ends it.

    The SDKs raise an exception if a stream begins with anything else.
    """
    response = ended(event)
    if response is None:
        return None
    opened = {**response, "status": "in_progress", "output": []}
    fields: dict[str, object] = {"type": "response.created", "response": opened}
    number = event.fields().get("sequence_number")
    if isinstance(number, int):
        fields["sequence_number"] = max(number - 1, 0)
    return (b"event: response.created\ndata: ", *as_json(fields, event.lifted), b"\n\n")


def own_items(response: Mapping[str, object]) -> Sequence[object]:
    """The items that a response holds itself."""
    output = response.get("output")
    return output if isinstance(output, list) else ()


def item_frame(event: Event) -> Body | None:
    """An item's event as a frame in which the item is finished; None if it is so already."""
    item = item_of(event)
    if item is None or item == event.fields().get("item"):
        return None
    data = as_json({**event.fields(), "item": item}, event.lifted)
    return (_name_line(event), b"data: ", *data, b"\n\n")


def end_frame(event: Event) -> tuple[Body, Body]:
    """The frame of an end, before and after its response (``response_ends``)."""
    others = {name: value for name, value in event.fields().items() if name != "response"}
    *first, last = as_json(others, event.lifted)
    assert isinstance(last, bytes)  # an object's JSON ends with a brace, not with a span
    comma = b"," * bool(others)
    before = (*first, last.removesuffix(b"}") + comma + b'"response":')
    return (_name_line(event), b"data: ", *before), (b"}\n\n",)


def failure_frame(event: Event, scrubber: Scrubber, *, is_quotable: bool) -> Body | None:
    """A failed response's event as a frame without secrets; None if there is nothing to take out.

    A long string within an error, which nobody has read, is taken out whole; so is every one that
    is not ``is_quotable`` (``edge.upstream.event_reader``).
    """
    fields = event.fields()
    response = fields.get("response")
    short: object = fields
    if not is_quotable:
        short = _without_long_texts(fields)
    elif isinstance(response, dict) and "error" in response:
        error = _without_long_texts(response["error"])
        short = {**fields, "response": {**response, "error": error}}
    cleaned = scrubber.clean(short)
    if cleaned == fields:
        return None
    data = from_json(cleaned, of_lifted(event.lifted))
    return (_name_line(event), b"data: ", *data, b"\n\n")


def _without_long_texts(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_long_texts(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_long_texts(inner) for inner in value]
    is_long = isinstance(value, str) and json_skeleton.is_placeholder(value)
    return REDACTED if is_long else value


def response_ends(
    response: Mapping[str, object], lifted: Sequence[json_skeleton.LiftedString]
) -> tuple[Body, Body]:
    """The JSON text before and after the items of a response's output."""
    others = {name: value for name, value in response.items() if name != "output"}
    first, *rest = as_json({"object": "response", **others}, lifted)
    assert isinstance(first, bytes)  # an object's JSON begins with a brace, not with a span
    return (b'{"output":[',), (b"]," + first.removeprefix(b"{"), *rest)


def as_json(fields: Mapping[str, object], lifted: Sequence[json_skeleton.LiftedString]) -> Body:
    """A part of an event as JSON text."""
    return from_json(fields, of_lifted(lifted))


def _name_line(event: Event) -> bytes:
    name = event.name
    return b"" if name is None else f"event: {name}\n".encode()
