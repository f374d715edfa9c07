"""Which bodies ask for a picture (``core.request.intent_signals``).

What is taken for text goes past every switch.
"""

import orjson

from image_gateway.core.codec.json_scanner import ScanError, ScanLimitError
from image_gateway.core.request.intent_signals import IntentSignalReader, signals_of
from tests.fuzz.values import Values, cut, stretched

MAP = {"drawer": "gpt-image-2"}


def read(pieces: list[bytes]) -> object:
    """What the reader says of a body; the signals before an error count, too."""
    reader = IntentSignalReader()
    error: ScanError | None = None
    try:
        for piece in pieces:
            reader.feed(piece)
    except ScanError as raised:
        error = raised
    shows = reader.signals.show_intent(MAP)
    lists = reader.signals.only_list_tool(MAP)
    return shows, lists, type(error), str(error), reader.signals.models


def check(data: bytes) -> None:
    """Any cut says the same, and it is what a parser of the whole body finds."""
    values = Values(data)
    seed = values.byte() or 1
    text = stretched(values.rest())
    whole = read([text])
    assert read(cut(text, seed)) == whole
    assert isinstance(whole, tuple)
    shows, lists, error, *_ = whole
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    # A body that a parser takes is refused for its size only, or a broken name in it.
    assert error is type(None) or issubclass(error, ScanLimitError), whole
    parsed = signals_of(body)
    if parsed.show_intent(MAP):
        assert shows or error is not type(None), whole
    assert not (lists and not shows)
