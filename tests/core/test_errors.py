"""Errors: the table that programs are written against, and how foreign errors are read."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from image_gateway.core import errors
from image_gateway.core.errors import ERROR_SPECS, Refusal, Source, UpstreamError

_INVALID = "invalid_request_error"
_PERMISSION = "permission_error"

PROMISED: dict[str, tuple[int, str]] = {
    "missing_api_key": (401, _INVALID),
    "invalid_api_key": (401, _INVALID),
    "key_disabled": (403, _PERMISSION),
    "key_expired": (403, _PERMISSION),
    "group_image_generation_disabled": (403, _PERMISSION),
    "key_image_generation_disabled": (403, _PERMISSION),
    "insufficient_quota": (429, "insufficient_quota"),
    "key_concurrency": (429, "rate_limit_error"),
    "owner_concurrency": (429, "rate_limit_error"),
    "key_start_interval": (429, "rate_limit_error"),
    "unknown_path": (404, _INVALID),
    "method_not_allowed": (405, _INVALID),
    "unsupported_protocol": (400, _INVALID),
    "upgrade_required": (426, _INVALID),
    "request_too_large": (413, _INVALID),
    "unsupported_media_type": (415, _INVALID),
    "request_timeout": (408, _INVALID),
    "invalid_body": (400, _INVALID),
    "missing_required_parameter": (400, _INVALID),
    "invalid_type": (400, _INVALID),
    "invalid_value": (400, _INVALID),
    "unknown_parameter": (400, _INVALID),
    "idempotency_key_reused": (422, _INVALID),
    "repeated_call": (400, _INVALID),
    "call_not_found": (404, _INVALID),
    "call_cancelled": (409, _INVALID),
    "picture_not_found": (404, _INVALID),
    "model_not_allowed": (403, _PERMISSION),
    "model_not_found": (404, _INVALID),
    "unsupported_value": (400, _INVALID),
    "not_an_image_request": (421, _INVALID),
    "misdirected_request": (421, _INVALID),
    "account_concurrency": (429, "rate_limit_error"),
    "no_account_available": (503, "api_error"),
    "account_credentials": (503, "api_error"),
    "account_refused": (503, "api_error"),
    "rate_limit_exceeded": (429, "rate_limit_error"),
    "upstream_refused": (502, "api_error"),
    "upstream_unreachable": (502, "api_error"),
    "outcome_unknown": (504, "api_error"),
    "upstream_redirect": (502, "api_error"),
    "upstream_invalid": (502, "api_error"),
    "upstream_cut": (502, "api_error"),
    "control_plane_unavailable": (503, "api_error"),
    "overloaded": (503, "api_error"),
    "draining": (503, "api_error"),
    "internal_error": (500, "api_error"),
}

NEVER_AGAIN = {
    "insufficient_quota",
    "request_timeout",
    "idempotency_key_reused",
    "repeated_call",
    "call_cancelled",
    "outcome_unknown",
    "upstream_redirect",
    "upstream_invalid",
    "upstream_cut",
    "upstream_refused",
    "internal_error",
}
"""Codes that no client may repeat on its own; the SDKs would after most of these statuses."""


@pytest.mark.parametrize("code", sorted(PROMISED))
def test_a_code_keeps_its_promised_status_and_type(code: str) -> None:
    assert (ERROR_SPECS[code].status, ERROR_SPECS[code].type) == PROMISED[code]


def test_no_code_is_without_a_promise() -> None:
    assert set(ERROR_SPECS) == set(PROMISED)


def test_the_codes_and_sources_of_a_record_are_these_words() -> None:
    assert errors.CLIENT_LEFT == "client_left"
    assert errors.CLIENT_LEFT not in ERROR_SPECS
    assert [str(source) for source in Source] == ["client", "gateway", "upstream"]


def test_a_refusal_in_a_traceback_tells_what_it_is() -> None:
    assert "unknown_path" in str(Refusal("unknown_path", "why"))
    assert "why" in str(Refusal("unknown_path", "why"))


@pytest.mark.parametrize("code", sorted(ERROR_SPECS))
def test_what_must_not_be_repeated_says_so(code: str) -> None:
    headers = Refusal(code, "why").headers()
    assert headers == ({"x-should-retry": "false"} if code in NEVER_AGAIN else {})


@pytest.mark.parametrize("code", sorted(ERROR_SPECS))
def test_whoever_failed_is_named(code: str) -> None:
    """Below 500 only full accounts are not the client's fault."""
    source = ERROR_SPECS[code].source
    if ERROR_SPECS[code].status < 500:
        full = {"account_concurrency": Source.GATEWAY, "rate_limit_exceeded": Source.UPSTREAM}
        assert source is full.get(code, Source.CLIENT)
    else:
        assert source is not Source.CLIENT
        others = {"outcome_unknown", "account_credentials", "account_refused"}
        theirs = code.startswith("upstream_") or code in others
        assert (source is Source.UPSTREAM) == theirs


