"""What an image intent on a Responses path asks for.

Only intents are parsed (``parse``), and only the fields that routing needs; ``intent_signals`` says
what an intent is.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from image_gateway.core.codec import body_segments, json_skeleton
from image_gateway.core.codec.body_segments import Body
from image_gateway.core.errors import Refusal, wrong_type
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent_signals import TOOL, signals_of
from image_gateway.core.request.model_names import ModelNames, is_image_model

BACKGROUND_ID: Final = "resp_ig_"
"""What the ids of responses in the background begin with; the gateway makes them."""

_ADDRESS: Final = re.compile(r"https?:", re.IGNORECASE)


@dataclass(frozen=True)
class IntentRequest:
    """One image intent.  ``body`` is the skeleton of the client's body, ``texts`` the texts of its
    placeholders and ``digests`` their SHA-256; ``model`` and ``tool_models`` are the client's
    names.  ``background``: the client comes back for the answer.

    A body may have very many values, and each account asks about them, so what stands somewhere
    among them is looked for once.
    """

    model: str
    tool_models: tuple[str, ...]
    names: ModelNames = field(repr=False)
    body: Mapping[str, object] = field(repr=False)
    texts: tuple[Body, ...] = field(default=(), repr=False)
    stream: bool = False
    digests: tuple[bytes, ...] = field(default=(), repr=False)
    background: bool = False

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

    @cached_property
    def prompt(self) -> str | None:
        """The text of the user's last message; None if it is not in the skeleton."""
        return _prompt(self.body.get("input"))

    @property
    def session(self) -> str | None:
        """The session that the body names in ``prompt_cache_key``."""
        key = self.body.get("prompt_cache_key")
        return key if isinstance(key, str) and not json_skeleton.is_placeholder(key) else None

    @cached_property
    def input_image_count(self) -> int:
        """The number of pictures in the input."""
        return len(self._pictures)

    @cached_property
    def addressed_picture(self) -> str | None:
        """The parameter of the first picture that is not in the body but at an address."""
        for param, picture in self._pictures:
            url = picture.get("image_url")
            if isinstance(url, str) and _ADDRESS.match(url):
                return f"{param}.image_url"
        return None

    @cached_property
    def stored_reference(self) -> str | None:
        """The first parameter that refers to an earlier call, which its upstream has stored."""
        for name in ("previous_response_id", "conversation", "prompt"):
            if self.body.get(name) is not None:
                return name
        for index, item in enumerate(_list(self.body.get("input"))):
            if isinstance(item, dict) and _is_reference(item):
                return f"input[{index}]"
        return None

    @cached_property
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
    if background and body.get("store") is False:
        raise Refusal(
            "unsupported_value",
            "A call in the background needs `store`, because its answer is kept until it is "
            "fetched. Leave out `store`, or `background`.",
            param="store",
        )
    previous = body.get("previous_response_id")
    if isinstance(previous, str) and previous.startswith(BACKGROUND_ID):
        raise Refusal(
            "unsupported_value",
            "A response from the background cannot be continued by its id, which no upstream "
            "knows. Send its output in `input` in place of `previous_response_id`.",
            param="previous_response_id",
        )
    tool_models = [_name(tool, "model", "tools") for tool in image_tools(body)]
    return IntentRequest(
        model=model,
        tool_models=tuple(filter(None, tool_models)),
        names=names,
        body=body,
        texts=body_segments.of_lifted(lifted),
        stream=stream,
        digests=tuple(string.digest for string in lifted),
        background=background,
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
