"""Takes the one picture of a call on the Responses route out of its events.

The main model may end its turn without a picture: its tool failed, or it wrote words instead.  Only
what calls itself a refusal is one, an item's error with the code of a content policy or a refusal
of the model; it is the client's own fault, which every account would find.  Anything else says only
that nothing was made.  Source: README.md in this folder, "Codex, Responses route".
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from image_gateway.core import errors, untrusted
from image_gateway.core.dialects import events
from image_gateway.core.dialects.events import Event, EventKind, ParsedEvent
from image_gateway.core.errors import UpstreamError

_MODERATION: Final = "moderation_blocked"
_LONGEST_MESSAGE: Final = 2000
_TEXT_ANSWER: Final = "The upstream answered with text instead of a picture."


class ResponseReader:
    """Reads the events of one call on the Responses route, which makes one picture.

    ``has_end``: the events end with one that says so, which also has the usage.
    """

    def __init__(self) -> None:
        self.has_end = True
        self._has_picture = False
        self._words: str | None = None
        self._refusal: str | None = None
        self._tool_failure: ParsedEvent | None = None

    def __repr__(self) -> str:
        return f"<ResponseReader {'made' if self._has_picture else 'waiting'}>"

    def read(self, event: Event) -> ParsedEvent:
        """Read the next event.

        If no picture came, a refusal is a ``FAILURE``, and any other ``END`` has the upstream's
        words in its ``error``.
        """
        fields = event.fields()
        match event.kind():
            case "response.image_generation_call.partial_image":
                return ParsedEvent(EventKind.PARTIAL, _partial(fields))
            case "response.output_item.done":
                return self._read_item(fields.get("item"))
            case "response.output_text.done":
                self._words = self._words or _message(fields.get("text"))
            case "response.refusal.done":
                self._refusal = _message(fields.get("refusal")) or self._refusal
            case "response.completed":
                return self._end(fields.get("response"))
            case "response.failed" | "response.incomplete" | "error":
                failure = _failure(event.kind(), fields)
                # The tool and the model are more exact than a general failure of the response.
                return (failure.status >= 500 and self._known_failure()) or failure
        return ParsedEvent(EventKind.OTHER)

    def _read_item(self, value: object) -> ParsedEvent:
        item = untrusted.mapping(value)
        if item.get("type") == "image_generation_call":
            if events.is_picture(item.get("result")):
                self._has_picture = True
                return ParsedEvent(EventKind.PICTURE, events.item_picture(item))
            if isinstance(item.get("error"), dict | str):
                self._tool_failure = _tool_failure(item)
        if item.get("type") == "message":
            content = item.get("content")
            for part in content if isinstance(content, list) else []:
                part_fields = untrusted.mapping(part)
                self._refusal = _message(part_fields.get("refusal")) or self._refusal
                self._words = _message(part_fields.get("text")) or self._words
        return ParsedEvent(EventKind.OTHER)

    def _end(self, value: object) -> ParsedEvent:
        response = untrusted.mapping(value)
        usage, usage_text = events.usages(response)
        if self._has_picture:
            return ParsedEvent(EventKind.END, usage=usage, usage_text=usage_text)
        # The output is often empty, because the items came before; but it may hold all of them.
        output = response.get("output")
        for item in output if isinstance(output, list) else []:
            event = self._read_item(item)
            if event.kind is EventKind.PICTURE:
                return ParsedEvent(EventKind.END, event.picture, usage, usage_text)
        failure = self._known_failure()
        if failure is not None:
            return failure
        told = UpstreamError() if self._tool_failure is None else self._tool_failure.error
        error = replace(told, message=told.message or self._words)
        return ParsedEvent(EventKind.END, usage=usage, usage_text=usage_text, error=error)

    def _known_failure(self) -> ParsedEvent | None:
        """A refusal, or an error of the tool whose codes say what it is about."""
        failure = self._tool_failure
        is_refused = failure is not None and failure.status == 400
        if self._refusal is not None and not is_refused:
            error = UpstreamError(
                self._refusal, "image_generation_user_error", "prompt", _MODERATION
            )
            return ParsedEvent(EventKind.FAILURE, status=400, error=error)
        return None if failure is None or failure.status == 500 else failure


def _tool_failure(item: Mapping[str, object]) -> ParsedEvent:
    """The error of an image tool's call; its status is 500 if nothing says what it is about."""
    error = events.error_in(item)
    if error.message is not None:
        error = replace(error, message=error.message[:_LONGEST_MESSAGE])
    details = untrusted.mapping(untrusted.mapping(item["error"]).get("moderation_details"))
    if details.get("categories"):
        error = replace(error, code=error.code or _MODERATION)
        return ParsedEvent(EventKind.FAILURE, status=400, error=error)
    return ParsedEvent(EventKind.FAILURE, status=errors.status_of(error), error=error)


def _message(value: object) -> str | None:
    """The text of a message; a fixed sentence for a text that is too long for a skeleton."""
    if not isinstance(value, str) or not value:
        return None
    return (events.text(value) or _TEXT_ANSWER)[:_LONGEST_MESSAGE]


def _partial(fields: Mapping[str, object]) -> dict[str, object]:
    return {
        "b64_json": fields.get("partial_image_b64"),
        "partial_image_index": fields.get("partial_image_index"),
        **{name: events.text(fields.get(name)) for name in events.SHARED},
    }


def _failure(kind: str, fields: Mapping[str, object]) -> ParsedEvent:
    if kind == "error":
        return events.failure(fields)
    response = untrusted.mapping(fields.get("response"))
    return events.failure(response) if kind == "response.failed" else _incomplete(response)


def _incomplete(response: Mapping[str, object]) -> ParsedEvent:
    details = untrusted.mapping(response.get("incomplete_details"))
    reason = events.text(details.get("reason")) or "incomplete"
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