@given(
    st.sampled_from(sorted(ERROR_SPECS)),
    st.text(st.characters(codec="utf-8")),
    st.one_of(st.none(), st.text(st.characters(codec="utf-8"))),
)
def test_every_refusal_has_the_four_keys(code: str, message: str, param: str | None) -> None:
    assert json.loads(Refusal(code, message, param=param).body()) == {
        "error": {"message": message, "type": ERROR_SPECS[code].type, "param": param, "code": code}
    }


@pytest.mark.parametrize(
    ("seconds", "ago"),
    [(0.0, "1 second ago"), (1.4, "1 second ago"), (41.7, "42 seconds ago"), (90.0, "90 seconds")],
)
def test_a_repeated_call_reads_when_the_first_was_sent_and_how_to_buy(
    seconds: float, ago: str
) -> None:
    refusal = errors.repeated_call("call_1", seconds)
    assert refusal.code == "repeated_call"
    assert refusal.headers()["x-call-id"] == "call_1"
    for words in (ago, "may exist", "once more", "`Idempotency-Key`"):
        assert words in refusal.message


def test_a_name_that_is_taken_and_a_call_that_is_not_there_say_what_to_do() -> None:
    reused = errors.reused_name("call_1")
    assert (reused.code, reused.headers()["x-call-id"]) == ("idempotency_key_reused", "call_1")
    assert "a new key" in reused.message
    assert errors.call_not_found().code == "call_not_found"
    assert "Check the id" in errors.call_not_found().message


def test_a_code_that_nobody_promised_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        Refusal("made_up", "why")


def test_headers_hold_the_given_ones_the_wait_and_the_warning() -> None:
    refusal = Refusal(
        "outcome_unknown", "why", retry_after=1.5, headers={"allow": "POST", "retry-after": "9"}
    )
    assert refusal.headers() == {
        "allow": "POST",
        "retry-after": "2",
        "retry-after-ms": "1500",
        "x-should-retry": "false",
    }


def test_headers_of_one_refusal_do_not_change_the_next() -> None:
    given_headers = {"allow": "POST"}
    refusal = Refusal("method_not_allowed", "why", headers=given_headers)
    refusal.headers()["x"] = "y"
    given_headers["z"] = "1"
    assert refusal.headers() == {"allow": "POST"}


@given(st.floats(0, 1e9))
@example(0.0)
@example(0.0005)
@example(1.0001)
def test_both_waits_are_long_enough_whole_and_above_zero(seconds: float) -> None:
    headers = errors.retry_headers(seconds)
    whole, milliseconds = int(headers["retry-after"]), int(headers["retry-after-ms"])
    assert seconds * 1000 <= milliseconds <= seconds * 1000 + 1 or milliseconds == 1
    assert 0 < milliseconds <= whole * 1000 < milliseconds + 1000
    assert set(headers) == {"retry-after", "retry-after-ms"}


def test_shorthands_name_the_parameter_and_the_code() -> None:
    wrong_type, wrong_value = errors.wrong_type("n", "an integer"), errors.wrong_value("n", "is 0")
    assert (wrong_type.code, wrong_type.param) == ("invalid_type", "n")
    assert (wrong_value.code, wrong_value.param) == ("invalid_value", "n")
    assert wrong_type.message == "`n` must be an integer."
    assert wrong_value.message == "`n` is 0."


def test_the_two_refusals_of_a_key_name_where_it_may_stand_and_never_the_key() -> None:
    assert errors.missing_key().code == "missing_api_key"
    assert "api-key" in errors.missing_key().message
    assert errors.unknown_key().code == "invalid_api_key"
    assert errors.unknown_key().param is None


