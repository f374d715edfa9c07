"""Headers: nothing passes because nobody thought of it."""

import ipaddress
from typing import Any

import pytest
from h11._headers import CONTENT_LENGTH_MAX_DIGITS
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core import headers
from image_gateway.core.errors import UpstreamError
from image_gateway.core.headers import Headers

LOCAL = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))


def _headers(*pairs: tuple[str, str]) -> Headers:
    return Headers([(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs])


# -- look-up ---------------------------------------------------------------------------------


def test_the_first_value_wins_whatever_the_case_of_the_name() -> None:
    found = _headers(("X-Thing", " one "), ("x-thing", "two"))
    assert found.get("x-thing") == "one"
    assert found.all("x-thing") == ["one", "two"]
    assert found.get("other") is None
    assert found.all("other") == []


@given(st.binary(max_size=10), st.binary(max_size=10))
def test_any_bytes_can_be_a_header(name: bytes, value: bytes) -> None:
    found = Headers([(name, value)])
    key = name.decode("latin-1").lower()
    assert found.get(key) == value.decode("latin-1").strip()


def test_a_repr_shows_names_and_no_values() -> None:
    assert repr(_headers(("Authorization", "hush"), ("Cookie", "hush"))) == (
        "<Headers ['authorization', 'cookie']>"
    )


def test_only_what_is_named_is_given_out() -> None:
    found = _headers(("One", "1"), ("x-a-one", "2"), ("x-a-one", "3"), ("x-b", "4"), ("ones", "5"))
    assert found.named(frozenset({"one", "absent"}), ("x-a-",)) == {"one": "1", "x-a-one": "2, 3"}
    assert found.named(frozenset(), ()) == {}
    assert found.named(frozenset(), ("on",)) == {"one": "1", "ones": "5"}


@given(
    st.lists(st.tuples(st.text("abx-", max_size=5), st.text("v", max_size=2)), max_size=8),
    st.frozensets(st.text("abx-", max_size=5), max_size=3),
    st.lists(st.text("abx-", min_size=1, max_size=2), max_size=2).map(tuple),
)
def test_an_allow_list_is_the_whole_truth(
    pairs: list[tuple[str, str]], names: frozenset[str], prefixes: tuple[str, ...]
) -> None:
    given_out = set(_headers(*pairs).named(names, prefixes))
    assert given_out == {
        name
        for name, _ in pairs
        if name in names or any(name.startswith(prefix) for prefix in prefixes)
    }


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\0", "\x7f", "caf\u00e9", "a\tb"])
def test_a_value_that_no_header_can_carry_is_left_out(value: str) -> None:
    assert not headers.is_sendable(value)
    found = _headers(("one", value), ("two", "2"), ("two", value), ("three", "3"))
    assert found.named(frozenset({"one", "two", "three"}), ()) == {"three": "3"}
    upstream = {"content-type": value, "x-ratelimit-x": value, "retry-after": value}
    assert headers.to_client(upstream) == {}
    assert headers.to_client_with_error(upstream) == {}


@pytest.mark.parametrize("value", ["", "a", "a b", "~!", '"a"; b=1'])
def test_any_other_value_can_be_sent(value: str) -> None:
    assert headers.is_sendable(value)
    assert _headers(("one", value)).named(frozenset({"one"}), ()) == {"one": value}
    assert headers.to_client({"content-type": value}) == {"content-type": value}


# -- the key ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "secret"),
    [
        ([("authorization", "Bearer abc")], "abc"),
        ([("Authorization", "bearer abc")], "abc"),
        ([("authorization", "BEARER   abc ")], "abc"),
        ([("api-key", "abc")], "abc"),
        ([("Api-Key", " abc ")], "abc"),
        ([("authorization", "Bearer abc"), ("api-key", "def")], "abc"),
        ([("api-key", "def"), ("authorization", "Bearer abc")], "abc"),
        ([("authorization", "Bearer "), ("api-key", "def")], "def"),
        ([("authorization", "Bearer"), ("api-key", "def")], "def"),
        ([("authorization", "Basic abc"), ("api-key", "def")], "def"),
        ([("authorization", "Bearer abc"), ("authorization", "Bearer def")], "abc"),
        ([("authorization", "Basic abc")], None),
        ([("authorization", "abc")], None),
        ([("authorization", "Bearer")], None),
        ([("authorization", "")], None),
        ([("api-key", "")], None),
        ([("x-api-key", "abc")], None),
        ([("cookie", "abc")], None),
        ([], None),
    ],
)
def test_the_key_is_a_bearer_token_else_the_api_key(
    pairs: list[tuple[str, str]], secret: str | None
) -> None:
    assert headers.secret(_headers(*pairs)) == secret


