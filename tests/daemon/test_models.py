"""Which models a key may use: the one asked for and the one it maps to, on every path, for every
kind of account, in every form of body, whatever else the key or its group may.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.daemon.conftest import KINDS, Door, MakeDoor
from tests.daemon.test_refusals import check_error
from tests.parts import forms
from tests.parts.forms import Piece
from tests.parts.plane import Plane
from tests.parts.upstream import PNG, Call, ScriptedUpstream, answers, drawn, images, streams

MAP = {"house": "gpt-image-2"}
PICTURE = "data:image/png;base64,iVBORw0KGgoAAAAA"


@dataclass(frozen=True)
class Way:
    """How a client names a model: the path and body, as far as the model's name ``{}``."""

    path: str
    body: Mapping[str, Any]
    is_form: bool = False

    async def call(self, door: Door, model: str) -> tuple[int, dict[str, str], bytes]:
        text = json.dumps(self.body).replace("MODEL", model)
        path = self.path.replace("MODEL", model)
        if not self.is_form:
            return await door.post(text.encode(), path)
        fields = [(name, str(value)) for name, value in json.loads(text).items()]
        body = forms.body(Piece("image", PNG, "upload", "image/png"), *fields)
        return await door.post(body, path, content_type=forms.FORM)


IMAGES = {
    "a generation": Way("/v1/images/generations", {"prompt": "a cat", "model": "MODEL"}),
    "a deployment in the path": Way(
        "/openai/deployments/MODEL/images/generations", {"prompt": "a cat"}
    ),
    "the path before the body": Way(
        "/openai/deployments/MODEL/images/generations", {"prompt": "a cat", "model": "gpt-image-2"}
    ),
    "an edit in JSON": Way(
        "/backend-api/codex/images/edits",
        {"prompt": "a cat", "model": "MODEL", "images": [{"image_url": PICTURE}]},
    ),
    "an edit as multipart": Way(
        "/api/llm-gateway/v1/images/edits", {"prompt": "a cat", "model": "MODEL"}, is_form=True
    ),
}
RESPONSES = {
    "an intent's model": Way("/v1/responses", {"input": "a cat", "model": "MODEL"}),
    "an intent's tool": Way(
        "/responses",
        {
            "input": "a cat",
            "model": "gpt-5",
            "tools": [{"type": "image_generation", "model": "MODEL"}],
        },
    ),
}
WAYS = [(kind, name, way) for kind in KINDS for name, way in IMAGES.items()]
WAYS += [("codex-responses", name, way) for name, way in RESPONSES.items()]


@pytest.fixture
def drawing(upstream: ScriptedUpstream) -> ScriptedUpstream:
    """An upstream that answers each kind as it asks."""

    async def script(call: Call) -> None:
        is_events = call.headers["accept"] == "text/event-stream"
        await (streams(drawn()) if is_events else answers(200, images()))(call)

    upstream.script = script
    return upstream


def model_sent(kind: str, call: Call) -> str:
    """The image model that the upstream was asked for, by the account's own name for it."""
    if kind == "azure-legacy":
        return call.target.split("/deployments/")[1].split("/")[0].replace("%20", " ")
    if call.headers["content-type"].startswith("multipart/"):
        return next(p.data.decode() for p in forms.pieces(call) if p.name == "model")
    body = call.json()
    return str(body["tools"][0]["model"] if "tools" in body else body["model"])


@pytest.mark.parametrize(("kind", "name", "way"), WAYS, ids=[f"{k}: {n}" for k, n, _ in WAYS])
async def test_only_a_model_that_is_allowed_under_both_names_is_asked_for(
    make_account: MakeDoor,
    shared_plane: Plane,
    drawing: ScriptedUpstream,
    kind: str,
    name: str,
    way: Way,
) -> None:
    group = f"group of {kind} {name}"
    shared_plane.add_group(group, image_enabled=True)
    door = make_account(
        kind, key={"model_map": MAP, "group_id": group, "allowed_models": ["house", "gpt-5"]}
    )
    text = ["gpt-5"]
    for allowed, asked in [
        ([], "house"),
        (["house"], "house"),
        (["gpt-image-2"], "house"),
        (["house", "gpt-image-2"], "gpt-image-1.5"),
    ]:
        shared_plane.update("keys", {"key_id": door.key_id}, allowed_models=allowed + text)
        status, _, body = await way.call(door, asked)
        assert status == 403, (allowed, asked)
        check_error(body, "model_not_allowed", "model")
    assert drawing.calls == []
    shared_plane.update(
        "keys", {"key_id": door.key_id}, allowed_models=["house", "gpt-image-2", *text]
    )
    assert (await way.call(door, "house"))[0] == 200
    [call] = drawing.calls
    own = KINDS[kind].row.get("deployments", {})
    assert model_sent(kind, call) == own.get("gpt-image-2", "gpt-image-2")
    record = await door.record(status=200)
    assert record["account_name"] == door.account
