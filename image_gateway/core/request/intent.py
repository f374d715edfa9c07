"""Image intents on the Responses paths: how to detect one, and what it asks for.

A Responses call goes to the text API unless it is an image intent.  It is one if it names an image
model, has an ``image_generation`` entry in ``tools``, or has a ``tool_choice`` that selects this
tool, even if ``tools`` is absent or malformed (``core/dialects/README.md``, "Image intents on
/v1/responses").  ``IntentSignals`` is that rule.  The case of a key does not matter, because it
does not for every reader (Go's ``encoding/json``).  It takes strings with their paths, so the same
rule works for a body that streams in (``IntentSignalReader``), which may be a long conversation and
is never held, and for a body that was parsed and rewritten (``signals_of``).

Only intents are parsed (``parse``), and only the fields that routing needs.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

import orjson

from image_gateway.core.codec import body_segments, json_scanner, json_skeleton
from image_gateway.core.codec.body_segments import Body
from image_gateway.core.errors import Refusal, wrong_type
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.model_names import ModelNames, is_image_model

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
_ADDRESS: Final = re.compile(r"https?:", re.IGNORECASE)


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
        match tuple(part.casefold() if isinstance(part, str) else part for part in path):
            case ("model",):
                return cls.MODEL
            case ("tools", int(), "type"):
                return cls.TOOL
            case ("tool_choice",):
                return cls.CHOICE
            case ("tool_choice", "type") | ("tool_choice", "tool" | "function", "type"):
                return cls.CHOICE_TYPE
            case ("tool_choice", "name") | ("tool_choice", "tool" | "function", "name"):
                return cls.CHOICE_NAME
        return None


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
            signal = Signal.at(path)
            if signal is not None:
                signals.note(signal, value)
        elif len(path) >= _DEEPEST:
            return
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk((*path, name), inner)
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                walk((*path, index), inner)

    if isinstance(body, dict):
        for name, value in body.items():
            if name.casefold() in _ROOTS:
                walk((name,), value)
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
        if self._is_object and data.translate(None, _STRUCTURE):
            raise json_scanner.ScanError(
                "The body is not valid JSON: outside of its strings it has characters that JSON "
                "does not know. Put names and texts in double quotes, and leave out comments."
            )

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


# -- the request -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IntentRequest:
    """One image intent.  ``body`` is the skeleton of the client's body, ``texts`` the texts of its
    placeholders; ``model`` and ``tool_models`` are the client's names.
    """

    model: str
    tool_models: tuple[str, ...]
    names: ModelNames = field(repr=False)
    body: Mapping[str, object] = field(repr=False)
    texts: tuple[Body, ...] = field(default=(), repr=False)
    stream: bool = False

    @property
    def count(self) -> int:
        """The number of upstream calls: one, however many pictures it makes."""
        return 1

    @property
    def upstream_model(self) -> str:
        """The model that the key maps ``model`` to."""
        return self.mapped(self.model)

    def mapped(self, model: str) -> str:
        """The model that this name means at the upstream, by the key's map."""
        return self.names.upstream(model)

    @property
    def is_for_image_model(self) -> bool:
        """Whether ``model`` is itself an image model, so that a main model must replace it."""
        return is_image_model(self.model) or is_image_model(self.upstream_model)

    @property
    def image_models(self) -> Mapping[str, str]:
        """The image models that an account must serve, with the client's names for them."""
        models = {self.mapped(model): model for model in self.tool_models}
        if is_image_model(self.upstream_model):
            models[self.upstream_model] = self.model
        return models

    @property
    def prompt(self) -> str | None:
        """The text of the user's last message; None if it is not in the skeleton."""
        return _prompt(self.body.get("input"))

    @property
    def session(self) -> str | None:
        """The session that the body names in ``prompt_cache_key``."""
        key = self.body.get("prompt_cache_key")
        return key if isinstance(key, str) and not json_skeleton.is_placeholder(key) else None

    @property
    def input_image_count(self) -> int:
        """The number of pictures in the input."""
        return len(self._pictures())

    @property
    def addressed_picture(self) -> str | None:
        """The parameter of the first picture that is not in the body but at an address."""
        for param, picture in self._pictures():
            url = picture.get("image_url")
            if isinstance(url, str) and _ADDRESS.match(url):
                return f"{param}.image_url"
        return None

    @property
    def stored_reference(self) -> str | None:
        """The first parameter that refers to an earlier call, which its upstream has stored."""
        for name in ("previous_response_id", "conversation", "prompt"):
            if self.body.get(name) is not None:
                return name
        for index, item in enumerate(_list(self.body.get("input"))):
            if isinstance(item, dict) and _is_reference(item):
                return f"input[{index}]"
        return None

    def _pictures(self) -> list[tuple[str, dict[str, object]]]:
        """The pictures of the input, with their parameters."""
        return [
            (f"input[{at}].content[{index}]", part)
            for at, item in enumerate(_list(self.body.get("input")))
            if isinstance(item, dict)
            for index, part in enumerate(_list(item.get("content")))
            if isinstance(part, dict) and part.get("type") == "input_image"
        ]


