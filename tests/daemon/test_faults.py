"""Whose fault an error is: which account is asked next, what cools down, what the client reads.

Every test counts what arrived upstream, and reads the record.
"""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.daemon.conftest import Door, make_door
from tests.daemon.test_failover import Pair, error, make_pair
from tests.daemon.test_refusals import PROMPT, check_error
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream, answers, drawn, draws, picture, streams

EDIT = json.dumps(
    {"prompt": "a cat", "images": [{"image_url": f"data:image/png;base64,{picture(1000)}"}]}
).encode()
OTHER_MODEL = b'{"prompt": "a cat", "model": "gpt-image-1.5"}'
NO_TOOL = error(
    message="Tool choice 'image_generation' not found in 'tools' parameter.", param="tool_choice"
)
NOT_IN_PLAN = "The 'gpt-image-2' model is not supported when using Codex with a ChatGPT account."


@pytest.fixture
async def pair(gateway: Gateway, shared_plane: Plane) -> AsyncIterator[Pair]:
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        yield make_pair(gateway, shared_plane, first, second)


def make_first(pair: Pair, dialect: str, **columns: Any) -> None:
    """Make the first account one of another dialect."""
    if dialect == "azure":
        models = {"gpt-image-2": "d", "gpt-image-1.5": "e"}
        columns = {"deployments": models, "credential": {"api_key": "k"}, **columns}
    elif dialect == "openai":
        columns = {"credential": {"api_key": "k"}, **columns}
    pair.plane.update("accounts", {"account_name": pair.account}, dialect=dialect, **columns)


async def reasons(door: Door, **wanted: Any) -> list[str | None]:
    return [attempt["reason"] for attempt in (await door.record(**wanted))["attempts"]]


@dataclass(frozen=True)
class Place:
    """What a fault cools down: the calls that it keeps from the account, and those it does not."""

    kept: tuple[tuple[str, bytes], ...]
    free: tuple[tuple[str, bytes], ...]


GENERATE, OTHER, CHANGE = (
    ("/v1/images/generations", PROMPT),
    ("/v1/images/generations", OTHER_MODEL),
    ("/v1/images/edits", EDIT),
)
ACCOUNT = Place((GENERATE, OTHER, CHANGE), ())
MODEL = Place((GENERATE, CHANGE), (OTHER,))
ENDPOINT = Place((CHANGE,), (GENERATE, OTHER))
NOTHING = Place((), (GENERATE, OTHER, CHANGE))
LAST = Place((), ())
"""The account comes last for some seconds, because it failed."""


@dataclass(frozen=True)
class Refused:
    """An account's answer to a call."""

    dialect: str
    status: int
    body: Mapping[str, Any]
    asked: tuple[str, bytes] = GENERATE


UNVERIFIED = error(message="Your organization must be verified to use the model `gpt-image-2`.")
NO_SUCH_MODEL = error(
    "invalid_value",
    type="image_generation_user_error",
    param="tools",
    message="The model 'gpt-image-2' does not exist.",
)


@pytest.mark.parametrize(
    ("refused", "place", "reason"),
    [
        (Refused("codex", 400, NO_TOOL), ACCOUNT, "no_image_tool"),
        (Refused("codex", 400, error(message=NOT_IN_PLAN)), MODEL, "model_not_in_plan"),
        (Refused("codex", 400, {"detail": NOT_IN_PLAN}), MODEL, "model_not_in_plan"),
        (Refused("codex", 400, NO_SUCH_MODEL), MODEL, "model_unknown"),
        (Refused("openai", 403, UNVERIFIED), MODEL, "organization_not_verified"),
        (Refused("openai", 403, error("model_not_found")), MODEL, "model_unknown"),
        (Refused("openai", 400, error("billing_hard_limit_reached")), ACCOUNT, "account_spent"),
        (Refused("openai", 400, error("account_deactivated")), ACCOUNT, "account_stopped"),
        (Refused("azure", 404, error("404"), CHANGE), ENDPOINT, "path_unknown"),
        (
            Refused("azure", 400, error("unsupported_content_type"), CHANGE),
            NOTHING,
            "form_refused",
        ),
        (
            Refused("codex", 400, error("invalid_value", param="instructions")),
            NOTHING,
            "field_of_gateway",
        ),
        (Refused("openai", 503, error("server_is_overloaded")), LAST, "overloaded"),
    ],
)
async def test_what_is_not_the_client_s_fault_is_served_by_the_next_account(
    pair: Pair, refused: Refused, place: Place, reason: str
) -> None:
    make_first(pair, refused.dialect)
    pair.first.script = answers(refused.status, refused.body)
    path, prompt = refused.asked
    assert (await pair.post(prompt, path=path))[0] == 200
    assert pair.counts == (1, 1)
    assert await reasons(pair) == [reason, None]
    pair.first.script = draws
    for calls, expected in ((place.kept, 0), (place.free, 1)):
        for path, prompt in calls:
            before = len(pair.first.calls)
            assert (await pair.post(prompt, path=path))[0] == 200
            assert len(pair.first.calls) - before == expected, (path, prompt[:40])


