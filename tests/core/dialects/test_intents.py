"""Image intents at OpenAI and Azure accounts: the client's call, with the account's names."""

import json
from typing import Any

import pytest

from image_gateway.core.codec import json_scanner, json_skeleton
from image_gateway.core.dialects import DIALECTS, EncodeContext, ExpectedResponse, UpstreamRequest
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account, Credential, Secret
from image_gateway.core.request import intent
from image_gateway.core.request.model_names import ModelNames
from image_gateway.core.routing.capability import Gap, choose
from tests.core.builders import account, key, play

TOOL = {"type": "image_generation"}
TEXT = {"model": "gpt-5", "input": [{"role": "user", "content": "a cat"}]}
CLIENT = Headers([(b"traceparent", b"00-1"), (b"cookie", b"hush"), (b"openai-beta", b"hush")])
KEY = Credential(Secret("key-1"), "api_key")
DEPLOYMENT = "x-ms-oai-image-generation-deployment"


def _openai(**changes: Any) -> Account:
    row = {"dialect": "openai", "credential": KEY, "responses_model": "gpt-main"}
    return account(**{**row, **changes})


def _azure(**changes: Any) -> Account:
    row = {
        "dialect": "azure",
        "base_url": "https://r.openai.azure.com",
        "deployments": {"gpt-image-2": "draws", "gpt-image-2-2026-04-21": "dated", "gpt-5": "five"},
        "credential": KEY,
        "responses_model": "main",
    }
    return account(**{**row, **changes})


def _encode(value: dict[str, Any], one: Account) -> tuple[UpstreamRequest, dict[str, Any]]:
    text = json.dumps(value).encode()
    skeleton = json_skeleton.JsonSkeleton(limits=json_scanner.CONVERSATION)
    skeleton.feed(text)
    request = intent.parse(skeleton.close(), skeleton.lifted, ModelNames(key()), "gpt-image-2")
    route = choose(one, request)
    assert not isinstance(route, Gap)
    context = EncodeContext(DIALECTS[one.dialect].base_url or "", "0.1.0", "never-used")
    call = route.encode(request, one, CLIENT, context)
    assert call.expects is ExpectedResponse.RESPONSE
    body: dict[str, Any] = json.loads(play(call.body, text))
    return call, body


def test_openai_gets_the_call_as_it_came_but_for_the_stream() -> None:
    value = {
        **TEXT,
        "tools": [{**TOOL, "size": "1024x1024"}],
        "temperature": 0.2,
        "previous_response_id": "resp_1",
        "store": True,
        "input": [{"role": "system", "content": "x" * 5000}],
    }
    call, body = _encode(value, _openai())
    assert call.url == "https://api.openai.com/v1/responses"
    assert call.headers == {
        "traceparent": "00-1",
        "authorization": "Bearer key-1",
        "accept": "text/event-stream",
        "content-type": "application/json",
    }
    assert body == {**value, "stream": True}


def test_openai_s_main_model_draws_for_an_image_model() -> None:
    _, body = _encode({**TEXT, "model": "gpt-image-2"}, _openai())
    assert body == {
        **TEXT,
        "model": "gpt-main",
        "stream": True,
        "tools": [{**TOOL, "model": "gpt-image-2"}],
        "tool_choice": TOOL,
    }


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://r.openai.azure.com", "https://r.openai.azure.com/openai/v1/responses"),
        ("https://r.openai.azure.com/openai/v1/", "https://r.openai.azure.com/openai/v1/responses"),
        (
            "https://r.openai.azure.com/openai/v1/responses",
            "https://r.openai.azure.com/openai/v1/responses",
        ),
        (
            "https://apim.example/x/openai/deployments/d?k=1",
            "https://apim.example/x/openai/v1/responses?k=1",
        ),
    ],
)
@pytest.mark.parametrize("api_version", [None, "2025-04-01-preview"])
def test_azure_serves_intents_on_its_v1_path(base: str, url: str, api_version: str | None) -> None:
    one = _azure(base_url=base, api_version=api_version)
    call, _ = _encode({**TEXT, "tools": [TOOL]}, one)
    assert call.url == url
    assert call.headers["api-key"] == "key-1"
    assert "hush" not in str(call.headers)


@pytest.mark.parametrize(
    ("asked", "model", "deployment"),
    [
        ({"tools": [TOOL]}, "five", "draws"),
        ({"tools": [{**TOOL, "model": "gpt-image-2-2026-04-21"}]}, "five", "dated"),
        ({"model": "gpt-image-2"}, "main", "draws"),
        ({"model": "gpt-image-2-2026-04-21", "tools": [TOOL]}, "main", "dated"),
        ({"model": "other", "tools": [TOOL]}, "other", "draws"),
    ],
)
def test_azure_s_header_names_the_deployment_that_draws(
    asked: dict[str, Any], model: str, deployment: str
) -> None:
    call, body = _encode({**TEXT, **asked}, _azure())
    assert (body["model"], call.headers[DEPLOYMENT]) == (model, deployment)
    assert body["tools"] == [TOOL]


@pytest.mark.parametrize(
    ("asked", "openai", "azure"),
    [
        ({"tools": [TOOL]}, "gpt-image-2.6-sunburst", "gpt-image-2"),
        ({"model": "gpt-image-2-2026-04-21"}, "gpt-image-2-2026-04-21", "gpt-image-2-2026-04-21"),
        (
            {"tools": [TOOL, {**TOOL, "model": "gpt-image-2-2026-04-21"}]},
            "gpt-image-2-2026-04-21",
            "gpt-image-2-2026-04-21",
        ),
        (
            {"model": "gpt-image-2", "tools": [{**TOOL, "model": "gpt-image-2-2026-04-21"}]},
            None,
            "gpt-image-2",
        ),
    ],
)
def test_the_model_that_draws_is_known_by_its_public_name(
    asked: dict[str, Any], openai: str | None, azure: str
) -> None:
    """For the cost.  Of several tools OpenAI's main model may use any; Azure has one deployment."""
    assert _encode({**TEXT, **asked}, _openai())[0].picture_model == openai
    assert _encode({**TEXT, **asked}, _azure())[0].picture_model == azure


def test_azure_without_an_image_deployment_names_none() -> None:
    call, _ = _encode({**TEXT, "tools": [TOOL]}, _azure(deployments={"gpt-5": "five"}))
    assert DEPLOYMENT not in call.headers
    assert call.picture_model is None


@pytest.mark.parametrize("one", [_openai(responses_model=None), _azure(responses_model=None)])
def test_an_account_without_a_main_model_serves_no_intents(one: Account) -> None:
    request = intent.parse({**TEXT, "tools": [TOOL]}, [], ModelNames(key()), "gpt-image-2")
    route = choose(one, request)
    assert isinstance(route, Gap)
    assert route.param == "model"