# -- the session -----------------------------------------------------------------------------

_SESSION_NAMES = ("session_id", "session-id", "conversation_id", "x-session-id")


@given(st.dictionaries(st.sampled_from(_SESSION_NAMES), st.sampled_from(["", " ", "a", "b"])))
def test_the_session_is_what_the_first_of_four_names_says_that_says_anything(
    values: dict[str, str],
) -> None:
    said = [values[name] for name in _SESSION_NAMES if values.get(name, "").strip()]
    found = headers.session(_headers(*values.items()))
    assert found == (said[0] if said else None)


@pytest.mark.parametrize(
    ("pairs", "session"),
    [
        ([], None),
        ([("Session_ID", " one ")], "one"),
        ([("X-Session-Id", "one")], "one"),
        ([("session_id", "one"), ("session_id", "two")], "one"),
        ([("x-session-id", "four"), ("session-id", "two"), ("conversation_id", "three")], "two"),
        ([("session_id", ""), ("session-id", " "), ("conversation_id", "three")], "three"),
        ([("session_id", "")], None),
        ([("session", "one"), ("conversation-id", "one"), ("x-session_id", "one")], None),
        ([("session_id", "\xe9")], "\xe9"),
    ],
)
def test_a_session_has_one_of_four_names_in_any_case(
    pairs: list[tuple[str, str]], session: str | None
) -> None:
    assert headers.session(_headers(*pairs)) == session


# -- small facts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "application/json"),
        (" application/json ;x", "application/json"),
        ("application/jsonx", "application/jsonx"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_media_type_has_no_parameters_and_no_case(value: str | None, expected: str) -> None:
    assert headers.media_type(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0),
        ("12345678901", 12_345_678_901),
        (" 7 ", 7),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1_000", None),
        ("0x10", None),
        ("\u00b2", None),
        ("", None),
        ("many", None),
    ],
)
def test_an_announced_length_is_digits_only(value: str, expected: int | None) -> None:
    assert headers.content_length(_headers(("Content-Length", value))) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("OpenAI/Python 3.57.0", "OpenAI/Python 3.57.0"),
        ("curl/8\x1b[31m\tx\xa0y\x85", "curl/8[31mxy"),
        ("\x01" * 200 + "a" * 200, "a" * 120),
        ("caf\xe9", "caf\xe9"),
        ("", None),
        ("\x01", None),
    ],
)
def test_a_client_s_name_for_itself_is_short_and_can_be_printed(
    value: str, expected: str | None
) -> None:
    assert headers.user_agent(_headers(("User-Agent", value))) == expected


def test_a_client_need_not_say_what_it_is() -> None:
    assert headers.user_agent(_headers()) is None


def test_without_an_announced_length_there_is_none() -> None:
    assert headers.content_length(_headers()) is None


def test_a_length_of_thousands_of_digits_is_no_crash() -> None:
    found = headers.content_length(_headers(("content-length", "9" * 5000)))
    assert found is None or found > 10**17
    assert headers.whole("9" * 16) == 10**16 - 1


