"""Names of image models: two spellings of one name mean one model, unless an operator says else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.request import model_names
from image_gateway.core.request.model_names import ModelNames
from tests.core.builders import account, grant, key


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-image-2", "gpt-image-2"),
        ("openai/gpt-image-2", "gpt-image-2"),
        ("GPT-Image-2", "gpt-image-2"),
        (" gpt-image-2\n", "gpt-image-2"),
        ("OpenRouter/OpenAI/ GPT-IMAGE-2.5-Sunburst ", "gpt-image-2.5-sunburst"),
        ("azure/ChatGPT-Image-Latest", "chatgpt-image-latest"),
        # Only image models have other spellings.
        ("openai/gpt-5", "openai/gpt-5"),
        ("GPT-5", "GPT-5"),
        ("gpt-image", "gpt-image"),
        ("gpt-image-2/chat", "gpt-image-2/chat"),
        ("my-gpt-image-2", "my-gpt-image-2"),
        ("House", "House"),
        ("", ""),
        ("/", "/"),
    ],
)
def test_a_plain_name_has_no_space_upper_case_or_vendor(name: str, expected: str) -> None:
    assert model_names.plain(name) == expected
    begins = expected.startswith(("gpt-image-", "chatgpt-image-"))
    assert model_names.is_image_model(name) is (begins and "/" not in expected)


@given(st.text(max_size=40) | st.from_regex(r"\A ?(\w{1,9}/)?(Chat)?GPT-Image-\S{0,9} ?\Z"))
def test_a_plain_name_is_its_own_and_stays_what_it_is(name: str) -> None:
    once = model_names.plain(name)
    assert model_names.plain(once) == once
    assert model_names.is_image_model(once) == model_names.is_image_model(name)
    assert once == name or model_names.is_image_model(name)


@pytest.mark.parametrize(
    ("own", "deployments", "name", "requested", "upstream"),
    [
        ({}, None, "GPT-Image-2", "gpt-image-2", "gpt-image-2"),
        ({}, {"gpt-image-2": "d"}, "GPT-Image-2", "gpt-image-2", "gpt-image-2"),
        # A name that the operator wrote is that name.
        ({}, {"GPT-Image-2": "d"}, "GPT-Image-2", "GPT-Image-2", "GPT-Image-2"),
        ({"model_map": {"GPT-Image-2": "x"}}, None, "GPT-Image-2", "GPT-Image-2", "x"),
        ({"model_map": {"gpt-image-2": "x"}}, None, "GPT-Image-2", "gpt-image-2", "x"),
        (
            {"allowed_models": frozenset({"GPT-Image-2"})},
            None,
            "GPT-Image-2",
            "GPT-Image-2",
            "gpt-image-2",
        ),
        # What a map names has its spellings, too.
        ({"model_map": {"house": "openai/gpt-image-2"}}, None, "house", "house", "gpt-image-2"),
        (
            {"model_map": {"house": "openai/gpt-image-2"}},
            {"openai/gpt-image-2": "d"},
            "house",
            "house",
            "openai/gpt-image-2",
        ),
        ({"model_map": {"a": "b", "b": "c"}}, None, "a", "a", "b"),
        ({}, None, "openai/gpt-5", "openai/gpt-5", "openai/gpt-5"),
    ],
)
def test_a_name_means_what_the_operator_wrote_else_the_plain_model(
    own: dict[str, Any],
    deployments: dict[str, str] | None,
    name: str,
    requested: str,
    upstream: str,
) -> None:
    names = ModelNames.of(grant(account(deployments=deployments), **own))
    assert (names.requested(name), names.upstream(name)) == (requested, upstream)


def test_only_deployments_of_the_key_s_accounts_give_a_name_a_meaning() -> None:
    one = grant(account("a", deployments={"GPT-Image-2": "d"}), account("b"), account_names=("b",))
    assert ModelNames.of(one).upstream("GPT-Image-2") == "gpt-image-2"
    assert ModelNames(key()).upstream("GPT-Image-2") == "gpt-image-2"
