"""Responses of calls in the background: their ids, what they look like, and their events.

A client of the Responses API that asks with ``background: true`` gets a response at once, and asks
for it again by its id until it has ended.  Its id is made of the call's: the upstream's own id
means nothing to a client, because it belongs to one of several accounts.  The events of such a
response are written anew, each on one line and with a number that counts all of them, so that a
client can have those after the last one that it saw.

Where the bytes of a response lie, and who may ask for it, is not known here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

import orjson

from image_gateway.core import untrusted
from image_gateway.core.calls import names
from image_gateway.core.calls.model import CallIdentity
from image_gateway.core.codec.body_segments import Body
from image_gateway.core.dialects import response_output
from image_gateway.core.dialects.events import Event
from image_gateway.core.request.intent import BACKGROUND_ID
from image_gateway.core.request.intent_signals import TOOL

CANCELLED: Final = "call_cancelled"
"""The error code of a call that its client cancelled."""

_CALL_ID: Final = "call_"
_RESPONSE: Final = b'"response":'
_FRAME_END: Final = b"\n\n"
_HEAD_BYTES: Final = 512
"""The start of a frame; it has the event's number."""
_NUMBER: Final = re.compile(rb'^data: \{"sequence_number":([0-9]{1,18})[,}]', re.MULTILINE)
_LONGEST_NAME: Final = 128
_NAME: Final = re.compile(r"[a-z0-9_.]+")


def response_id(call_id: str) -> str:
    """The id of the response that a call makes."""
    return BACKGROUND_ID + call_id.removeprefix(_CALL_ID)


def call_id(text: str) -> str | None:
    """The call of a response id; None for any other text."""
    found = _CALL_ID + text.removeprefix(BACKGROUND_ID)
    return found if text.startswith(BACKGROUND_ID) and names.is_call_id(found) else None


@dataclass(frozen=True, slots=True)
class BackgroundResponse:
    """A response, from the start of its call to its end; ``created_at`` in seconds since 1970."""

    response_id: str
    model: str
    created_at: float

    @classmethod
    def of(cls, identity: CallIdentity) -> Self:
        """The response of a call."""
        return cls(response_id(identity.call_id), identity.model, identity.created_at)

    # -- as JSON ---------------------------------------------------------------------------------

    def of_upstream(self, response: Mapping[str, object], status: str) -> dict[str, object]:
        """An upstream's response as one of the gateway; ``status`` counts if it has none."""
        return {
            **self._fields(status),
            **response,
            "id": self.response_id,
            "created_at": int(self.created_at),
            "background": True,
            "status": response.get("status") or status,
        }

    def pending(self, status: str) -> bytes:
        """A response that has not ended: ``queued`` or ``in_progress``."""
        return orjson.dumps(self._fields(status))

    def failed(self, body: bytes, code: str | None) -> bytes:
        """A response without an answer; ``body`` is the error in OpenAI's shape, ``code`` that of
        the call's record.  It is ``cancelled`` if its client wanted that.
        """
        if code == CANCELLED:
            return orjson.dumps(self._fields("cancelled"))
        try:
            error = untrusted.mapping(untrusted.mapping(orjson.loads(body)).get("error"))
        except ValueError:
            error = {}
        told = {
            "code": untrusted.text(error.get("code")) or code or "server_error",
            "message": untrusted.text(error.get("message")) or "The call failed.",
        }
        return orjson.dumps({**self._fields("failed"), "error": told})

    def _fields(self, status: str) -> dict[str, object]:
        """All fields that the SDKs' types know as required, and those that OpenAI always sends."""
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": int(self.created_at),
            "status": status,
            "background": True,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": None,
            "metadata": {},
            "model": self.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": True,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [{"type": TOOL}],
            "top_p": None,
            "truncation": "disabled",
            "usage": None,
            "user": None,
        }

    # -- as events -------------------------------------------------------------------------------

    def opening_frames(self) -> tuple[bytes, bytes]:
        """The first events, numbers 0 and 1; they need no upstream."""
        response = self._fields("queued")
        return (
            _frame("response.created", 0, {"response": response}),
            _frame("response.queued", 1, {"response": response}),
        )

    def started_frame(self, number: int) -> bytes:
        """The event that says that the upstream works."""
        return _frame("response.in_progress", number, {"response": self._fields("in_progress")})

    def frame(self, event: Event, number: int) -> Body:
        """An event of the upstream, one that does not end the response, as a body of segments."""
        fields = {name: value for name, value in event.fields().items() if name not in _OWN}
        if isinstance(fields.get("response"), dict):
            response = untrusted.mapping(fields["response"])
            fields["response"] = self.of_upstream(response, "in_progress")
        if "response_id" in fields:
            fields["response_id"] = self.response_id
        if (item := response_output.item_of(event)) is not None:
            fields["item"] = item
        kind = event.kind()
        data = {"sequence_number": number, "type": kind, **fields}
        return (_start(kind), *response_output.as_json(data, event.lifted), _FRAME_END)

    def end_frame(self, status: str, number: int) -> tuple[bytes, bytes]:
        """The last event, before and after its response: ``completed`` or ``incomplete``."""
        kind = f"response.{status}"
        before = orjson.dumps({"sequence_number": number, "type": kind})
        return _start(kind) + before.removesuffix(b"}") + b"," + _RESPONSE, b"}" + _FRAME_END