def test_every_length_that_the_listener_takes_is_read() -> None:
    """One that is not would count as a body of no bytes, and the body as a second request."""
    longest = "9" * CONTENT_LENGTH_MAX_DIGITS
    assert headers.content_length(_headers(("content-length", longest))) == int(longest)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0.0),
        ("1.5", 1.5),
        (" 2 ", 2.0),
        ("-0.1", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_a_number_is_zero_or_more_and_finite(text: str | None, expected: float | None) -> None:
    assert headers.number(text) == expected


# -- who called ------------------------------------------------------------------------------


def _client(peer: str | None, *forwarded: str, trusted: Any = LOCAL) -> str | None:
    pairs = [("x-forwarded-for", value) for value in forwarded]
    return headers.client_address(peer, _headers(*pairs), trusted)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("127.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("::1", ["203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("127.0.0.1", ["1.1.1.1, 203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", ["203.0.113.7, 127.0.0.2"], "203.0.113.7"),
        ("127.0.0.1", ["1.1.1.1, 203.0.113.7, 127.0.0.2,127.0.0.3"], "203.0.113.7"),
        ("127.0.0.1", ["1.1.1.1", "203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", ["127.0.0.2"], "127.0.0.2"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.7, unknown"], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.7, <script>"], "127.0.0.1"),
        ("203.0.113.9", ["1.1.1.1"], "203.0.113.9"),
        ("203.0.113.9", ["1.1.1.1, 127.0.0.1"], "203.0.113.9"),
        ("unix", ["1.1.1.1"], "unix"),
        (None, ["1.1.1.1"], None),
    ],
)
def test_a_forwarded_address_counts_only_from_a_trusted_proxy(
    peer: str | None, forwarded: list[str], expected: str | None
) -> None:
    assert _client(peer, *forwarded) == expected


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    assert _client("127.0.0.1", "203.0.113.7", trusted=()) == "127.0.0.1"


def test_a_proxy_seen_through_a_dual_stack_socket_is_the_same_proxy() -> None:
    """A socket that systemd opens for both families shows 127.0.0.1 as ::ffff:127.0.0.1."""
    assert _client("::ffff:127.0.0.1", "203.0.113.7") == "203.0.113.7"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        (" 192.0.2.7 ", "192.0.2.7"),
        ("192.0.2.7:443", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:192.0.2.7", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("0:0:0:0:0:ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:443", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:65535", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%eth0]:80", "fe80::1"),
        ("fe80::1%<script>", "fe80::1"),
        ("::ffff:192.0.2.7%eth0", "192.0.2.7"),
        ("::192.0.2.7", "::c000:207"),
        ("64:ff9b::192.0.2.7", "64:ff9b::c000:207"),
        ("[192.0.2.7]:1", "192.0.2.7"),
        *[
            (text, None)
            for text in (
                *("", "[]", "[", "unknown", "_hidden", "localhost", "192.0.2", "192.0.2.7:"),
                *("192.0.2.7:x", "192.0.2.7:123456", "192.0.2.7 ::1", "[2001:db8::1", "::1]"),
                *("[::1]x", "[::1]:", "192.0.2.07", "1.2.3.4.5", "\xb2.2.3.4", "2001:db8::1:99999"),
                *("%eth0", '"192.0.2.7"', "for=192.0.2.7", "\0"),
            )
        ],
    ],
)
def test_an_address_is_read_in_every_form_in_which_it_is_reported(
    text: str, address: str | None
) -> None:
    found = headers.read_address(text)
    assert (None if found is None else str(found)) == address
    if address is not None:
        assert _client(text) == address
        assert _client("127.0.0.1", f"1.1.1.1, {text}") == address
        assert headers.is_trusted(text, (ipaddress.ip_network(address),))
    else:
        assert _client("127.0.0.1", text) == "127.0.0.1"
        assert not headers.is_trusted(
            text, (ipaddress.ip_network("::/0"), ipaddress.ip_network("0.0.0.0/0"))
        )