# -- what an upstream answered ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            {"error": {"message": "m", "type": "t", "param": "p", "code": "c"}},
            UpstreamError("m", "t", "p", "c", shaped=True),
            id="OpenAI's shape",
        ),
        pytest.param(
            {"error": {"message": "m", "type": None, "param": None, "code": None}},
            UpstreamError("m", shaped=True),
            id="OpenAI's shape with nulls",
        ),
        pytest.param(
            {"error": {"message": "m"}}, UpstreamError("m", shaped=True), id="Codex, message alone"
        ),
        pytest.param(
            {
                "error": {
                    "message": "m",
                    "type": "usage_limit_reached",
                    "resets_at": 1_800_000_000,
                    "resets_in_seconds": 12.5,
                }
            },
            UpstreamError(
                "m",
                "usage_limit_reached",
                shaped=True,
                resets_in_seconds=12.5,
                resets_at=1_800_000_000.0,
            ),
            id="Codex, usage limit",
        ),
        pytest.param({"detail": "text"}, UpstreamError("text"), id="Codex, detail as text"),
        pytest.param(
            {"detail": {"message": "m", "code": "c"}},
            UpstreamError("m", code="c"),
            id="Codex, detail as object",
        ),
        pytest.param(
            {"detail": {"message": "m", "type": "t", "resets_in_seconds": 3}},
            UpstreamError("m", "t", resets_in_seconds=3.0),
            id="Codex, detail with a reset",
        ),
        pytest.param(
            {"created": 1, "error": {"code": "contentFilter"}},
            UpstreamError(code="contentFilter"),
            id="Azure, no message",
        ),
        pytest.param(
            {
                "error": {
                    "code": "content_policy_violation",
                    "message": "m",
                    "inner_error": {"code": "ResponsibleAIPolicyViolation"},
                }
            },
            UpstreamError("m", code="content_policy_violation", shaped=True),
            id="Azure, inner error",
        ),
        pytest.param(
            {"code": "404", "message": "m"}, UpstreamError("m", code="404"), id="Azure's gateway"
        ),
        pytest.param({"code": 404, "message": "m"}, UpstreamError("m", code="404"), id="a number"),
        pytest.param({"error": "text"}, UpstreamError("text"), id="error as text"),
        pytest.param(
            {"error": {"message": "e"}, "detail": "d"},
            UpstreamError("e", shaped=True),
            id="error before detail",
        ),
        pytest.param({"error": {}}, UpstreamError(), id="empty"),
        pytest.param(
            {"error": {"message": 5, "code": True, "type": [], "param": {}}},
            UpstreamError("5"),
            id="wrong types",
        ),
        pytest.param(
            {"error": {"message": "m", "resets_at": True, "resets_in_seconds": "5"}},
            UpstreamError("m", shaped=True),
            id="resets that are no numbers",
        ),
        pytest.param({"detail": [{"loc": ["body"]}]}, UpstreamError(), id="detail as list"),
        pytest.param({"error": None, "message": "m"}, UpstreamError("m"), id="error null"),
        pytest.param([], UpstreamError(), id="a list"),
        pytest.param("text", UpstreamError(), id="a string"),
        pytest.param(None, UpstreamError(), id="null"),
    ],
)
def test_every_known_shape_of_an_error_is_read(body: Any, expected: UpstreamError) -> None:
    assert errors.read_upstream_error(json.dumps(body).encode()) == expected


@pytest.mark.parametrize(
    "body", [b"", b"<html>blocked</html>", b"{", b"\xff\xfe", b"event: error\ndata: {}\n\n"]
)
def test_what_is_no_json_is_an_empty_error(body: bytes) -> None:
    assert errors.read_upstream_error(body) == UpstreamError()


_HOSTILE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["error", "detail", "message", "type", "param", "code", "resets_at", "x"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)


@given(_HOSTILE)
def test_a_hostile_error_is_read_into_sane_fields(body: Any) -> None:
    found = errors.read_upstream_error(json.dumps(body).encode())
    for text in (found.message, found.type, found.param, found.code):
        assert text is None or type(text) is str
    for number in (found.resets_at, found.resets_in_seconds):
        assert number is None or type(number) is float
    if found.shaped:
        assert body["error"]["message"] == found.message


@given(st.binary(max_size=60))
def test_any_bytes_can_be_read_as_an_error(body: bytes) -> None:
    assert isinstance(errors.read_upstream_error(body), UpstreamError)


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (
            500,
            UpstreamError(),
            ("The upstream answered with status 500 and no JSON error.", "api_error", None, None),
        ),
        (
            499,
            UpstreamError(),
            ("The upstream answered with status 499 and no JSON error.", _INVALID, None, None),
        ),
        (400, UpstreamError("m", "t", "p", "c"), ("m", "t", "p", "c")),
        (503, UpstreamError("m", code="c"), ("m", "api_error", None, "c")),
    ],
)
def test_an_error_of_another_shape_is_put_into_openai_s(
    status: int, error: UpstreamError, expected: tuple[str | None, ...]
) -> None:
    made = json.loads(errors.passed_on(status, b"<html>", error))
    assert made == {"error": dict(zip(("message", "type", "param", "code"), expected, strict=True))}


