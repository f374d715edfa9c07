"""Takes pictures out of events that came although a plain answer was asked for.

They may be events of the Images API, of the Responses API, or one event with a whole Images answer.
Source: README.md in this folder, "Odd answers".
"""

from collections.abc import Mapping

from image_gateway.core.dialects import events
from image_gateway.core.dialects.events import Event, EventKind, ParsedEvent
from image_gateway.core.dialects.response_events import ResponseReader


class PictureReader(ResponseReader):
    """Reads the events of one call, of either API."""

    def __init__(self) -> None:
        super().__init__()
        self.has_end = False

    def read(self, event: Event) -> ParsedEvent:
        """Read the next event; ``picture`` has the fields that an answer needs."""
        if event.kind().startswith("response."):
            self.has_end = True
            return super().read(event)
        parsed = events.read_image_event(event)
        if parsed.kind in {EventKind.PICTURE, EventKind.PARTIAL}:
            picture = _fields(event.fields())
            kind = parsed.kind if picture else EventKind.OTHER
            return ParsedEvent(kind, picture, parsed.usage)
        if parsed.kind is EventKind.OTHER:
            pictures, usage = events.completed_events(event.value, 0)
            if pictures:
                first, *others = map(_fields, pictures)
                return ParsedEvent(EventKind.PICTURE, first, usage, others=others)
        return parsed


def _fields(fields: Mapping[str, object]) -> dict[str, object]:
    """The picture in an event of the Images API; empty if it cannot be read."""
    if not events.has_picture(fields):
        return {}
    picture = {
        **events.source(fields),
        **{name: events.text(fields.get(name)) for name in events.SHARED},
    }
    kept = ("revised_prompt", "partial_image_index")
    return picture | {name: fields[name] for name in kept if fields.get(name) is not None}
