"""What clients send to the images paths besides the plain call: models, spellings, defaults, paths.

Each test is a way in which a real client differs from the documentation of the API.
"""

import json
from typing import Any

import pytest

from tests.daemon.conftest import KINDS, Door, MakeDoor
from tests.daemon.test_refusals import check_error
from tests.parts import forms
from tests.parts.forms import Piece
from tests.parts.plane import Plane
from tests.parts.upstream import PNG, ScriptedUpstream, answers, drawn, images, streams

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
PICTURE = "data:image/png;base64,iVBORw0KGgoAAAAA"
PROMPT = {"prompt": "a cat"}


def text(**fields: Any) -> bytes:
    return json.dumps({**PROMPT, **fields}).encode()


def message_of(body: bytes) -> str:
    return str(json.loads(body)["error"]["message"])


# -- models ----------------------------------------------------------------------------------


OPEN = [
    "gpt-image-2",
    "gpt-image-2-2026-04-21",
    "gpt-image-2.5-sunburst",
    "gpt-image-2.5-flare",
    "gpt-image-2.5-sunburst-2026-09-08",
    "gpt-image-2.6-sunburst",
    "gpt-image-2.6-flare-2026-12-24",
    "gpt-image-3-preview",
    "chatgpt-image-latest",
    "chatgpt-image-next",
]


@pytest.mark.parametrize("model", OPEN)
async def test_an_openai_account_without_deployments_serves_every_image_model(
    make_account: MakeDoor, upstream: ScriptedUpstream, model: str
) -> None:
    door = make_account("openai")
    assert (await door.post(text(model=model)))[0] == 200
    assert upstream.calls[0].json()["model"] == model
    record = await door.record()
    assert (record["model"], record["upstream_model"], record["status"]) == (model, model, 200)


