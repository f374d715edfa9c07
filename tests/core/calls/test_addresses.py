"""Addresses of pictures: each opens one picture, until it ends, and no other can be made of it."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from image_gateway.core.calls import addresses, names
from image_gateway.core.calls.addresses import Address
from image_gateway.core.calls.names import CallSecrets

KEY = CallSecrets.of(b"a key for hashing prompts").addresses
CALL_ID = "call_" + "0123456789abcdef" * 2
END = 1_800_000_000
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NAME = addresses.make(KEY, Address(CALL_ID, 1, END), "png")

CALL_IDS = st.binary(min_size=16, max_size=16).map(names.new_call_id)
ADDRESSES = st.builds(Address, CALL_IDS, st.integers(0, 2**16 - 1), st.integers(1, 2**40 - 1))
EXTENSIONS = st.sampled_from(["png", "jpeg", "webp", "gif", "svg"])


@given(ADDRESSES, EXTENSIONS, st.binary())
def test_an_address_reads_as_it_was_made(
    address: Address, extension: str, prompt_key: bytes
) -> None:
    key = CallSecrets.of(prompt_key).addresses
    name = addresses.make(key, address, extension)
    assert addresses.read(key, name, 0.0) == address
    assert re.fullmatch(r"[A-Za-z0-9_-]{52}\.[a-z0-9]{3,4}", name)


@given(ADDRESSES, st.floats(-2.0, 2.0))
@example(Address(CALL_ID, 0, END), 0.0)
@example(Address(CALL_ID, 0, END), -0.001)
def test_an_address_ends_to_the_second(address: Address, late: float) -> None:
    name = addresses.make(KEY, address, "png")
    now = address.end + late
    assert addresses.read(KEY, name, now) == (address if now < address.end else None)


@given(ADDRESSES, ADDRESSES)
def test_different_pictures_have_different_addresses(one: Address, other: Address) -> None:
    assume(one != other)
    assert addresses.make(KEY, one, "png") != addresses.make(KEY, other, "png")


@given(ADDRESSES, EXTENSIONS, st.data())
def test_an_address_with_one_character_changed_is_not_read(
    address: Address, extension: str, data: st.DataObject
) -> None:
    """In the token, the dot and the extension."""
    name = addresses.make(KEY, address, extension)
    at = data.draw(st.integers(0, len(name) - 1))
    new = data.draw(st.sampled_from(ALPHABET) | st.characters())
    assume(new != name[at])
    assert addresses.read(KEY, name[:at] + new + name[at + 1 :], 0.0) is None


@given(ADDRESSES, ADDRESSES, st.integers(0, 57))
def test_parts_of_two_addresses_are_no_third(one: Address, other: Address, at: int) -> None:
    names = [addresses.make(KEY, each, "png") for each in (one, other)]
    mixed = names[0][:at] + names[1][at:]
    assume(mixed not in names)
    assert addresses.read(KEY, mixed, 0.0) is None


@given(ADDRESSES, st.integers(0, 57), st.text(ALPHABET + "=.%/ \n", min_size=1, max_size=4))
def test_an_address_that_is_longer_or_shorter_is_not_read(
    address: Address, at: int, more: str
) -> None:
    name = addresses.make(KEY, address, "webp")
    for altered in (name[:at] + more + name[at:], name[:at], name[at + 1 :], name + more):
        if altered != name:
            assert addresses.read(KEY, altered, 0.0) is None, altered


@given(st.text() | st.text(ALPHABET, min_size=52, max_size=52).map("{}.png".format))
@example("")
@example(".png")
@example("A" * 52)
@example("A" * 52 + ".png\n")
@example("\ud800" * 52 + ".png")
@example("\u0661" * 52 + ".png")
@example("A" * 1_000_000 + ".png")
def test_no_text_that_was_not_made_is_read(text: str) -> None:
    assert addresses.read(KEY, text, 0.0) is None


@given(st.binary(), st.binary())
def test_an_address_made_under_another_key_is_not_read(one: bytes, other: bytes) -> None:
    # HMAC fills keys up with zeros, and hashes those over 64 bytes.
    assume(one.rstrip(b"\0") != other.rstrip(b"\0"))
    name = addresses.make(CallSecrets.of(one).addresses, Address(CALL_ID, 0, END), "png")
    assert addresses.read(CallSecrets.of(other).addresses, name, 0.0) is None


def test_the_key_is_not_the_one_that_hashes_prompts() -> None:
    """A record's hash of a chosen prompt must not be a signature."""
    assert KEY != b"a key for hashing prompts"
    assert addresses.read(b"a key for hashing prompts", NAME, 0.0) is None


def test_an_address_stays_the_same_from_release_to_release() -> None:
    """Addresses that clients keep are read by the next version, too."""
    assert NAME == "ASNFZ4mrze8BI0VniavN7wABAGtJ0gCXn_lDj5-w8GYFt9mUNUwg.png"
    assert addresses.url("https://images.example.com/x", NAME) == (
        f"https://images.example.com/x/v1/images/files/{NAME}"
    )


@pytest.mark.parametrize(
    "digits", ["", "0" * 31, "0" * 33, "0" * 31 + "A", "0 " * 16, "\u0660" * 32], ids=ascii
)
def test_only_the_id_of_a_call_gets_an_address(digits: str) -> None:
    for call_id in (f"call_{digits}", digits, "0" * 32):
        with pytest.raises(ValueError, match="id of a call"):
            addresses.make(KEY, Address(call_id, 0, END), "png")


TOKEN = NAME.removesuffix(".png")


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/images/files/{NAME}",
        f"/v1/images/files/{TOKEN}",
        f"//v1/Images/Files/{NAME}/",
        f"/v1/%69mages/%66iles/{TOKEN}",
        f"/v1/images/%66iles/{TOKEN[:9]}%{ord(TOKEN[9]):02x}{TOKEN[10:]}.png",
        f"/images/{NAME}",
        f"/{NAME}/{NAME}",
        f"/v1/images/files/x/{TOKEN}\n{TOKEN}",
    ],
    ids=range(8),
)
def test_no_part_of_a_token_is_left_of_a_path(path: str) -> None:
    hidden = addresses.hide(path)
    assert not any(TOKEN[at : at + 8] in hidden for at in range(len(TOKEN) - 7))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/generations",
        "/openai/deployments/my%20deployment-with-a-name-that-is-as-long-as-it-may-be-64/images/edits",
        "/v1/images/calls/call_0123456789abcdef0123456789abcdef",
        "/%zz/\u00ff",
        "",
    ],
    ids=ascii,
)
def test_other_paths_stay_as_they_came(path: str) -> None:
    assert addresses.hide(path) == path


@pytest.mark.parametrize("extension", ["", "PNG", "longer", "p.g", "a/b", "png\n", "\u0661"])
def test_only_an_extension_ends_an_address(extension: str) -> None:
    with pytest.raises(ValueError, match="extension"):
        addresses.make(KEY, Address(CALL_ID, 0, END), extension)


@pytest.mark.parametrize(("index", "end"), [(-1, END), (2**16, END), (0, -1), (0, 2**40)])
def test_a_number_that_does_not_fit_is_an_error(index: int, end: int) -> None:
    with pytest.raises(OverflowError):
        addresses.make(KEY, Address(CALL_ID, index, end), "png")