def test_a_chain_of_proxies_is_walked_in_whatever_form_they_are_written() -> None:
    chain = "1.1.1.1, [::ffff:203.0.113.7]:4711, ::ffff:127.0.0.2, [::1]:80, 127.0.0.3:99"
    assert _client("::ffff:127.0.0.1", chain) == "203.0.113.7"


_ADDRESSES = st.one_of(
    st.ip_addresses().map(str), st.sampled_from(["127.0.0.1", "127.9.9.9", "::1", "junk", ""])
)


@given(st.lists(_ADDRESSES, max_size=8), st.lists(_ADDRESSES, max_size=4))
def test_what_a_client_writes_itself_is_never_believed(
    written: list[str], proxies: list[str]
) -> None:
    """Left of the address that our own proxy saw, anybody may have written anything."""
    seen = "203.0.113.7"
    chain = ", ".join([*written, seen])
    assert _client("127.0.0.1", chain) == seen
    honest = [name for name in proxies if name.startswith("127.") or name == "::1"]
    assert _client("127.0.0.1", ", ".join([*written, seen, *honest])) == seen


def test_a_chain_of_thousands_of_proxies_is_read_from_its_end_only() -> None:
    chain = ", ".join(["203.0.113.7"] + ["127.0.0.2"] * 15)
    assert _client("127.0.0.1", chain) == "203.0.113.7"
    chain = ", ".join(["203.0.113.7"] + ["127.0.0.2"] * 100_000)
    assert _client("127.0.0.1", chain) == "127.0.0.2"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.255.0.1", True),
        ("128.0.0.1", False),
        ("::1", True),
        ("::2", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_trust_is_a_matter_of_networks(address: str, *, expected: bool) -> None:
    assert headers.is_trusted(address, LOCAL) is expected
    assert not headers.is_trusted(address, ())


# -- from the upstream -----------------------------------------------------------------------


def test_to_the_client_goes_what_is_allowed_and_nothing_else() -> None:
    assert headers.to_client(
        {
            "content-type": "application/json",
            "content-length": "5",
            "openai-processing-ms": "7",
            "x-ratelimit-limit-requests": "10",
            "set-cookie": "hush",
            "x-request-id": "theirs",
            "openai-organization": "hush",
            "x-codex-primary-used-percent": "12",
            "transfer-encoding": "chunked",
            "content-encoding": "gzip",
            "connection": "close",
            "server": "x",
            "cf-ray": "x",
            "location": "x",
            "x-should-retry": "true",
            "retry-after": "5",
            "x-ratelimit": "x",
            "content-type-x": "x",
        }
    ) == {
        "content-type": "application/json",
        "content-length": "5",
        "openai-processing-ms": "7",
        "x-ratelimit-limit-requests": "10",
    }


@given(st.dictionaries(st.text("abcdefhiklnoprstxy-", max_size=20), st.just("v")))
def test_no_other_header_reaches_the_client(upstream: dict[str, str]) -> None:
    for name in headers.to_client(upstream):
        assert name in headers.TO_CLIENT or name.startswith("x-ratelimit-")


def test_with_an_error_goes_when_to_come_again_and_how_much_is_left() -> None:
    upstream = {
        "retry-after": "5",
        "retry-after-ms": "5000",
        "x-ratelimit-remaining-requests": "0",
        "content-type": "text/html",
        "content-length": "5",
        "openai-processing-ms": "7",
        "x-should-retry": "true",
        "x-request-id": "theirs",
        "set-cookie": "hush",
        "retry-after-x": "5",
        "x-codex-primary-used-percent": "100",
    }
    assert headers.to_client_with_error(upstream) == {
        "retry-after": "5",
        "retry-after-ms": "5000",
        "x-ratelimit-remaining-requests": "0",
    }


_NOW = 1_800_000_000.0
_WEEK = 7 * 86_400.0


def _wait(error: UpstreamError | None = None, **found: str) -> float | None:
    upstream = {name.replace("_", "-"): value for name, value in found.items()}
    return headers.named_wait(upstream, error or UpstreamError(), _NOW, limited=True)


@pytest.mark.parametrize(
    ("found", "error", "expected"),
    [
        ({}, {}, None),
        ({"retry_after_ms": "1500"}, {}, 1.5),
        ({"retry_after": "3"}, {}, 3.0),
        ({"retry_after": "0"}, {}, 0.0),
        ({"retry_after_ms": "1500", "retry_after": "3"}, {}, 1.5),
        ({"retry_after_ms": "soon", "retry_after": "3"}, {}, 3.0),
        ({"x_ms_retry_after_ms": "2500", "retry_after": "3"}, {}, 2.5),
        ({"x_ms_retry_after_ms": "2500", "retry_after_ms": "1500"}, {}, 1.5),
        ({"retry_after": "3"}, {"resets_in_seconds": 9.0}, 3.0),
        ({"retry_after": "-3"}, {"resets_in_seconds": 9.0}, 9.0),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}, None),
        ({}, {"resets_in_seconds": 9.0}, 9.0),
        ({}, {"resets_in_seconds": -9.0}, 0.0),
        ({}, {"resets_in_seconds": 0.0, "resets_at": _NOW + 5}, 0.0),
        ({}, {"resets_in_seconds": 9.0, "resets_at": _NOW + 5}, 9.0),
        ({}, {"resets_at": _NOW + 5}, 5.0),
        ({}, {"resets_at": _NOW - 5}, 0.0),
        ({}, {"resets_at": 1e300}, _WEEK),
        ({"retry_after": "604800"}, {}, _WEEK),
        ({"retry_after": "604801"}, {}, _WEEK),
        ({"retry_after_ms": "1e300"}, {}, _WEEK),
        ({}, {"resets_in_seconds": 1e300}, _WEEK),
    ],
)
def test_the_most_exact_wait_that_an_answer_names_is_taken(
    found: dict[str, str], error: dict[str, float], expected: float | None
) -> None:
    assert _wait(UpstreamError(**error), **found) == expected  # type: ignore[arg-type]  # by name


