"""The signals of an image intent: how to detect one among the calls on the Responses paths.

A Responses call goes to the text API unless it is an image intent.  It is one if it names an image
model, has an ``image_generation`` entry in ``tools``, or has a ``tool_choice`` that selects this
tool, even if ``tools`` is absent or malformed (``core/dialects/README.md``, "Image intents on
/v1/responses").  ``IntentSignals`` is that rule.  It takes strings with their places, so the same
rule works for a body that streams in (``IntentSignalReader``), which may be a long conversation and
is never held, and for a body that was parsed and rewritten (``signals_of``).
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

import orjson

from image_gateway.core.codec import json_scanner
from image_gateway.core.request.model_names import is_image_model

TOOL: Final = "image_generation"
_NAMING_TYPES: Final = frozenset({"tool", "function"})
_LONGEST_SIGNAL: Final = 1024
"""Bytes of a model's or tool's name; a longer one is refused, because only a part would be read."""
_MOST_MODELS: Final = 16
"""Times that a body may name its ``model``; each costs time whenever the signals are looked at."""
_BEFORE_OBJECT: Final = b"\xef\xbb\xbf \t\r\n"
_STARTS: Final = frozenset({b"{", b"/"})
"""How an object may begin for a lenient parser: with its brace, or with a comment."""
_STRUCTURE: Final = b'{}[]:," \t\r\n0123456789+-.eE' + b"truefalsnlNIity" + b"\xef\xbb\xbf"
"""What an object holds outside of its strings, with the ``NaN`` and ``Infinity`` of Python."""


class Signal(Enum):
    """What a string of a body can be for an intent."""

    MODEL = auto()
    TOOL = auto()
    CHOICE = auto()
    CHOICE_TYPE = auto()
    CHOICE_NAME = auto()

    @classmethod
    def at(cls, path: json_scanner.Path) -> "Signal | None":
        """The signal at a path of keys and indices; None for most paths.

        The case of a key does not count: some parsers read ``Model`` as ``model``.
        """
        return _SIGNALS.get(
            tuple(part.casefold() if isinstance(part, str) else _ANY_INDEX for part in path)
        )


_ANY_INDEX: Final = 0
_SIGNALS: Final[Mapping[json_scanner.Path, Signal]] = {
    ("model",): Signal.MODEL,
    ("tools", _ANY_INDEX, "type"): Signal.TOOL,
    ("tool_choice",): Signal.CHOICE,
    ("tool_choice", "type"): Signal.CHOICE_TYPE,
    ("tool_choice", "tool", "type"): Signal.CHOICE_TYPE,
    ("tool_choice", "function", "type"): Signal.CHOICE_TYPE,
    ("tool_choice", "name"): Signal.CHOICE_NAME,
    ("tool_choice", "tool", "name"): Signal.CHOICE_NAME,
    ("tool_choice", "function", "name"): Signal.CHOICE_NAME,
}


class IntentSignals:
    """The signs of an image intent among the strings of a body."""

    def __init__(self) -> None:
        self.models: list[str] = []
        """Every top-level ``model``: if the name occurs twice, a parser may take either value."""
        self._has_tool = False
        self._chooses = False
        self._names_tool = False
        self._can_name = False

    def __repr__(self) -> str:
        return f"<IntentSignals of {len(self.models)} models, tool={self._has_tool}>"

    def note(self, signal: "Signal", text: str) -> None:
        """Record one string of the body that is a signal."""
        match signal:
            case Signal.MODEL:
                self.models.append(text)
            case Signal.TOOL:
                self._has_tool |= text == TOOL
            case Signal.CHOICE:
                self._chooses |= text == TOOL
            case Signal.CHOICE_TYPE:
                self._chooses |= text == TOOL
                self._can_name |= text in _NAMING_TYPES
            case Signal.CHOICE_NAME:
                self._names_tool |= text == TOOL

    def show_intent(self, model_map: Mapping[str, str]) -> bool:
        """Whether this is an image intent, by the client's models or the models they map to."""
        return self._has_tool or self._ask_for_picture(model_map)

    def only_list_tool(self, model_map: Mapping[str, str]) -> bool:
        """Whether the image tool is only one that the model may use, as a coding client lists it
        in every turn.
        """
        return self._has_tool and not self._ask_for_picture(model_map)

    def _ask_for_picture(self, model_map: Mapping[str, str]) -> bool:
        return (
            self._chooses
            or (self._names_tool and self._can_name)
            or any(
                is_image_model(name)
                for model in self.models
                for name in (model, model_map.get(model, model))
            )
        )


