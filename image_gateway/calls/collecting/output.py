"""The items of a response, kept from their events until its end.

``core.dialects.response_output`` says what the client gets of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from image_gateway.core.dialects import response_output
from image_gateway.edge.spool import JoinedBody, SpooledBody
from image_gateway.edge.upstream.event_reader import SpooledEvent
from image_gateway.edge.upstream.http_client import LostError

_MOST_ITEMS: Final = 1000
_MOST_BYTES: Final = 1024 * 1024 * 1024
"""All items of a response, each of which may keep a megabyte in memory: an upstream that sends
nothing else must be stopped.  Seven of the largest legal pictures have less."""


@dataclass(frozen=True)
class SpooledFields:
    """The fields of an item or a response, and the event that holds their long strings."""

    fields: Mapping[str, object]
    spooled: SpooledEvent

    def json(self) -> SpooledBody:
        """The fields as JSON text."""
        text = response_output.as_json(self.fields, self.spooled.event.lifted)
        return self.spooled.spool.hold(text)


def _place(indexed: tuple[object, SpooledFields]) -> tuple[bool, int]:
    index = indexed[0]
    return (False, index) if isinstance(index, int) else (True, 0)


class OutputItems:
    """The items of one response: by their indices, those without one in the order they came."""

    def __init__(self) -> None:
        self._items: dict[object, SpooledFields] = {}
        self._size = 0

    def __repr__(self) -> str:
        return f"<OutputItems {len(self._items)} items>"

    def __len__(self) -> int:
        return len(self._items)

    def add(self, spooled: SpooledEvent) -> bool:
        """Take the item that an event brings; returns whether it is kept.

        The caller keeps the event open then.  Raises ``LostError`` after too many items or bytes.
        """
        item = response_output.item_of(spooled.event) if spooled.is_quotable else None
        if item is None:
            return False
        self._size += spooled.spool.size
        if len(self._items) == _MOST_ITEMS or self._size > _MOST_BYTES:
            raise LostError("TooManyItems")
        index = spooled.event.fields().get("output_index")
        # An item that comes twice counts once.
        key = index if isinstance(index, int) else object()
        self._items[key] = SpooledFields(item, spooled)
        return True

    def whole(self, response: SpooledFields) -> JoinedBody:
        """A response with its items, as JSON text."""
        lifted = response.spooled.event.lifted
        before, after = response_output.response_ends(response.fields, lifted)
        hold = response.spooled.spool.hold
        parts = [hold(before)]
        for index, item in enumerate(self._items_of(response)):
            body = item.json()
            parts += [body] if index == 0 else [hold((b",",)), body]
        return JoinedBody([*parts, hold(after)])

    def end(self, spooled: SpooledEvent) -> JoinedBody | SpooledBody:
        """The frame that ends a stream, with the items that came."""
        response = response_output.ended(spooled.event)
        if response is None or not spooled.is_quotable:
            return spooled.frame()
        if spooled.has_frame and list(response_output.own_items(response)) == [
            item.fields for item in self._items_of(SpooledFields(response, spooled))
        ]:
            return spooled.frame()
        before, after = response_output.end_frame(spooled.event)
        hold = spooled.spool.hold
        whole = self.whole(SpooledFields(response, spooled))
        return JoinedBody([hold(before), *whole.parts, hold(after)])

    def _items_of(self, response: SpooledFields) -> list[SpooledFields]:
        """A response's own items; those that came if it lacks a picture of them, or all."""
        own = response_output.own_items(response.fields)
        came = [item for _, item in sorted(self._items.items(), key=_place)]
        made = sum(response_output.has_picture(item.fields) for item in came)
        if came and (not own or sum(map(response_output.has_picture, own)) < made):
            return came
        return [
            SpooledFields(response_output.finished(item), response.spooled)
            for item in own
            if isinstance(item, dict)
        ]