AnyRequest = ImageRequest | IntentRequest


def _is_reference(item: Mapping[str, object]) -> bool:
    """Whether an item of the input stands for a stored one.

    LangChain and Pydantic AI send an earlier picture by its id alone (measured), and the Agents SDK
    for Node with an empty result; where nothing is stored, that is a 404 (rikkahub#1198).
    """
    if item.get("type") == "image_generation_call":
        return not item.get("result")
    return item.get("type") == "item_reference"


def parse(
    body: object,
    lifted: Sequence[json_skeleton.LiftedString],
    names: ModelNames,
    default_model: str,
) -> IntentRequest:
    """An image intent from the skeleton of its body; raises ``Refusal``."""
    if not isinstance(body, dict):
        raise Refusal("invalid_body", "The body must be a JSON object.")
    if not signals_of(body).show_intent(names.key.model_map):
        raise Refusal(
            "invalid_body",
            "The body has a key twice, with different values. Send each key once.",
        )
    model = _name(body, "model", "model") or default_model
    stream, background = (_boolean(body, name) for name in ("stream", "background"))
    if background:
        raise Refusal(
            "unsupported_value",
            "Image calls cannot run in the background here, because they could not be polled. "
            "Leave out `background` and wait for the answer, or ask for a stream.",
            param="background",
        )
    tool_models = [_name(tool, "model", "tools") for tool in image_tools(body)]
    return IntentRequest(
        model=model,
        tool_models=tuple(filter(None, tool_models)),
        names=names,
        body=body,
        texts=body_segments.of_lifted(lifted),
        stream=stream,
    )


def without_tool(body: object, model_map: Mapping[str, str]) -> Mapping[str, object] | None:
    """A parsed body without the image tool that it lists; None if it asks for a picture even so.

    It does if no other tool is left where one must be used.
    """
    if not isinstance(body, dict):
        return None
    left = dict(body)
    if isinstance(body.get("tools"), list):
        left["tools"] = _other_tools(body["tools"])
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and isinstance(choice.get("tools"), list):
        allowed = _other_tools(choice["tools"])
        left["tool_choice"] = {**choice, "tools": allowed}
        if not allowed:
            choice = choice.get("mode")
            del left["tool_choice"]
    if not left.get("tools"):
        left.pop("tools", None)
        left.pop("tool_choice", None)
    must_use = choice == "required" and "tool_choice" not in left
    return None if must_use or signals_of(left).show_intent(model_map) else left


def _other_tools(tools: Sequence[object]) -> list[object]:
    return [tool for tool in tools if not (isinstance(tool, dict) and tool.get("type") == TOOL)]


def image_tools(body: Mapping[str, object]) -> list[Mapping[str, object]]:
    """The image tools in a body; raises ``Refusal`` if ``tools`` is not a list."""
    tools = body.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise wrong_type("tools", "a list of tools")
    return [tool for tool in tools if isinstance(tool, dict) and tool.get("type") == TOOL]


def _boolean(body: Mapping[str, object], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong_type(name, "true or false")
    return value is True


def _name(table: Mapping[str, object], name: str, param: str) -> str | None:
    value = table.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value or json_skeleton.is_placeholder(value):
        raise wrong_type(param, "the name of a model")
    return value


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _objects(value: object) -> list[dict[str, object]]:
    return [item for item in _list(value) if isinstance(item, dict)]


def _prompt(value: object) -> str | None:
    if isinstance(value, str):
        return None if json_skeleton.is_placeholder(value) else value
    messages = [item for item in _objects(value) if item.get("role") == "user"]
    content = messages[-1].get("content") if messages else None
    if isinstance(content, str):
        return None if json_skeleton.is_placeholder(content) else content
    texts = [part.get("text") for part in _objects(content) if part.get("type") == "input_text"]
    strings = [
        text for text in texts if isinstance(text, str) and not json_skeleton.is_placeholder(text)
    ]
    return "\n".join(strings) if strings and len(strings) == len(texts) else None