async def test_an_azure_account_without_deployments_serves_every_image_model(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("azure-v1", deployments=None)
    for model in OPEN:
        assert (await door.post(text(model=model)))[0] == 200
        assert upstream.calls[-1].json()["model"] == model
        assert (await door.record(model=model))["status"] == 200


async def test_a_model_that_is_not_listed_has_the_rules_of_the_newest(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai")
    wide = {"model": "gpt-image-9", "size": "2048x1152", "quality": "max", "output_format": "gif"}
    assert (await door.post(text(**wide, frame_count=2)))[0] == 200
    status, _, body = await door.post(text(model="gpt-image-9", size="1000x1000"))
    assert status == 400
    check_error(body, "invalid_value", "size")
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("kind", ["codex", "codex-responses"])
async def test_a_codex_account_without_deployments_sells_its_one_model_alone(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    door = make_account(kind)
    for model in OPEN[1:]:
        status, _, body = await door.post(text(model=model))
        assert status == 404
        check_error(body, "model_not_found", "model")
        assert message_of(body) == (
            f"No account of this key serves `{model}`. It may ask for `gpt-image-2`."
        )
        assert (await door.record(model=model))["error_code"] == "model_not_found"
    assert upstream.calls == []


async def test_an_operator_may_map_other_names_to_codex(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("codex", deployments={"gpt-image-1.5": "gpt-image-2"})
    assert (await door.post(text(model="gpt-image-1.5")))[0] == 200
    assert upstream.calls[0].json()["model"] == "gpt-image-2"
    assert (await door.post(text()))[0] == 404
    assert (await door.record(status=200))["model"] == "gpt-image-1.5"


SPELLINGS = ["openai/gpt-image-2", "GPT-Image-2", " gpt-image-2 ", "OpenRouter/OpenAI/GPT-Image-2"]


@pytest.mark.parametrize("model", SPELLINGS)
@pytest.mark.parametrize("kind", KINDS)
async def test_another_spelling_is_the_same_model(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, model: str
) -> None:
    if kind == "codex-responses":
        upstream.script = streams(drawn())
    door = make_account(kind, key={"allowed_models": ["gpt-image-2"]})
    assert (await door.post(text(model=model)))[0] == 200
    assert len(upstream.calls) == 1
    record = await door.record()
    assert (record["model"], record["upstream_model"]) == (model, "gpt-image-2")


async def test_a_deployment_s_path_may_be_spelt_otherwise_too(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("azure-legacy")
    path = "/openai/deployments/OpenAI%2FGPT-Image-2/images/generations?api-version=1"
    assert (await door.post(text(), path))[0] == 200
    assert "/deployments/my%20deployment/" in upstream.calls[0].target
    assert (await door.record())["upstream_model"] == "gpt-image-2"


async def test_a_spelling_that_the_operator_wrote_is_a_model_of_its_own(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    deployed = make_account("openai", deployments={"GPT-Image-2": "mine", "gpt-image-2": "plain"})
    assert (await deployed.post(text(model="GPT-Image-2")))[0] == 200
    assert (await deployed.record())["upstream_model"] == "GPT-Image-2"
    mapped = make_account("openai", key={"model_map": {"GPT-Image-2": "gpt-image-2.6-flare"}})
    assert (await mapped.post(text(model="GPT-Image-2")))[0] == 200
    assert (await mapped.record())["upstream_model"] == "gpt-image-2.6-flare"
    assert [call.json()["model"] for call in upstream.calls] == ["mine", "gpt-image-2.6-flare"]
    # Leave to use the plain model is none to use that deployment.
    narrow = make_account(
        "openai",
        key={"allowed_models": ["gpt-image-2"]},
        deployments={"GPT-Image-2": "mine", "gpt-image-2": "plain"},
    )
    status, _, body = await narrow.post(text(model="GPT-Image-2"))
    assert status == 403
    check_error(body, "model_not_allowed", "model")
    assert len(upstream.calls) == 2


async def test_a_model_that_nobody_has_is_named_with_what_there_is(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai", deployments={f"model-{at:02}": "x" for at in range(12)})
    status, _, body = await door.post(text(model="dall-e-3"))
    assert status == 404
    check_error(body, "model_not_found", "model")
    names = ", ".join(f"`model-{at:02}`" for at in range(10))
    assert message_of(body) == (
        f"No account of this key serves `dall-e-3`. It may ask for {names} and 2 more."
    )
    assert upstream.calls == []
    assert (await door.record())["error_code"] == "model_not_found"


async def test_only_what_the_key_may_ask_for_is_named(
    make_account: MakeDoor, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    door = make_account(
        "openai",
        key={
            "allowed_models": ["house", "gpt-image-2", "gone", "dall-e-3"],
            "model_map": {"house": "gpt-image-2", "secret": "gpt-image-2"},
        },
        deployments={"gpt-image-2": "x", "hidden": "y"},
    )
    for model, status in (("dall-e-3", 404), ("hidden", 403), ("secret", 403)):
        answer = await door.post(text(model=model))
        assert answer[0] == status
        assert message_of(answer[2]).endswith(" It may ask for `house`, `gpt-image-2`.")
        assert (await door.record(model=model))["status"] == status
    shared_plane.update("accounts", {"account_name": door.account}, image_enabled=False)
    answer = await door.post(text(model="dall-e-3"))
    assert "may ask for no model" in message_of(answer[2])
    assert upstream.calls == []


@pytest.mark.parametrize("model", ["x" * 250, "a cat in the rain", "<script>", "a\nb"])
async def test_a_model_that_does_not_look_like_one_is_not_repeated(door: Door, model: str) -> None:
    status, _, body = await door.post(text(model=model))
    assert status == 404
    assert model not in message_of(body)
    assert (await door.record())["status"] == 404


# -- the format of edits ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_form", [False, True])
async def test_an_edit_takes_response_format_as_a_generation_does(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, *, is_form: bool
) -> None:
    upstream.script = streams(drawn()) if kind == "codex-responses" else answers(200, images())
    door = make_account(kind)
    for wanted in ("b64_json", "url"):
        if is_form:
            fields = [("prompt", "a cat"), ("response_format", wanted)]
            body = forms.body(Piece("image", PNG, "upload"), *fields)
            answer = await door.post(body, EDITS, content_type=forms.FORM)
        else:
            answer = await door.post(text(images=[PICTURE], response_format=wanted), EDITS)
        assert answer[0] == 200
        [picture] = json.loads(answer[2])["data"]
        assert (wanted in picture, len({"url", "b64_json"} & set(picture))) == (True, 1)
        assert picture[wanted].startswith("data:image/png;base64,") is (wanted == "url")
        assert b"response_format" not in upstream.calls[-1].body
    assert {
        record["status"] for record in door.gateway.records() if record["key_id"] == door.key_id
    } <= {200}


# -- several pictures ------------------------------------------------------------------------


NAMES = {
    "curl and Ruby": ["image", "image", "image"],
    "the SDKs": ["image[]", "image[]", "image[]"],
    "PHP": ["image[0]", "image[1]", "image[2]"],
    "PHP, one of which is gone": ["image[0]", "image[2]", "image[7]"],
    "mixed": ["image[]", "image", "image[1]"],
}
PICTURES = [PNG + bytes([at]) for at in range(3)]


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("kind", KINDS)
async def test_several_pictures_go_on_in_order_whatever_the_client_called_them(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, names: list[str]
) -> None:
    upstream.script = streams(drawn()) if kind == "codex-responses" else answers(200, images())
    door = make_account(kind)
    parts = [Piece(name, data, "a.png") for name, data in zip(names, PICTURES, strict=True)]
    body = forms.body(*parts, ("prompt", "a cat"))
    assert (await door.post(body, EDITS, content_type=forms.FORM))[0] == 200
    [call] = upstream.calls
    if "multipart" in call.headers["content-type"]:
        sent = [part for part in forms.pieces(call) if part.filename is not None]
        assert [part.name for part in sent] == ["image[]"] * 3
        assert [part.data for part in sent] == PICTURES
    else:
        urls = [forms.data_url(data) for data in PICTURES]
        found = call.body.decode().replace("\\/", "/")
        assert [found.index(url) for url in urls] == sorted(found.index(url) for url in urls)
    record = await door.record()
    assert (record["status"], record["input_image_count"]) == (200, 3)


@pytest.mark.parametrize("name", ["image", "image[]", "image[0]", "image[3]"])
async def test_one_picture_goes_on_as_image(
    make_account: MakeDoor, upstream: ScriptedUpstream, name: str
) -> None:
    door = make_account("openai")
    body = forms.body(Piece(name, PNG, "a.png"), ("prompt", "a cat"))
    assert (await door.post(body, EDITS, content_type=forms.FORM))[0] == 200
    [sent] = [part for part in forms.pieces(upstream.calls[0]) if part.filename is not None]
    assert (sent.name, sent.data) == ("image", PNG)
    assert (await door.record())["input_image_count"] == 1


async def test_numbered_pictures_are_in_the_order_of_their_numbers(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("azure-v1")
    parts = [Piece(f"image[{at}]", PICTURES[at], "a.png") for at in (2, 0, 1)]
    body = forms.body(*parts, ("prompt", "a cat"))
    assert (await door.post(body, EDITS, content_type=forms.FORM))[0] == 200
    sent = [part.data for part in forms.pieces(upstream.calls[0]) if part.filename is not None]
    assert sent == PICTURES
    twice = forms.body(*parts, parts[0], ("prompt", "a cat"))
    status, _, answer = await door.post(twice, EDITS, content_type=forms.FORM)
    assert status == 400
    check_error(answer, "invalid_value", "image[2]")
    assert len(upstream.calls) == 1
    assert (await door.record(status=400))["error_code"] == "invalid_value"


@pytest.mark.parametrize(
    "name",
    [
        "image[1000]",
        "image[-1]",
        "image[a]",
        "image[0][0]",
        "images[0]",
        "Image",
        "file",
        "photo[]",
    ],
)
async def test_a_picture_by_another_name_is_told_what_to_call_it(
    door: Door, upstream: ScriptedUpstream, name: str
) -> None:
    kind = None if "image" in name.lower() else "image/png"
    body = forms.body(Piece(name, PNG, "a.png", kind), ("prompt", "a cat"))
    status, _, answer = await door.post(body, EDITS, content_type=forms.FORM)
    assert status == 400
    assert json.loads(answer)["error"]["code"] == "unknown_parameter"
    assert "`image[0]`, `image[1]`" in message_of(answer)
    assert upstream.calls == []
    assert (await door.record())["status"] == 400


# -- defaults --------------------------------------------------------------------------------


NOTHING_ASKED: dict[str, dict[str, Any]] = {
    "output_compression with png": {"output_compression": 100},
    "output_compression with png by name": {"output_compression": 100, "output_format": "png"},
    "partial_images without stream": {"partial_images": 0},
    "partial_images with a false stream": {"partial_images": 0, "stream": False},
    "an empty user": {"user": ""},
    "an empty safety_identifier": {"safety_identifier": ""},
    "frames without gif": {"frame_count": 9, "frame_duration_ms": 200},
    "input_fidelity of a model without": {"input_fidelity": "low"},
    "all that is auto": {"size": "auto", "quality": "auto", "background": "auto", "n": 1},
    "moderation": {"moderation": "auto"},
    "the format of the answer": {"response_format": "b64_json"},
}


@pytest.mark.parametrize("extra", NOTHING_ASKED.values(), ids=NOTHING_ASKED)
@pytest.mark.parametrize("kind", KINDS)
async def test_documented_defaults_ask_for_nothing(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, extra: dict[str, Any]
) -> None:
    upstream.script = streams(drawn()) if kind == "codex-responses" else answers(200, images())
    door = make_account(kind)
    assert (await door.post(text(**extra)))[0] == 200
    fields = [(name, str(value).lower()) for name, value in extra.items()]
    form = forms.body(Piece("image", PNG, "a.png"), ("prompt", "a cat"), *fields)
    assert (await door.post(form, EDITS, content_type=forms.FORM))[0] == 200
    absent = ("output_compression", "partial_images", "frame_count", "input_fidelity", "user")
    for call in upstream.calls:
        assert not [name for name in absent if f'"{name}":'.encode() in call.body]
    assert (await door.record(endpoint="edits"))["status"] == 200


async def test_what_a_file_s_end_adds_to_a_number_does_not_count(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai")
    fields = [("prompt", "a cat"), ("n", "1\n"), ("stream", "false\r\n")]
    form = forms.body(Piece("image", PNG, "a.png"), *fields)
    assert (await door.post(form, EDITS, content_type=forms.FORM))[0] == 200
    assert ("n", b"1") in [(part.name, part.data) for part in forms.pieces(upstream.calls[0])]
    assert (await door.record())["n"] == 1


# -- gif, svg and addresses ------------------------------------------------------------------


GIF = {"model": "gpt-image-2.6-sunburst", "output_format": "gif", "size": "384x384"}


@pytest.mark.parametrize("kind", ["codex", "codex-responses", "azure-v1", "openai"])
async def test_a_gif_with_its_options_is_every_account_s(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    upstream.script = streams(drawn()) if kind == "codex-responses" else answers(200, images())
    door = make_account(kind, deployments={"gpt-image-2.6-sunburst": "g"})
    options = {"frame_count": 8, "frame_duration_ms": 655_350}
    assert (await door.post(text(**GIF, **options)))[0] == 200
    sent = upstream.calls[0].json()
    tool = sent["tools"][0] if "tools" in sent else sent
    assert {name: tool[name] for name in (*options, "output_format")} == {
        **options,
        "output_format": "gif",
    }
    record = await door.record()
    assert (record["size"], record["size_given"]) == ("384x384", images()["size"])


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({**GIF, "frame_count": 4}, "size"),
        ({**GIF, "size": "1024x1024"}, "size"),
        ({**GIF, "frame_count": 17}, "frame_count"),
        ({**GIF, "frame_duration_ms": 19}, "frame_duration_ms"),
        ({**GIF, "frame_duration_ms": 655_351}, "frame_duration_ms"),
        ({**GIF, "stream": True}, "stream"),
        ({**GIF, "complexity": "huge"}, "complexity"),
        ({**GIF, "output_format": "svg", "n": 2, "size": "auto"}, "n"),
    ],
)
async def test_a_gif_or_svg_that_breaks_a_rule_is_refused_by_its_name(
    make_account: MakeDoor, upstream: ScriptedUpstream, extra: dict[str, Any], param: str
) -> None:
    door = make_account("openai")
    status, _, body = await door.post(text(**extra))
    assert status == 400
    check_error(body, "invalid_value", param)
    assert upstream.calls == []
    assert (await door.record())["error_code"] == "invalid_value"


async def test_a_picture_by_its_address_is_openai_s_alone(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    body = text(images=["https://example.com/a.png"])
    for kind in KINDS:
        door = make_account(kind)
        status, _, answer = await door.post(body, EDITS)
        assert status == (200 if kind == "openai" else 400), kind
        if kind != "openai":
            check_error(answer, "unsupported_value", "images")
        assert (await door.record())["status"] == status
    assert len(upstream.calls) == 1


async def test_each_call_on_codex_s_direct_route_has_an_id_of_its_own(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("codex")
    for _ in range(2):
        assert (await door.post(text()))[0] == 200
    ids = [call.headers["x-codex-image-turn-id"] for call in upstream.calls]
    assert len(set(ids)) == 2
    assert all(len(each) == 36 for each in ids)


# -- paths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "?api-version=2025-04-01-preview"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_paths_of_azureopenai_in_npm_and_of_the_ai_sdk_are_served(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, query: str
) -> None:
    """``/openai/images/edits`` is AzureOpenAI's, ``/openai/images/generations`` the AI SDK's."""
    upstream.script = streams(drawn()) if kind == "codex-responses" else answers(200, images())
    door = make_account(kind)
    answer = await door.post(text(model="gpt-image-2"), f"/openai/images/generations{query}")
    assert answer[0] == 200
    form = forms.body(Piece("image", PNG, "a"), ("prompt", "a"), ("model", "gpt-image-2"))
    path = f"/openai/images/edits{query}"
    assert (await door.post(form, path, content_type=forms.FORM))[0] == 200
    for endpoint in ("generations", "edits"):
        record = await door.record(endpoint=endpoint)
        assert (record["path"], record["status"]) == (f"/openai/images/{endpoint}", 200)
