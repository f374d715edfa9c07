"""The advisory locks' names: what operators read in ``pg_locks``, in every version the same."""

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from image_gateway.core.routing.lock_names import LockKind, LockName

PREFIXES = {
    LockKind.ACCOUNT: "image-gateway:",
    LockKind.KEY: "image-gateway-key:",
    LockKind.OWNER: "image-gateway-owner:",
}
KINDS = st.sampled_from(LockKind)


def expected_base(kind: LockKind, name: str) -> int:
    """From the words of the promise: 54 bits and ten noughts, read as a signed number."""
    digest = hashlib.sha256((PREFIXES[kind] + name).encode("utf-8", "surrogatepass"))
    bits = f"{int(digest.hexdigest(), 16):0256b}"[:54] + "0" * 10
    return int(bits[1:], 2) - (int(bits[0]) << 63)


@given(KINDS, st.text())
@example(LockKind.ACCOUNT, "")
@example(LockKind.OWNER, "\ud800")
def test_a_base_is_54_bits_of_the_names_hash_as_a_signed_bigint(kind: LockKind, name: str) -> None:
    base = LockName(kind, name).base
    assert base == expected_base(kind, name)
    assert base % 1024 == 0
    assert -(2**63) <= base <= 2**63 - 1024


@pytest.mark.parametrize(
    ("kind", "name", "base"),
    [
        (LockKind.ACCOUNT, "alpha", -5729135293836412928),
        (LockKind.ACCOUNT, "beta", -9219018809624531968),
        (LockKind.ACCOUNT, "Zürich #1", 2405563729380653056),
        (LockKind.KEY, "alpha", -8283565909397133312),
        (LockKind.OWNER, "alpha", 591082917727586304),
    ],
)
def test_a_name_never_changes(kind: LockKind, name: str, base: int) -> None:
    """Another version of the program beside this one has to find the same locks."""
    assert LockName(kind, name).base == base


@given(KINDS, st.text(), KINDS, st.text())
def test_no_key_or_owner_is_hashed_as_an_account_is(
    kind: LockKind, name: str, other_kind: LockKind, other_name: str
) -> None:
    """Whatever they are called: what is hashed begins otherwise."""
    is_same = (kind, name) == (other_kind, other_name)
    assert (kind.value + name == other_kind.value + other_name) is is_same