def signals_of(body: object) -> IntentSignals:
    """The intent signals of a parsed body."""
    signals = IntentSignals()

    def walk(path: json_scanner.Path, value: object) -> None:
        if isinstance(value, str):
            signal = _SIGNALS.get(path)
            if signal is not None:
                signals.note(signal, value)
        elif len(path) >= _DEEPEST:
            return
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk((*path, name.casefold()), inner)
        elif isinstance(value, list):
            for inner in value:
                walk((*path, _ANY_INDEX), inner)

    if isinstance(body, dict):
        for name, value in body.items():
            if name.casefold() in _ROOTS:
                walk((name.casefold(),), value)
    return signals


_ROOTS: Final = frozenset({"model", "tools", "tool_choice"})
_DEEPEST: Final = 3
"""The longest path of a signal; below it are the schemas of tools, which may be large."""


class IntentSignalReader:
    """Collects the intent signals of a body that arrives in pieces.

    Raises ``ScanLimitError`` for a body that exceeds a limit, and ``ScanError`` for one that is not
    JSON, or has a signal that cannot be read; the signals before the error still count.  A lenient
    parser reads more than JSON (names without quotes, single quotes, comments), so an object that
    has more is an error; whether it is complete is left to the text API.
    """

    def __init__(self) -> None:
        self.signals = IntentSignals()
        self._scanner = json_scanner.Scanner(self, json_scanner.TEXT)
        self._signal: Signal | None = None
        self._text = bytearray()
        self._is_object: bool | None = None

    def __repr__(self) -> str:
        return f"<IntentSignalReader {self._scanner!r}>"

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the text."""
        self._scanner.feed(chunk)

    def structure(self, data: bytes) -> None:
        if self._is_object is None and (start := data.lstrip(_BEFORE_OBJECT)[:1]):
            self._is_object = start in _STARTS
        if self._is_object and (unknown := data.translate(None, _STRUCTURE)):
            error = json_scanner.ScanError(
                "The body is not valid JSON: outside of its strings it has characters that JSON "
                "does not know. Put names and texts in double quotes, and leave out comments."
            )
            error.offset = data.index(unknown[:1])
            raise error

    def key(self, data: bytes) -> None:
        pass

    def text_start(self, offset: int) -> None:  # noqa: ARG002 - part of ScanHandler
        if self._scanner.depth <= _DEEPEST:
            self._signal = Signal.at(self._scanner.path())

    def text(self, chunk: bytes, start: int, stop: int) -> None:
        if self._signal is None:
            return
        if len(self._text) + stop - start > _LONGEST_SIGNAL:
            raise json_scanner.ScanLimitError(
                f"The name of a model or a tool is longer than {_LONGEST_SIGNAL} bytes. Shorten it."
            )
        self._text += chunk[start:stop]

    def text_stop(self) -> None:
        if self._signal is not None:
            try:
                text = json_scanner.read_mended(b'"' + self._text + b'"')
            except orjson.JSONDecodeError:
                # A lenient text API may read a picture in it.
                raise json_scanner.ScanError(
                    "The name of a model or a tool is not a valid string."
                ) from None
            self.signals.note(self._signal, text)
            if len(self.signals.models) > _MOST_MODELS:
                raise json_scanner.ScanLimitError(
                    f"The body names `model` more than {_MOST_MODELS} times. Name it once."
                )
        self._signal = None
        self._text.clear()