_OWN: Final = frozenset({"type", "sequence_number"})


def end_status(event: Event) -> str:
    """The status of the response that an event ends."""
    return "incomplete" if event.kind() == "response.incomplete" else "completed"


def _frame(kind: str, number: int, fields: Mapping[str, object]) -> bytes:
    data = orjson.dumps({"sequence_number": number, "type": kind, **fields})
    return _start(kind) + data + _FRAME_END


def _start(kind: str) -> bytes:
    """What comes before the data; an odd name stands only in the data."""
    is_plain = len(kind) <= _LONGEST_NAME and _NAME.fullmatch(kind) is not None
    return (f"event: {kind}\n".encode() if is_plain else b"") + b"data: "


# -- reading frames again --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FramePiece:
    """Some bytes of a frame; ``head`` is the start of that frame, ``ends``: the frame does."""

    head: bytes
    data: bytes
    ends: bool


class FrameSplitter:
    """Splits the frames that are written here into pieces, without holding a picture."""

    def __init__(self) -> None:
        self._held = b""
        self._head = b""

    def __repr__(self) -> str:
        return f"<FrameSplitter {'within a frame' if self._head else 'between frames'}>"

    def feed(self, chunk: bytes) -> Iterator[FramePiece]:
        """The pieces in the next bytes; read all of them before the next call."""
        held, self._held = self._held + chunk, b""
        at = 0
        while at < len(held):
            end = held.find(_FRAME_END, at)
            stop = len(held) if end < 0 else end + len(_FRAME_END)
            if not self._head:
                if end < 0 and stop - at < _HEAD_BYTES:
                    break
                self._head = held[at : min(stop, at + _HEAD_BYTES)]
            if end < 0:
                # The end of a frame may lie in two chunks.
                stop -= held.endswith(b"\n")
                if stop == at:
                    break
            yield FramePiece(self._head, held[at:stop], ends=end >= 0)
            at = stop
            if end < 0:
                break
            self._head = b""
        self._held = held[at:]


def number_of(head: bytes) -> int:
    """The number of the frame that begins so; -1 if it has none."""
    match = _NUMBER.search(head)
    return -1 if match is None else int(match[1])


class FramesAfter:
    """Leaves out the frames up to a number."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._splitter = FrameSplitter()

    def __repr__(self) -> str:
        return f"<FramesAfter {self._number}>"

    def feed(self, chunk: bytes) -> bytes:
        """What is left of the next bytes."""
        pieces = self._splitter.feed(chunk)
        return b"".join(piece.data for piece in pieces if number_of(piece.head) > self._number)


class LastResponse:
    """Finds the response in the last event of a whole stream: ``start`` and ``stop`` in its bytes,
    both 0 if it has none.
    """

    def __init__(self) -> None:
        self.start = self.stop = 0
        self._splitter = FrameSplitter()
        self._begin: int | None = None
        self._position = 0

    def __repr__(self) -> str:
        return f"<LastResponse {self.start}..{self.stop}>"

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        for piece in self._splitter.feed(chunk):
            if self._begin is None:
                self._begin = self._position
            self._position += len(piece.data)
            if piece.ends:
                place = piece.head.find(_RESPONSE)
                if place >= 0:
                    self.start = self._begin + place + len(_RESPONSE)
                    self.stop = self._position - len(b"}" + _FRAME_END)
                self._begin = None


def whole_frames(response: BackgroundResponse) -> tuple[bytes, bytes, bytes]:
    """The events of a response that was made without a stream: the first one, and the last one
    before and after the response.
    """
    first = response.opening_frames()[0]
    return (first, *response.end_frame("completed", 1))