async def test_a_field_of_the_gateway_s_own_is_never_blamed_on_the_client(pair: Pair) -> None:
    refused = error("invalid_value", param="instructions", message="Invalid 'instructions'.")
    pair.first.script = pair.second.script = answers(400, refused)
    status, headers, body = await pair.post(PROMPT)
    assert (status, headers["x-should-retry"]) == (502, "false")
    check_error(body, "upstream_refused")
    assert b"instructions" not in body
    assert pair.counts == (1, 1)
    record = await pair.record()
    assert (record["error_source"], record["may_be_billed"]) == ("upstream", False)
    assert await reasons(pair) == ["field_of_gateway", "field_of_gateway"]


async def test_a_field_of_the_client_is_called_as_the_client_calls_it(pair: Pair) -> None:
    """On the Responses route its ``size`` is ``tools[0].size``."""
    route = {"responses_model": "gpt-main", "codex_route": "responses"}
    pair.plane.update("accounts", {"account_name": pair.account}, **route)
    said = error("invalid_value", param="tools[0].size", message="Invalid 'tools[0].size'.")
    pair.first.script = answers(400, said)
    status, _, body = await pair.post(b'{"prompt": "a cat", "size": "1024x1024"}')
    assert status == 400
    told = json.loads(body)["error"]
    assert (told["param"], told["message"]) == ("size", "Invalid 'size'.")
    assert pair.counts == (1, 0)
    assert (await pair.record())["error_code"] == "invalid_value"


async def test_a_tool_that_the_client_left_out_stops_no_account(pair: Pair) -> None:
    """The same words mean the account where the tool was there."""
    for name in (pair.account, pair.second_account):
        pair.plane.update("accounts", {"account_name": name}, responses_model="gpt-main")
    pair.first.script = answers(400, NO_TOOL)
    intent: dict[str, Any] = {
        "model": "gpt-9",
        "input": "a cat",
        "tool_choice": {"type": "image_generation"},
    }
    for _ in range(2):
        status, _, body = await pair.post(json.dumps(intent).encode(), path="/v1/responses")
        assert (status, json.loads(body)) == (400, NO_TOOL)
    assert pair.counts == (2, 0)
    pair.second.script = streams(drawn())
    intent["tools"] = [{"type": "image_generation"}]
    assert (await pair.post(json.dumps(intent).encode(), path="/v1/responses"))[0] == 200
    assert pair.counts == (3, 1)
    assert await reasons(pair, status=200) == ["no_image_tool", None]


# -- answers behind which a picture may exist ------------------------------------------------------


@pytest.mark.parametrize("status", [502, 504, 520, 522, 524])
async def test_after_an_intermediary_s_answer_one_further_account_is_asked(
    gateway: Gateway, shared_plane: Plane, status: int
) -> None:
    """Whatever comes of it: a picture may be under way, and the SDK must not buy a third."""
    async with ScriptedUpstream(answers(status, b"<html>")) as upstream:
        door = make_door(gateway, shared_plane, upstream)
        names = [door.account, f"{door.account}-b", f"{door.account}-c"]
        for name in names[1:]:
            shared_plane.add_account(name, upstream.url, same_account_retries=2)
        shared_plane.update("keys", {"key_id": door.key_id}, account_names=names)
        async with door.client(max_retries=2) as client:
            with pytest.raises(openai.InternalServerError) as raised:
                await client.images.generate(prompt="a cat")
        assert raised.value.status_code == status
        assert raised.value.response.headers["x-should-retry"] == "false"
        assert len(upstream.calls) == 2
        assert (await door.record())["may_be_billed"]
        assert await reasons(door) == ["intermediary", "intermediary"]


async def test_a_refusal_after_an_intermediary_s_answer_forbids_a_retry(pair: Pair) -> None:
    pair.first.script = answers(524, b"<html>")
    pair.second.script = answers(429, error("rate_limit_exceeded"))
    status, headers, body = await pair.post(PROMPT)
    assert (status, headers["x-should-retry"]) == (429, "false")
    check_error(body, "rate_limit_exceeded")
    assert (await pair.record())["may_be_billed"]


async def test_a_picture_after_an_intermediary_s_answer_may_be_the_second_one(pair: Pair) -> None:
    pair.first.script = answers(504, b"<html>")
    assert (await pair.post(PROMPT))[0] == 200
    assert pair.counts == (1, 1)
    assert (await pair.record())["may_be_billed"]


@pytest.mark.parametrize("status", [500, 503])
async def test_an_upstream_that_fails_free_lets_the_next_account_serve(
    pair: Pair, status: int
) -> None:
    make_first(pair, "openai", fails_free=True)
    pair.first.script = answers(status, error("do_request_failed", type="new_api_error"))
    assert (await pair.post(PROMPT))[0] == 200
    assert pair.counts == (1, 1)
    assert not (await pair.record())["may_be_billed"]


async def test_an_error_in_no_known_shape_is_not_free(pair: Pair) -> None:
    make_first(pair, "openai", fails_free=True)
    pair.first.script = answers(500, {"detail": "Internal Server Error"})
    status, headers, _ = await pair.post(PROMPT)
    assert (status, headers["x-should-retry"]) == (500, "false")
    assert pair.counts == (1, 0)
    assert (await pair.record())["may_be_billed"]


async def test_only_the_operator_says_that_an_upstream_fails_free(pair: Pair) -> None:
    make_first(pair, "openai")
    pair.first.script = answers(500, error("server_error"))
    status, headers, _ = await pair.post(PROMPT)
    assert (status, headers["x-should-retry"]) == (500, "false")
    assert pair.counts == (1, 0)
    assert (await pair.record())["may_be_billed"]
