"""The control plane's values: they never change, and their secrets never show."""

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.model import Account, Credential, Proxy, Secret
from image_gateway.core.rows import account_from_row, key_from_row
from tests.core.builders import account, account_row, key, key_row


def _full_account() -> Account:
    return account_from_row(
        account_row(
            credential={"access_token": "hush-token", "account_id": "hush-account"},
            proxy_url="http://proxy:3128",
            proxy_username="hush-user",
            proxy_password="hush-password",
        )
    )


def test_no_repr_shows_a_secret() -> None:
    made = _full_account()
    for shown in (made, made.credential, made.proxy, [made], {"account": made}):
        for text in (repr(shown), str(shown), f"{shown}", f"{shown!r}"):
            assert "hush" not in text
    assert "alpha" in repr(made)


def test_a_key_s_repr_shows_no_hash() -> None:
    made = key_from_row(key_row())
    assert "abab" not in repr(made)
    assert "key-1" in repr(made)


@given(st.text(min_size=1))
def test_a_secret_shows_only_when_it_is_revealed(value: str) -> None:
    secret = Secret(value)
    assert repr(secret) == str(secret) == f"{secret}" == "<Secret>"
    assert secret.reveal() == value


def test_secrets_are_equal_by_value_and_to_nothing_else() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert hash(Secret("a")) == hash(Secret("a"))
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_an_account_names_all_that_must_be_scrubbed() -> None:
    assert set(_full_account().secrets()) == {
        "hush-token",
        "hush-account",
        "hush-user",
        "hush-password",
    }
    assert account(credential=None).secrets() == []
    bare = account(
        credential=Credential(Secret("k"), "api_key"), proxy=Proxy("http://p:1", None, Secret("w"))
    )
    assert bare.secrets() == ["k", "w"]


def test_values_cannot_be_changed_once_built() -> None:
    with pytest.raises(FrozenInstanceError):
        key().status = "active"  # type: ignore[misc]  # the very thing to be refused
    with pytest.raises(FrozenInstanceError):
        account().status = "active"  # type: ignore[misc]  # the very thing to be refused
