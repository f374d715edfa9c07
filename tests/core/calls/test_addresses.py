"""Addresses of pictures: each opens one picture, until it ends, and no other can be made of it."""

import re
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from image_gateway.core.calls import addresses
from image_gateway.core.calls.addresses import Address
from image_gateway.core.calls.names import CallSecrets, new_call_id

PROMPT_KEY = b"a key for hashing prompts"
SECRETS = CallSecrets.of(PROMPT_KEY)
CALL_ID = "call_" + "0123456789abcdef" * 2
END = 1_800_000_000
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NAME = addresses.make(SECRETS, Address(CALL_ID, 1, END), "png")

CALL_IDS = st.binary(min_size=16, max_size=16).map(new_call_id)
ADDRESSES = st.builds(Address, CALL_IDS, st.integers(0, 2**16 - 1), st.integers(1, 2**40 - 1))
EXTENSIONS = st.sampled_from(["png", "jpeg", "webp", "gif", "svg"])


@given(ADDRESSES, EXTENSIONS, st.binary())
def test_an_address_reads_as_it_was_made(
    address: Address, extension: str, prompt_key: bytes
) -> None:
    secrets = CallSecrets.of(prompt_key)
    name = addresses.make(secrets, address, extension)
    assert addresses.read(secrets, name, 0.0) == address
    assert re.fullmatch(r"[A-Za-z0-9_-]{52}\.[a-z0-9]{3,4}", name)


@given(ADDRESSES, st.floats(-2.0, 2.0))
@example(Address(CALL_ID, 0, END), 0.0)
@example(Address(CALL_ID, 0, END), -0.001)
def test_an_address_ends_to_the_second(address: Address, late: float) -> None:
    name = addresses.make(SECRETS, address, "png")
    now = address.end + late
    assert addresses.read(SECRETS, name, now) == (address if now < address.end else None)


@given(ADDRESSES, ADDRESSES)
def test_different_pictures_have_different_addresses(one: Address, other: Address) -> None:
    assume(one != other)
    assert addresses.make(SECRETS, one, "png") != addresses.make(SECRETS, other, "png")


@given(ADDRESSES, EXTENSIONS, st.data())
def test_an_address_with_one_character_changed_is_not_read(
    address: Address, extension: str, data: st.DataObject
) -> None:
    """In the token, the dot and the extension."""
    name = addresses.make(SECRETS, address, extension)
    at = data.draw(st.integers(0, len(name) - 1))
    new = data.draw(st.sampled_from(ALPHABET) | st.characters())
    assume(new != name[at])
    assert addresses.read(SECRETS, name[:at] + new + name[at + 1 :], 0.0) is None


@given(ADDRESSES, ADDRESSES, st.integers(0, 57))
def test_parts_of_two_addresses_are_no_third(one: Address, other: Address, at: int) -> None:
    names = [addresses.make(SECRETS, each, "png") for each in (one, other)]
    mixed = names[0][:at] + names[1][at:]
    assume(mixed not in names)
    assert addresses.read(SECRETS, mixed, 0.0) is None


@given(ADDRESSES, st.integers(0, 57), st.text(ALPHABET + "=.%/ \n", min_size=1, max_size=4))
def test_an_address_that_is_longer_or_shorter_is_not_read(
    address: Address, at: int, more: str
) -> None:
    name = addresses.make(SECRETS, address, "webp")
    for altered in (name[:at] + more + name[at:], name[:at], name[at + 1 :], name + more):
        if altered != name:
            assert addresses.read(SECRETS, altered, 0.0) is None, altered


@given(st.text() | st.text(ALPHABET, min_size=52, max_size=52).map("{}.png".format))
@example("")
@example(".png")
@example("A" * 52)
@example("A" * 52 + ".png\n")
@example("\ud800" * 52 + ".png")
@example("\u0661" * 52 + ".png")
@example("A" * 1_000_000 + ".png")
def test_no_text_that_was_not_made_is_read(text: str) -> None:
    assert addresses.read(SECRETS, text, 0.0) is None


@given(st.binary(), st.binary())
def test_an_address_made_under_another_key_is_not_read(one: bytes, other: bytes) -> None:
    # HMAC fills keys up with zeros, and hashes those over 64 bytes.
    assume(one.rstrip(b"\0") != other.rstrip(b"\0"))
    name = addresses.make(CallSecrets.of(one), Address(CALL_ID, 0, END), "png")
    assert addresses.read(CallSecrets.of(other), name, 0.0) is None


@pytest.mark.parametrize("secret", ["key_tags", "names", "fingerprints"])
def test_an_address_is_signed_by_a_secret_of_its_own(secret: str) -> None:
    """What stands for a key or for a request in a file must not be a signature."""
    other = replace(SECRETS, addresses=getattr(SECRETS, secret))
    assert addresses.read(other, NAME, 0.0) is None
    assert addresses.read(replace(SECRETS, addresses=PROMPT_KEY), NAME, 0.0) is None


def test_an_address_stays_the_same_from_release_to_release() -> None:
    """Addresses that clients keep are read by the next version, too."""
    assert NAME == "ASNFZ4mrze8BI0VniavN7wABAGtJ0gCXn_lDj5-w8GYFt9mUNUwg.png"
    assert addresses.url("https://images.example.com/x", NAME) == (
        f"https://images.example.com/x/v1/images/files/{NAME}"
    )


@pytest.mark.parametrize(
    "call_id",
    [
        *("", "call_", "0" * 32, "resp_ig_" + "0" * 32),
        *(f"call_{digits}" for digits in ("0" * 31, "0" * 33, "0" * 31 + "A", "\u0660" * 32)),
    ],
)
def test_only_the_id_of_a_call_gets_an_address(call_id: str) -> None:
    with pytest.raises(ValueError, match="kind of id"):
        addresses.make(SECRETS, Address(call_id, 0, END), "png")


@pytest.mark.parametrize("extension", ["", "PNG", "longer", "p.g", "a/b", "png\n", "\u0661"])
def test_only_an_extension_ends_an_address(extension: str) -> None:
    with pytest.raises(ValueError, match="extension"):
        addresses.make(SECRETS, Address(CALL_ID, 0, END), extension)


@pytest.mark.parametrize(("index", "end"), [(-1, END), (2**16, END), (0, -1), (0, 2**40)])
def test_a_number_that_does_not_fit_is_an_error(index: int, end: int) -> None:
    with pytest.raises(OverflowError):
        addresses.make(SECRETS, Address(CALL_ID, index, end), "png")
