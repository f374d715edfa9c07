"""Records of calls to be charged: a sound one, and whatever else may stand in a file."""

from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any

from hypothesis import strategies as st

from image_gateway.core.records.charges import LONGEST_TEXT
from image_gateway.core.records.prices import MOST_USD
from image_gateway.core.records.usage import MOST_TOKENS


def record(**fields: Any) -> dict[str, Any]:
    """A call that made two pictures."""
    return {
        "time": "2026-11-21T20:00:00.000Z",
        "request_id": "req_1",
        "key_id": "key-1",
        "model": "gpt-image-2",
        "upstream_model": None,
        "group_id": None,
        "owner_id": None,
        "account_name": "one",
        "attempts": [{"account_name": "one"}],
        "response_image_count": 2,
        "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
        "usage_text": None,
        "svg_usage": None,
        "cost_usd": None,
        "may_be_billed": False,
        **fields,
    }


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def _scrambled(length: int) -> str:
    """A text that a database cannot press into a smaller one."""
    return Random(length).randbytes(length).hex()[:length]


_TEXTS = (
    st.text(min_size=1, max_size=2 * LONGEST_TEXT)
    | st.integers(LONGEST_TEXT - 1, 20_000).map(_scrambled)
    | st.integers(LONGEST_TEXT // 2, LONGEST_TEXT).map("\U0001f58c".__mul__)
)
_OFFSETS = st.timedeltas(timedelta(hours=-24), timedelta(hours=24)).filter(
    lambda offset: abs(offset) < timedelta(hours=24)
)
_ENDS = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)]
_TIMES = st.builds(
    lambda time, offset: time.replace(tzinfo=timezone(offset)).isoformat(),
    st.datetimes(timezones=st.just(UTC)) | st.sampled_from(_ENDS),
    _OFFSETS,
)
_COUNTS = st.integers(-1, 2 * MOST_TOKENS)
_KINDS = st.dictionaries(st.sampled_from(["text_tokens", "image_tokens"]), _COUNTS | _JSON)
_CACHED = {"cached_tokens": _COUNTS, "cached_tokens_details": _KINDS}
_USAGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), _COUNTS),
        **_CACHED,
        "input_tokens_details": _KINDS | st.fixed_dictionaries({}, optional=_CACHED) | _JSON,
    },
)
_ODD = {
    "time": _TIMES,
    **dict.fromkeys(("request_id", "key_id", "model", "upstream_model", "account_name"), _TEXTS),
    **dict.fromkeys(("group_id", "owner_id"), _TEXTS),
    "response_image_count": _COUNTS,
    **dict.fromkeys(("usage", "usage_text", "svg_usage"), _USAGES),
    "cost_usd": st.floats(-1, 2 * MOST_USD) | st.integers(-1, 2 * MOST_USD),
    "attempts": st.lists(
        st.fixed_dictionaries({"action": st.sampled_from(["deliver", "end", "next", None])}),
        max_size=2,
    ),
}


def odd_records() -> st.SearchStrategy[dict[str, Any]]:
    """Records with fields that lack, are of another kind, or lie at the ends of what there is."""
    odd = {name: _ODD.get(name, st.nothing()) | _JSON for name in record()}
    return st.builds(
        lambda changes, lacking: {
            name: value for name, value in record(**changes).items() if name not in lacking
        },
        st.fixed_dictionaries({}, optional=odd),
        st.just(frozenset()) | st.frozensets(st.sampled_from(sorted(odd)), max_size=2),
    )
