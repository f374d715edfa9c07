"""The journal of a call: what is known of it, as lines of JSON that are only ever appended.

The first line says what the call is found by, one line says how it ended, and the others note what
became of its answer.  Lines may come from several processes and in any order; of two that
contradict each other, the first counts.  Each is framed by line ends on both sides, so a line that
a full disk or a kill cut off spoils itself alone, and is ignored.  A journal whose first line
cannot be read is no call.

Nothing of a request stands in a journal: no key, no prompt, no picture.  This module does not know
where a journal lies, nor whether anybody still works on its call.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import orjson

from image_gateway.core import untrusted
from image_gateway.core.calls.model import CallIdentity, CallState

LINE_BYTES: Final = 32 * 1024
"""The longest line; the headers of an answer make the longest one."""

JOURNAL_BYTES: Final = 128 * 1024
"""How much of a journal counts; a real one has a few KiB."""

MOST_PICTURES: Final = 1000
"""Pictures of one answer that have addresses."""

_VERSION: Final = 1
_MOST_HEADERS: Final = 256


class Note(StrEnum):
    """What became of a call and of its answer."""

    SENT = "sent"
    """The whole answer was sent and the connection ended well; the client may have it."""
    DELIVERED = "delivered"
    """A client has the whole answer."""
    ASKED = "asked"
    """An upstream is being asked, of a call whose journal began before."""
    GIVEN = "given"
    """A client was sent the call's id, and may ask for the answer."""
    TOLD = "told"
    """An equal request was told that it repeats this call (``repeated_call``)."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended, and the head of its answer.

    ``at`` is in seconds since 1970.  ``status`` is None if nobody made an answer: the process that
    worked on the call died.  ``length`` is the answer's size in bytes, ``pictures`` are the sizes
    of those that the answer has addresses of, and that are kept behind it.  ``seconds``: how long
    the call is kept, if that is shorter than calls are usually kept.  ``error_code`` and
    ``error_source`` are those of the log record; None if the answer is what was asked for.
    """

    state: CallState
    at: float
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int = 0
    seconds: float | None = None
    error_code: str | None = None
    error_source: str | None = None
    pictures: tuple[int, ...] = ()

    @property
    def stored(self) -> int:
        """Bytes that are kept of the answer, pictures included."""
        return self.length + sum(self.pictures)


@dataclass(frozen=True, slots=True)
class Journal:
    """All that a journal says; ``ending`` is None while the call has not ended."""

    identity: CallIdentity
    ending: Ending | None = None
    notes: frozenset[Note] = frozenset()

    @property
    def was_asked(self) -> bool:
        """Whether an upstream was asked, or is being asked."""
        return Note.ASKED in self.notes or not self.identity.begins_early

    def abandoned(self, at: float) -> Ending:
        """The ending of a call whose process died without one."""
        return Ending(CallState.UNKNOWN if self.was_asked else CallState.NOTHING, at)


def created(identity: CallIdentity) -> bytes:
    """The first line; raises ``ValueError`` if it would be too long."""
    return _line(
        {
            "version": _VERSION,
            "call_id": identity.call_id,
            "request_id": identity.request_id,
            "key_tag": identity.key_tag,
            "fingerprint": identity.fingerprint,
            "name": identity.name,
            "endpoint": identity.endpoint,
            "created_at": identity.created_at,
            "has_id": identity.has_id,
            "model": identity.model,
        }
    )


def ended(ending: Ending) -> bytes:
    """The line of a call's end; raises ``ValueError`` if it cannot be written or is too long."""
    return _line(
        {
            "state": ending.state,
            "at": ending.at,
            "status": ending.status,
            "headers": dict(ending.headers),
            "length": ending.length,
            "seconds": ending.seconds,
            "error_code": ending.error_code,
            "error_source": ending.error_source,
            "pictures": list(ending.pictures),
        }
    )


def noted(note: Note) -> bytes:
    """The line of a note."""
    return _line({"note": note})


def read(data: bytes) -> Journal | None:
    """What a journal says; None if it is no call's.  Takes any bytes."""
    identity: CallIdentity | None = None
    ending: Ending | None = None
    notes: set[Note] = set()
    # What follows the last line end is a line that is still being written, or was cut off.
    for line in data[:JOURNAL_BYTES].split(b"\n")[:-1]:
        fields = _fields(line)
        if identity is None:
            if fields:
                identity = _identity(fields)
                if identity is None:
                    return None
        elif "note" in fields:
            if (note := _note(fields["note"])) is not None:
                notes.add(note)
        else:
            ending = ending or _ending(fields)
    return None if identity is None else Journal(identity, ending, frozenset(notes))


def _line(fields: Mapping[str, object]) -> bytes:
    try:
        text = orjson.dumps(fields)
    except TypeError as error:  # a surrogate, a number beyond 64 bits
        raise ValueError(str(error)) from None
    if len(text) > LINE_BYTES:
        raise ValueError(f"a line of {len(text)} bytes is too long for a journal")
    return b"\n" + text + b"\n"


def _fields(line: bytes) -> Mapping[str, object]:
    if not line or len(line) > LINE_BYTES:
        return {}
    try:
        return untrusted.mapping(orjson.loads(line))
    except ValueError:
        return {}


def _note(value: object) -> Note | None:
    try:
        return Note(str(value))
    except ValueError:
        return None


def _identity(fields: Mapping[str, object]) -> CallIdentity | None:
    created_at = untrusted.number(fields.get("created_at"))
    name = fields.get("name")
    has_id = fields.get("has_id")
    names = ("call_id", "request_id", "key_tag", "fingerprint", "endpoint")
    texts = {key: value for key in names if (value := untrusted.text(fields.get(key))) is not None}
    if (
        fields.get("version") != _VERSION
        or len(texts) != len(names)
        or created_at is None
        or not isinstance(name, str | None)
        or not isinstance(has_id, bool)
    ):
        return None
    model = untrusted.text(fields.get("model")) or ""
    return CallIdentity(**texts, name=name, created_at=created_at, has_id=has_id, model=model)


def _ending(fields: Mapping[str, object]) -> Ending | None:
    state = untrusted.text(fields.get("state"))
    at = untrusted.number(fields.get("at"))
    status = fields.get("status")
    headers = _headers(fields.get("headers"))
    length = untrusted.count(fields.get("length"))
    seconds = fields.get("seconds")
    pictures = _pictures(fields.get("pictures", []))
    if (
        state not in _ENDED
        or at is None
        or headers is None
        or length is None
        or pictures is None
        or (status is not None and untrusted.count(status, 999) is None)
        or (seconds is not None and untrusted.number(seconds) is None)
    ):
        return None
    return Ending(
        CallState(state),
        at,
        untrusted.count(status),
        headers,
        length,
        untrusted.number(seconds),
        untrusted.text(fields.get("error_code")),
        untrusted.text(fields.get("error_source")),
        pictures,
    )


def _pictures(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > MOST_PICTURES:
        return None
    counts = [untrusted.count(each) for each in value]
    return tuple(each for each in counts if each is not None) if None not in counts else None


_ENDED: Final = frozenset(CallState) - {CallState.RUNNING}


def _headers(value: object) -> dict[str, str] | None:
    if not isinstance(value, dict) or len(value) > _MOST_HEADERS:
        return None
    return value if all(isinstance(text, str) for text in value.values()) else None