_VALUES = st.one_of(st.text(max_size=8), st.floats().map(str), st.integers().map(str))
_RESETS = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "retry-after",
                "retry-after-ms",
                "x-ms-retry-after-ms",
            ]
        ),
        _VALUES,
    ),
    _RESETS,
    _RESETS,
)
def test_a_wait_is_from_nothing_to_a_week_whatever_an_upstream_writes(
    upstream: dict[str, str], seconds: float | None, moment: float | None
) -> None:
    error = UpstreamError(resets_in_seconds=seconds, resets_at=moment)
    wait = headers.named_wait(upstream, error, _NOW, limited=True)
    assert wait is None or 0 <= wait <= _WEEK


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({"remaining-requests": "0", "reset-requests": "7"}, 7.0),
        ({"remaining-requests": "0", "reset-requests": "6m0s"}, 360.0),
        ({"remaining-images": "0", "reset-images": "1h0m0.5s"}, 3600.5),
        ({"remaining-requests": "0", "reset-requests": "250ms"}, 0.25),
        (
            {
                "remaining-requests": "0",
                "reset-requests": "7",
                "remaining-tokens": "0",
                "reset-tokens": "9",
            },
            9.0,
        ),
        ({"remaining-requests": "3", "reset-requests": "7"}, None),
        ({"remaining-requests": "0"}, None),
        ({"remaining-requests": "0", "reset-requests": "soon"}, None),
        ({"reset-requests": "7"}, None),
    ],
)
def test_a_limit_that_is_used_up_names_its_reset_and_only_where_it_is_about_limits(
    told: dict[str, str], seconds: float | None
) -> None:
    upstream = {f"x-ratelimit-{name}": value for name, value in told.items()}
    assert headers.named_wait(upstream, UpstreamError(), 0, limited=True) == seconds
    assert headers.named_wait(upstream, UpstreamError(), 0, limited=False) is None
    upstream["retry-after"] = "2"
    assert headers.named_wait(upstream, UpstreamError(), 0, limited=True) == 2.0
