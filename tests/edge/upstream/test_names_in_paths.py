"""A deployment's name never leaves its place in a path: it arrives there whole, or is refused."""

from dataclasses import replace
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.dialects import UpstreamRequest, azure
from image_gateway.core.dialects.upstream_request import EncodeContext
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.routing import offers
from image_gateway.core.rows import RowError, account_from_row
from image_gateway.edge.spool import Spool
from image_gateway.edge.upstream.http_client import UpstreamClient
from tests.core.builders import CATALOGUE, account_row, parse
from tests.edge.peer import fetch
from tests.parts.upstream import ScriptedUpstream

CONTEXT: Final = EncodeContext("", "1", "boundary")
HOSTILE: Final = (
    *("", ".", "..", "...", "a/b", "../b", "a/..", "/", "//", "a\\b", "..\\", "%", "%2e%2e", "%2F"),
    *("..;", "a;b", "?", "a?b=c", "#", "a#b", "\0", "a\0", "a\r\nb", "\n", "\t", " ", "a b", " a "),
    *("..%00", ".%2e", "%252e", "a&b", "a=b", "~", "a+b", "@", "a:b", "é", "猫", "\x7f", "\u202e"),
    *("\u2025", "\uff0e\uff0e", "\u2028", "\u00a0", "a" * 200, "HTTP/1.1", " HTTP/1.1", "[::1]"),
)
NAMES = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(alphabet="./\\%2eEfF;?# \r\n\0ab", max_size=8),
    st.text(max_size=12),
)


def legacy(name: str, base_url: str = "https://res.openai.azure.com") -> Account:
    """As the contract's check leaves it; raises ``RowError``."""
    return azure_account(name, base_url=base_url, api_version="2025-04-01-preview")


def azure_account(name: str, **row: object) -> Account:
    return account_from_row(
        account_row(
            dialect="azure",
            deployments={"gpt-image-2": name},
            credential={"api_key": "k"},
            **{"base_url": "https://res.openai.azure.com", **row},
        )
    )


def legacy_or_none(name: str, base_url: str = "https://res.openai.azure.com") -> Account | None:
    try:
        return legacy(name, base_url)
    except RowError:
        return None


def sent(one: Account) -> UpstreamRequest:
    return azure.encode(parse({"model": "gpt-image-2"}), one, Headers(()), CONTEXT)


def check_target(target: str, name: str) -> None:
    """One segment that is the name, however often somebody decodes it, and the query of the
    gateway.
    """
    path, query = target.split("?")
    assert query == "api-version=2025-04-01-preview"
    for _ in range(3):
        before, middle, after = path.partition("/openai/deployments/")
        segment, *rest = after.split("/")
        assert (before, middle) == ("", "/openai/deployments/")
        assert rest == ["images", "generations"]
        assert unquote(segment) == name
        assert segment not in {"", ".", ".."}
        path = unquote(path)


@given(name=NAMES)
def test_a_name_is_one_segment_of_the_path_or_refused(name: str) -> None:
    if (one := legacy_or_none(name)) is None:
        return
    parts = urlsplit(sent(one).url)
    assert parts.netloc == "res.openai.azure.com"
    assert parts.fragment == ""
    check_target(f"{parts.path}?{parts.query}", name)


@pytest.mark.parametrize("name", ["pictures", "my deployment", "gpt-image-2.1", "a_b", "猫", "a&b"])
def test_sound_names_are_not_refused(name: str) -> None:
    assert offers.serves(legacy(name), "gpt-image-2", CATALOGUE)


@pytest.mark.parametrize("name", [".", "..", "a/b", "%2e%2e", "a?b", "a#b", "a\0b", "a\r\nb"])
def test_a_name_that_may_leave_its_place_is_refused(name: str) -> None:
    with pytest.raises(RowError, match="deployments has the name of a deployment"):
        legacy(name)


def test_without_deployments_an_account_serves_no_model_whose_name_may_leave_its_place() -> None:
    strange = {**CATALOGUE.models, "a/b": CATALOGUE.models["gpt-image-2"]}
    catalogue = replace(CATALOGUE, models=strange)
    own = replace(legacy("pictures"), deployments=None)
    assert not offers.serves(own, "a/b", catalogue)
    assert offers.serves(own, "gpt-image-2", catalogue)
    assert offers.serves(replace(own, api_version=None), "a/b", catalogue)


@pytest.mark.parametrize("name", ["a\r\nb", "a\0", "é"])
def test_a_name_that_goes_into_a_header_is_one(name: str) -> None:
    with pytest.raises(RowError, match="or in a header"):
        azure_account(name, responses_model="gpt-main")


async def test_what_arrives_at_a_socket_is_one_segment(
    edge: UpstreamClient, spool: Spool, upstream: ScriptedUpstream
) -> None:
    arrived = []
    for name in HOSTILE:
        if (one := legacy_or_none(name, upstream.root)) is None:
            continue
        async with edge.connection(sent(one), spool, None) as attempt:
            assert (await fetch(attempt))[0].status == 200
        check_target(upstream.calls[-1].target, name)
        arrived.append(name)
    assert len(arrived) == len(upstream.calls)
    assert {"...", " ", "a b", "é", "a&b", "@", "a:b"} <= set(arrived)