def test_an_error_in_openai_s_shape_passes_byte_for_byte() -> None:
    body = b'{ "error" : {"message":"m", "more": 1, "type":null,"code":null,"param" :null}, "a":1 }'
    assert errors.passed_on(400, body, errors.read_upstream_error(body)) == body


@pytest.mark.parametrize(
    ("status", "said", "filled"),
    [
        (400, {"message": "m"}, {"type": _INVALID, "param": None, "code": None}),
        (500, {"message": "m"}, {"type": "api_error", "param": None, "code": None}),
        (429, {"message": "m"}, {"type": "rate_limit_error", "param": None, "code": None}),
        (500, {"message": "m", "code": "c", "inner": {"x": [1]}}, {"type": "api_error"}),
        (429, {"message": "m", "type": "usage_limit_reached", "resets_at": 5}, {"code": None}),
        (400, {"message": "m", "type": "t", "param": "p"}, {"code": None}),
        (400, {"message": "m", "type": None, "param": "p"}, {"code": None, "type": None}),
    ],
)
def test_an_error_gets_the_keys_it_lacks_and_keeps_what_it_says(
    status: int, said: dict[str, Any], filled: dict[str, Any]
) -> None:
    body = json.dumps({"error": said}).encode()
    made = json.loads(errors.passed_on(status, body, errors.read_upstream_error(body)))
    assert set(made["error"]) >= {"message", "type", "param", "code"}
    assert made["error"] == {**made["error"], **filled, **said}


@given(_HOSTILE, st.integers(400, 599))
def test_whatever_an_upstream_says_the_client_reads_a_message(body: Any, status: int) -> None:
    text = json.dumps(body).encode()
    made = json.loads(errors.passed_on(status, text, errors.read_upstream_error(text)))
    assert isinstance(made["error"]["message"], str)
    assert set(made["error"]) >= {"message", "type", "param", "code"}


# -- the status of an error that came as an event --------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        *((UpstreamError(code=code), 400) for code in sorted(errors.CLIENT_FAULTS)),
        *((UpstreamError(code=code), 404) for code in sorted(errors.MISSING_MODEL)),
        (UpstreamError(type="image_generation_user_error", code="x"), 400),
        (UpstreamError(code="Moderation_Blocked"), 400),
        (UpstreamError(code="context_length_exceeded"), 400),
        (UpstreamError(type="invalid_request_error"), 400),
        (UpstreamError(code="rate_limit_exceeded"), 429),
        (UpstreamError(type="invalid_request_error", code="rate_limit_exceeded"), 429),
        (UpstreamError(type="usage_limit_reached"), 429),
        (UpstreamError(code="insufficient_quota"), 429),
        (UpstreamError(code="server_is_overloaded", type="server_error"), 503),
        (UpstreamError(code="slow_down"), 503),
        (UpstreamError(code="token_expired"), 401),
        (UpstreamError(type="invalid_request_error", code="invalid_api_key"), 401),
        (UpstreamError(type="permission_error"), 403),
        (UpstreamError(type="server_error"), 500),
        (UpstreamError("rate_limit_exceeded", param="invalid_value"), 500),
        (UpstreamError(), 500),
    ],
)
def test_an_error_in_a_stream_has_the_status_it_would_have_had(
    error: UpstreamError, status: int
) -> None:
    assert errors.status_of(error) == status


def test_codes_are_code_and_type_in_lower_case() -> None:
    assert errors.codes(UpstreamError("M", "Type", "P", "CODE")) == {"type", "code"}
    assert errors.codes(UpstreamError("m", "", "p")) == set()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UpstreamError(code="moderation_blocked", type="t"), "moderation_blocked"),
        (UpstreamError(type="server_error"), "server_error"),
        (UpstreamError(code="404"), "404"),
        (UpstreamError(code="a.b-c_D9"), "a.b-c_D9"),
        (UpstreamError(code="x" * 64), "x" * 64),
        (UpstreamError(code="x" * 65), None),
        (UpstreamError(code="The prompt: a cat"), None),
        (UpstreamError(code="a\n"), None),
        (UpstreamError(code="\u0661"), None),
        (UpstreamError("message only"), None),
        (UpstreamError(), None),
    ],
)
def test_an_upstream_s_code_is_a_code_and_no_sentence(
    error: UpstreamError, expected: str | None
) -> None:
    assert errors.shown_code(error) == expected
