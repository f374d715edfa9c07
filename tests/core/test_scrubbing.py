"""What an upstream repeats of the gateway's secrets is seen by nobody, however it is spelled."""

import base64
import html
import json
from dataclasses import replace
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from image_gateway.core import errors
from image_gateway.core.errors import UpstreamError
from image_gateway.core.model import Credential, Proxy, Secret
from image_gateway.core.scrubbing import Scrubber
from tests.core.builders import account

_WORD = "[redacted]"


def _scrubbed(message: str, *secrets: str) -> str:
    """What becomes of a message within an error."""
    body = errors.error_body(message, "invalid_request_error", None, "c")
    made = json.loads(Scrubber(secrets).clean_json(body))
    assert set(made["error"]) == {"message", "type", "param", "code"}
    return str(made["error"]["message"])


@given(st.text("abcXYZ019-_.", min_size=8, max_size=40), st.text('[]: ,"\\/\n', max_size=10))
def test_a_secret_is_gone_wherever_it_stands(secret: str, around: str) -> None:
    out = _scrubbed(f"{around}x{secret}y{secret}{around}", secret)
    assert secret not in out
    assert out.startswith(f"{around}")
    assert _WORD in out


def test_a_secret_is_gone_from_every_text_of_the_body() -> None:
    body = {"error": {"message": "m", "param": "s3cret-1", "inner": [{"x": "at s3cret-1"}]}, "a": 1}
    out = Scrubber(["s3cret-1"]).clean_json(json.dumps(body).encode())
    inner = {"message": "m", "param": _WORD, "inner": [{"x": f"at {_WORD}"}]}
    assert json.loads(out) == {"error": inner, "a": 1}


def test_a_secret_is_found_however_json_writes_it() -> None:
    body = b'{"error":{"message":"at \\u00e4b\\/c\\"d-1, and \\u0073ecret-2"}}'
    out = Scrubber(['äb/c"d-1', "secret-2"]).clean_json(body)
    assert json.loads(out) == {"error": {"message": f"at {_WORD}, and {_WORD}"}}


def test_a_header_that_is_too_long_to_be_looked_through_goes_whole() -> None:
    headers = {"x-ratelimit-a": "7" * 1024, "x-ratelimit-b": "7 " * 513, "x-codex-c": "7" * 2000}
    assert Scrubber(()).clean_headers(headers).keys() == {"x-codex-c"}
    shown = {"x-ratelimit-a": "7 " * 512}
    assert Scrubber(()).clean_headers(shown) == shown


def test_a_secret_that_holds_another_goes_whole() -> None:
    assert _scrubbed("key 12345678-abcdefgh.", "12345678", "12345678-abcdefgh") == f"key {_WORD}."


@pytest.mark.parametrize("secrets", [(), ("",), ("", "unheard-of")])
def test_where_nothing_is_to_hide_not_a_byte_changes(secrets: tuple[str, ...]) -> None:
    body = b'{ "error" : {"message":"plain \\u0077ords", "param":null, "n": 1.50} }'
    assert Scrubber(secrets).clean_json(body) == body


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("account east failed", f"account {_WORD} failed"),
        ("east", _WORD),
        ('"east", east.', f'"{_WORD}", {_WORD}.'),
        ("eastern northeast east_1 south-east east-2 East", None),
    ],
)
def test_a_short_name_goes_only_as_a_whole_word(text: str, expected: str | None) -> None:
    assert _scrubbed(text, "east") == (text if expected is None else expected)


def test_a_name_is_no_pattern() -> None:
    assert _scrubbed("a.b axb", "a.b") == f"{_WORD} axb"
    assert _scrubbed("at account(1", "account(1") == f"at {_WORD}"
    assert _scrubbed("account.1 account-1", "account.1") == f"{_WORD} account-1"


@pytest.mark.parametrize(
    "token",
    [
        "Bearer abcdefgh12345678",
        "bearer   a.b-c_d~e+f/g=",
        "sk-abcdefgh",
        "SK-proj-ABCDEFGH_1234",
        "eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjF9.c2ln",
    ],
)
def test_tokens_go_although_nobody_named_them(token: str) -> None:
    assert _scrubbed(f"Incorrect key: {token} was sent") == f"Incorrect key: {_WORD} was sent"


@pytest.mark.parametrize(
    "text",
    [
        "The task-management risk-assessment of a disk-based desk-top",
        "sk-short",
        "bearer token",
        "req_0123456789abcdef0123456789abcdef",
        "x" * 199,
        "eyJustAWord of text.",
    ],
)
def test_plain_words_and_request_ids_stay(text: str) -> None:
    assert _scrubbed(text) == text


@pytest.mark.parametrize("kind", ["image/png", "image/svg+xml", "application/octet-stream"])
def test_a_data_url_goes_however_short(kind: str) -> None:
    assert _scrubbed(f"bad data:{kind};base64,iVBORw0KGgo= here") == f"bad {_WORD} here"


@pytest.mark.parametrize("padding", ["", "=", "=="])
def test_a_long_run_of_base64_goes(padding: str) -> None:
    assert _scrubbed(f"got {'Ab3+/' * 40}{padding} here") == f"got {_WORD} here"


def test_base64_with_escaped_slashes_goes_too() -> None:
    """Some encoders write every slash as ``\\/``; base64 has one in 64 characters or so."""
    picture = ("A" * 60 + "\\/") * 50
    out = Scrubber([]).clean_json(b'{"error":{"message":"cannot read ' + picture.encode() + b'"}}')
    assert b"AAAA" not in out
    out = Scrubber([]).clean_json(b'{"error":{"message":"data:image\\/png;base64,AAAABBBB"}}')
    assert b"AAAA" not in out


