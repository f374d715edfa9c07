"""Tags, names and ids of calls, and the sign of a sure retry."""

import hashlib
import hmac
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.calls import names
from image_gateway.core.calls.names import CallSecrets
from image_gateway.core.errors import Refusal
from image_gateway.core.headers import Headers
from image_gateway.core.records.builder import prompt_hmac

SECRETS = CallSecrets.of(b"a prompt key of the operator")


def _headers(name: str, *values: str) -> Headers:
    return Headers((name.encode(), value.encode("latin-1")) for value in values)


def test_each_purpose_has_a_secret_of_its_own() -> None:
    assert len({*astuple(SECRETS)}) == 4
    assert {len(secret) for secret in astuple(SECRETS)} == {32}


def test_instances_with_one_prompt_key_agree_and_others_do_not() -> None:
    assert CallSecrets.of(b"a prompt key of the operator") == SECRETS
    other = CallSecrets.of(b"another prompt key")
    assert set(astuple(other)).isdisjoint(astuple(SECRETS))


def test_a_secret_shows_in_no_repr() -> None:
    assert repr(SECRETS) == "CallSecrets()"


def test_no_prompt_hashes_to_a_secret() -> None:
    """The record holds a hash of the prompt under the same key, and anyone may choose a prompt."""
    key = b"a prompt key of the operator"
    label = b"\xff image-gateway calls 1: names"
    assert hmac.digest(key, label, hashlib.sha256) == SECRETS.names
    with pytest.raises(UnicodeDecodeError):
        label.decode("utf-8", "surrogatepass")
    guess = label.decode("latin-1")
    assert prompt_hmac(key, guess) != SECRETS.names.hex()


def test_tags_keep_their_values() -> None:
    """Files outlive a release: a tag that changes would lose every kept call."""
    assert names.key_tag(SECRETS, "key-1") == (
        hmac.digest(SECRETS.key_tags, b"key-1", hashlib.sha256).hex()
    )
    assert names.name_tag(SECRETS, "key-1", "job-7") == (
        hmac.digest(SECRETS.names, b"\0\0\0\0\0\0\0\5key-1job-7", hashlib.sha256).hex()
    )


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_only_the_same_name_of_the_same_key_has_the_same_tag(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    is_same = names.name_tag(SECRETS, *one) == names.name_tag(SECRETS, *other)
    assert is_same == (one == other)


def test_where_a_key_ends_and_a_name_begins_counts() -> None:
    assert names.name_tag(SECRETS, "key-1", "2") != names.name_tag(SECRETS, "key-", "12")


# -- Idempotency-Key -------------------------------------------------------------------------------


def test_a_call_without_the_header_has_no_name() -> None:
    assert names.idempotency_key(_headers("x-request-id", "7")) is None


@pytest.mark.parametrize(
    "name",
    ["7", "stainless-node-retry-8e03978e-40d5-43dd-bc93-6894a57f9324", '"quoted"', "~" * 255, "!"],
    ids=["short", "sdk", "quoted", "longest", "first_visible"],
)
def test_a_name_is_taken_as_it_was_sent(name: str) -> None:
    assert names.idempotency_key(_headers("Idempotency-Key", name)) == name


def test_a_name_sent_twice_alike_is_one_name() -> None:
    assert names.idempotency_key(_headers("idempotency-key", "job-7", "job-7")) == "job-7"


@pytest.mark.parametrize(
    "values",
    [
        ("",),
        ("x" * 256,),
        ("two words",),
        ("a\tb",),
        ("a\x7f",),
        ("caf\xe9",),
        ("a, a",),
        ("a", "b"),
    ],
    ids=["empty", "long", "space", "tab", "delete", "latin", "joined", "twice"],
)
def test_what_is_no_name_is_refused_by_the_headers_name(values: tuple[str, ...]) -> None:
    with pytest.raises(Refusal) as caught:
        names.idempotency_key(_headers("Idempotency-Key", *values))
    refusal = caught.value
    assert (refusal.code, refusal.spec.status) == ("invalid_value", 400)
    assert refusal.param == "Idempotency-Key"
    assert "`Idempotency-Key`" in refusal.message
    assert all(len(value) < 9 or value not in refusal.message for value in values)


@given(st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=300))
def test_a_name_is_1_to_255_visible_ascii_characters(value: str) -> None:
    sent = value.strip()
    headers = _headers("Idempotency-Key", value)
    if 1 <= len(sent) <= 255 and all("!" <= character <= "~" for character in sent):
        assert names.idempotency_key(headers) == sent
    else:
        with pytest.raises(Refusal):
            names.idempotency_key(headers)


# -- retries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", ["1", "2", "10", "999999999"])
def test_a_count_of_1_or_more_is_a_sure_retry(count: str) -> None:
    assert names.is_sure_retry(_headers("X-Stainless-Retry-Count", count))


@pytest.mark.parametrize(
    "values",
    [
        pytest.param((), id="absent"),
        pytest.param(("0",), id="zero"),
        pytest.param(("",), id="empty"),
        pytest.param(("-1",), id="minus"),
        pytest.param(("+1",), id="plus"),
        pytest.param(("1.0",), id="float"),
        pytest.param(("01",), id="padded"),
        pytest.param(("true",), id="word"),
        pytest.param(("\xb2",), id="square"),
        pytest.param(("1" * 10,), id="long"),
        pytest.param(("1", "0"), id="two"),
        pytest.param(("1, 2",), id="joined"),
    ],
)
def test_anything_else_proves_nothing(values: tuple[str, ...]) -> None:
    assert not names.is_sure_retry(_headers("x-stainless-retry-count", *values))


# -- ids -------------------------------------------------------------------------------------------


@given(st.binary(min_size=16, max_size=16))
def test_an_id_is_recognised(random: bytes) -> None:
    made = names.new_call_id(random)
    assert names.is_call_id(made)
    assert bytes.fromhex(made.removeprefix("call_")) == random


@pytest.mark.parametrize("size", [0, 15, 17])
def test_an_id_needs_16_random_bytes(size: int) -> None:
    with pytest.raises(ValueError, match=f"16 random bytes, and got {size}"):
        names.new_call_id(bytes(size))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "call_",
        "call_" + "a" * 31,
        "call_" + "a" * 33,
        "call_" + "A" * 32,
        "call_" + "g" * 32,
        "resp_" + "a" * 32,
        "call_" + "a" * 32 + "\n",
        "call_" + "\u0661" * 32,
        "../call_" + "a" * 32,
    ],
    ids=["empty", "bare", "31", "33", "upper", "no_hex", "other", "newline", "arabic", "path"],
)
def test_other_texts_are_no_id(text: str) -> None:
    assert not names.is_call_id(text)