_QUOTING = 'Cannot read "data:image/png;base64,AAAA" and \\"data:image/png;base64,QQ==\\" here'


@given(st.lists(st.sampled_from(["words ", '"', "\\", "\n", _QUOTING, "sk-abcdefgh", "/"])))
@example([_QUOTING])
def test_a_scrubbed_error_is_still_an_error_in_json(parts: list[str]) -> None:
    """An upstream may quote a picture: the quotes after it must stay quoted."""
    out = _scrubbed("".join(parts), "token-12345678", "account-1")
    assert "base64" not in out
    assert out.count('"') == "".join(parts).count('"')


@pytest.mark.parametrize(
    "secrets",
    [
        ("user", "e"),
        ("error", "code"),
        ("message", "param"),
        ("generation", "moderation"),
        ("images", "policy", "blocked"),
    ],
)
def test_an_everyday_name_leaves_the_error_its_shape_and_its_code(secrets: tuple[str, ...]) -> None:
    """A proxy's user may be called ``user``, an account ``error``: programs still read the code."""
    body = errors.error_body(
        "The user may not.", "image_generation_user_error", None, "moderation_blocked"
    )
    made = json.loads(Scrubber(secrets).clean_json(body))
    assert set(made["error"]) == {"message", "type", "param", "code"}
    assert made["error"]["type"] == "image_generation_user_error"
    assert made["error"]["code"] == "moderation_blocked"


@pytest.mark.parametrize("name", ["code", "type"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bad_token-0123456789abcdef_x", f"bad_{_WORD}_x"),
        ("short-1", _WORD),
        ("short-1_x", "short-1_x"),
        ("the account short-1: x", f"the account {_WORD}: x"),
        ("xshort-1 in a sentence", f"x{_WORD} in a sentence"),
        ("sk-abcdefgh", _WORD),
    ],
)
def test_a_credential_is_gone_from_a_code_too(name: str, value: str, expected: str) -> None:
    body = json.dumps({"error": {"message": "m", name: value}}).encode()
    made = json.loads(Scrubber(["token-0123456789abcdef", "short-1"]).clean_json(body))
    assert made["error"][name] == expected


# -- what an account has -------------------------------------------------------------------

TOKEN = "token+of/the=account-0123"
USER, PASSWORD = "proxy user", "pa/ss+w<rd"
FULL = replace(
    account("east-1", proxy=Proxy("http://p:1", Secret(USER), Secret(PASSWORD))),
    credential=Credential(Secret(TOKEN), "access_token", "id-of-the-account"),
)
PAIR = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SPELLINGS = [
    TOKEN,
    quote(TOKEN, safe=""),
    quote(TOKEN, safe="").lower(),
    TOKEN.upper(),
    quote_plus(PASSWORD),
    quote(PASSWORD, safe=""),
    quote(PASSWORD, safe="").replace("%2F", "%2f"),
    html.escape(PASSWORD),
    USER,
    quote(USER),
    quote_plus(USER),
    PASSWORD,
    "id-of-the-account",
    "east-1",
    PAIR,
    PAIR.rstrip("="),
    f"Basic {PAIR}",
    base64.urlsafe_b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
    f"{USER}:{PASSWORD}",
]


@pytest.mark.parametrize("secret", SPELLINGS)
def test_an_account_s_secrets_are_gone_from_every_field(secret: str) -> None:
    for text in (secret, f"at {secret}: x", f"<{secret}>"):
        cleaned = Scrubber.of(FULL).clean_error(UpstreamError(text, text, text, text))
        for shown in (cleaned.message, cleaned.type, cleaned.param, cleaned.code):
            assert shown is not None
            assert secret not in shown
            assert _WORD in shown
        assert errors.shown_code(cleaned) is None


@pytest.mark.parametrize("secret", SPELLINGS)
def test_a_header_with_a_secret_is_left_out(secret: str) -> None:
    upstream = {
        "x-ratelimit-limit-requests": f"5; {secret}",
        "openai-processing-ms": secret,
        "retry-after": secret,
        "x-ratelimit-reset-requests": "7s",
        "x-codex-primary-used-percent": "5",
    }
    assert Scrubber.of(FULL).clean_headers(upstream) == {
        "x-ratelimit-reset-requests": "7s",
        "x-codex-primary-used-percent": "5",
    }
    named = {f"x-ratelimit-{TOKEN.lower()}": "1"}
    assert Scrubber.of(FULL).clean_headers(named) == {}


def test_an_account_that_is_called_like_a_number_costs_no_header() -> None:
    upstream = {"x-ratelimit-limit-requests": "100", "retry-after": "5", "content-length": "64"}
    for name in ("100", "5", "64"):
        assert Scrubber.of(replace(FULL, account_name=name)).clean_headers(upstream) == upstream


def test_a_key_with_a_secret_is_cleaned_and_no_other_one() -> None:
    odd = replace(FULL, account_name="message")
    body = json.dumps({"error": {"message": "m", "code": "c", TOKEN: 1, "headers": {PAIR: 1}}})
    made = json.loads(Scrubber.of(odd).clean_json(body.encode()))
    assert made == {"error": {"message": "m", "code": "c", _WORD: 1, "headers": {_WORD: 1}}}


def test_what_has_no_secret_stays_as_it_is() -> None:
    error = UpstreamError("no", "invalid_request_error", "size", "moderation_blocked", shaped=True)
    assert Scrubber.of(FULL).clean_error(error) == error
    assert Scrubber.of(FULL).clean_error(UpstreamError()) == UpstreamError()
    assert Scrubber.of(account(credential=None)).clean_text("a cat") == "a cat"


def test_the_repr_has_no_secret() -> None:
    assert repr(Scrubber(["hush"])) == "<Scrubber of 1 texts>"
