"""Sums are exact, percentiles as near as promised, and neither knows the order of the records."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.records import charges, summary
from image_gateway.core.records.summary import DIMENSIONS, PERCENTS, SUMS, Summary, Tally
from image_gateway.core.records.usage import MOST_TOKENS

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
ERROR = Fraction(1, 128)
LONGEST_MS = 2**63 - 1


def call(**fields: Any) -> dict[str, Any]:
    """A call that made one picture, as far as nothing else is said."""
    return {
        "time": "2026-11-21T12:00:00.000Z",
        "request_id": "req_1",
        "key_id": "key-1",
        "key_name": "Ann",
        "account_name": "account-1",
        "model": "gpt-image-2",
        "status": 200,
        "error_code": None,
        "request_bytes": 100,
        "response_bytes": 2_000,
        "response_image_count": 1,
        "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
        "total_ms": 30_000,
        "attempts": [{"account_name": "account-1", "action": "deliver"}],
        "may_be_billed": False,
        **fields,
    }


def summed(records: list[dict[str, Any]], most_names: int = 100) -> Summary:
    made = Summary(DIMENSIONS, most_names)
    for record in records:
        time = summary.time_of(record)
        assert time is not None
        made.add(record, time)
    return made


def numbers(tally: Tally | None) -> Any:
    return tally and (
        *(tally.calls, tally.errors, tally.sums, tally.cost_usd),
        tally.percentiles(),
    )


def values(made: Summary) -> Any:
    """All values of a summary."""
    return (
        made.first,
        made.last,
        made.already_paid,
        numbers(made.total),
        [
            (
                table.dimension,
                [(name, table.label(name), numbers(tally)) for name, tally in table.rows()],
                numbers(table.others),
            )
            for table in made.tables
        ],
    )


junk = st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.lists(st.none())
counts = st.integers(0, 2**40) | st.integers(-5, -1) | junk
names = st.sampled_from(["a", "b", "c", "d", "e", "f", "\ud800", ""]) | junk


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """What may stand in a file: any field absent, wrong or odd, but a time that can be read."""
    time = NOON + timedelta(milliseconds=draw(st.integers(0, 5)))
    fields: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                **dict.fromkeys(("key_id", "key_name", "account_name", "model"), names),
                "error_code": names,
                "status": st.sampled_from([200, 401, 502]) | junk,
                **dict.fromkeys(("request_bytes", "response_bytes", "total_ms"), counts),
                "response_image_count": counts,
                "usage": st.dictionaries(st.sampled_from(SUMS), counts) | junk,
                "usage_text": st.dictionaries(st.sampled_from(SUMS), counts) | junk,
                "cost_usd": st.floats(0, 10) | counts,
                "attempts": st.sampled_from([[{}], [], None, "odd"]),
                "call_source": st.sampled_from(["made", "joined", "replayed", None, 5]),
            },
        )
    )
    return {"time": time.isoformat(timespec="milliseconds"), **fields}


@given(st.lists(records(), max_size=30), st.randoms(use_true_random=False), st.integers(1, 8))
def test_any_order_of_the_records_tells_the_same(
    given_records: list[dict[str, Any]], random: Any, most_names: int
) -> None:
    """Even where there are more names than a table holds."""
    shuffled = given_records.copy()
    random.shuffle(shuffled)
    assert values(summed(given_records, most_names)) == values(summed(shuffled, most_names))


@given(st.lists(records(), max_size=30), st.integers(1, 8))
def test_a_table_is_bounded_and_loses_no_call(
    given_records: list[dict[str, Any]], most_names: int
) -> None:
    made = summed(given_records, most_names)
    for table in made.tables:
        rows = table.rows()
        assert len([name for name, _ in rows if name is not None]) <= most_names
        whole = Tally()
        for _, tally in rows:
            whole.merge(tally)
        if table.others is not None:
            assert table.others.calls
            whole.merge(table.others)
        assert numbers(whole) == numbers(made.total)


EXACT = st.tuples(
    *[st.integers(0, MOST_TOKENS if "tokens" in name else 2**53) for name in SUMS]
).filter(lambda drawn: drawn[SUMS.index("total_tokens")] > 1)


def with_share(sums: tuple[int, ...]) -> st.SearchStrategy[tuple[tuple[int, ...], int]]:
    """Sums, and how many of all tokens are the main model's."""
    total = sums[SUMS.index("total_tokens")]
    return st.tuples(st.just(sums), st.integers(1, total - 1))


@given(st.lists(EXACT.flatmap(with_share), max_size=30))
def test_sums_are_exact(given_sums: list[tuple[tuple[int, ...], int]]) -> None:
    made = summed(
        [
            call(
                request_bytes=request_bytes,
                response_bytes=response_bytes,
                response_image_count=images,
                usage={"input_tokens": came, "output_tokens": went, "total_tokens": total - text},
                usage_text={
                    "input_tokens": text_came,
                    "output_tokens": text_went,
                    "total_tokens": text,
                },
            )
            for (
                (request_bytes, response_bytes, came, went, text_came, text_went, total, images),
                text,
            ) in given_sums
        ]
    )
    columns = zip(*(sums for sums, _ in given_sums), strict=True)
    exact = [sum(column) for column in columns] or [0] * len(SUMS)
    assert made.total.sums == exact
    assert made.total.calls == len(given_sums)
    assert made.total.errors == 0


def retry(source: str, **fields: Any) -> dict[str, Any]:
    """A request that got the answer of the call of ``req_1``."""
    found = {"call_source": source, "call_request_id": "req_1", "attempts": []}
    return call(**{"request_id": "req_2", **found, "cost_usd": 0.5, **fields})


@pytest.mark.parametrize("source", ["joined", "taken-over", "replayed"])
def test_an_answer_that_was_paid_for_before_is_a_call_and_no_purchase(source: str) -> None:
    """Whatever else its record says; its bytes went over the wire."""
    first = call(call_source="made", call_request_id="req_1", cost_usd=0.5)
    made = summed([first, retry(source), retry(source)])
    assert (made.total.calls, made.total.errors, made.already_paid) == (3, 0, 2)
    bought = summed([first]).total
    for name, once, total in zip(SUMS, bought.sums, made.total.sums, strict=True):
        assert total == once * (3 if name.endswith("_bytes") else 1), name
    assert made.total.cost_usd == bought.cost_usd == Decimal("0.5")


def test_an_answer_that_the_gateway_failed_to_give_was_not_paid_for_before() -> None:
    failed = retry("joined", status=500, error_code="internal_error", error_source="gateway")
    left = retry("joined", status=None, error_code="client_left", error_source="client")
    made = summed([failed, left, retry("made"), call()])
    assert made.already_paid == 1


@given(st.lists(st.none() | st.integers(0, 10**9), max_size=30))
def test_costs_add_up_to_the_micro_dollar_and_unknown_ones_are_left_out(
    micros: list[int | None],
) -> None:
    costs = [None if each is None else each / 1_000_000 for each in micros]
    made = summed([call(cost_usd=cost) for cost in costs])
    known = [each for each in micros if each is not None]
    assert made.total.cost_usd == (Decimal(sum(known)) / 1_000_000 if known else None)


@pytest.mark.parametrize("cost", [None, True, "0.5", -0.5, float("nan"), float("inf"), 1e300, []])
def test_what_is_no_cost_counts_as_not_known(cost: object) -> None:
    assert summed([call(cost_usd=cost)]).total.cost_usd is None


@given(st.lists(st.integers(0, 700_000) | st.integers(0, LONGEST_MS), min_size=1, max_size=300))
def test_a_percentile_is_within_its_error_of_the_sorted_list(taken: list[int]) -> None:
    tally = summed([call(total_ms=ms) for ms in taken]).total
    ordered = sorted(taken)
    for percent, found in zip(PERCENTS, tally.percentiles(), strict=True):
        exact = ordered[-(-percent * len(ordered) // 100) - 1]
        assert found is not None
        assert abs(found - exact) <= exact * ERROR
        if exact < 128:
            assert found == exact


def test_latencies_take_bounded_memory() -> None:
    """A bucket for each latency up to ten minutes, and for the longest that a file can hold."""
    # 128 in each doubling: as many as the error allows, and evenly spread over all the buckets.
    spread = [ms for low in range(7, 20) for ms in range(2**low, 2 ** (low + 1), 2 ** (low - 7))]
    latencies = [ms for ms in (*range(128), *spread) if ms <= 600_000]
    assert len(latencies) > 1500
    ten_minutes = summed([call(total_ms=ms) for ms in latencies]).total
    assert len(ten_minutes.latencies) < 1000
    longest = summed([call(total_ms=LONGEST_MS >> shift) for shift in range(64)]).total
    assert max(longest.latencies.counts).bit_length() == 63
    assert len({start.bit_length() for start in longest.latencies.counts}) == 64


def test_no_latency_no_percentile() -> None:
    assert summed([call(total_ms=None)]).total.percentiles() == [None, None, None]


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, "ok"),
        ({"status": 302}, "ok"),
        ({"status": 200, "error_code": "upstream_cut"}, "upstream_cut"),
        ({"status": 429, "error_code": "key_concurrency"}, "key_concurrency"),
        ({"status": 500}, "status 500"),
        ({"status": None, "error_code": "client_left"}, "client_left"),
        ({"status": None}, None),
    ],
)
def test_each_call_has_one_outcome_and_all_but_ok_are_errors(
    fields: dict[str, Any], outcome: str | None
) -> None:
    made = summed([call(**fields)])
    [table] = [table for table in made.tables if table.dimension == "outcome"]
    assert [name for name, _ in table.rows()] == [outcome]
    assert made.total.errors == (outcome != "ok")


def test_rows_are_in_the_order_of_their_calls_and_calls_without_a_name_have_their_own() -> None:
    models = ["b", "a", "c", "c", None]
    made = summed([call(model=model) for model in models])
    [table] = [table for table in made.tables if table.dimension == "model"]
    assert [(name, tally.calls) for name, tally in table.rows()] == [
        ("c", 2),
        ("a", 1),
        ("b", 1),
        (None, 1),
    ]


def test_a_key_is_called_what_its_newest_record_calls_it() -> None:
    made = summed(
        [
            call(time="2026-11-21T12:00:01Z", key_name="Bea"),
            call(time="2026-11-21T13:00:00+01:00", key_name="Zoe"),
            call(time="2026-11-21T12:00:02Z", key_name=None),
        ]
    )
    [table] = [table for table in made.tables if table.dimension == "key"]
    assert table.label("key-1") == "Bea"
    assert table.label("key-2") is None


def test_a_record_of_the_first_version_is_read_as_ever() -> None:
    """It lacks the fields that came later; its ``size`` is what came back."""
    first = {**call(size="1024x1024"), "schema_version": 1}
    now = call(schema_version=2, size="auto", usage_text=None, cost_usd=None)
    assert numbers(summed([first]).total) == numbers(summed([now]).total)
    assert charges.of(first) == charges.of(now)


def test_a_total_that_says_nothing_beside_its_parts_is_their_sum() -> None:
    tokens = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 0}
    assert summed([call(usage=tokens)]).total.sums[SUMS.index("total_tokens")] == 12


# -- moments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90m", NOON - timedelta(minutes=90)),
        ("24h", NOON - timedelta(hours=24)),
        ("7d", NOON - timedelta(days=7)),
        ("30s", NOON - timedelta(seconds=30)),
        ("2026-11-21", datetime(2026, 11, 21, tzinfo=UTC)),
        ("2026-11-21T08:30", datetime(2026, 11, 21, 8, 30, tzinfo=UTC)),
        ("2026-11-21 08:30:05", datetime(2026, 11, 21, 8, 30, 5, tzinfo=UTC)),
        ("2026-11-21T08:30:00Z", datetime(2026, 11, 21, 8, 30, tzinfo=UTC)),
        ("2026-11-21T08:30:00.5+02:00", datetime(2026, 11, 21, 6, 30, 0, 500_000, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_time_or_a_span_back(text: str, found: datetime) -> None:
    assert summary.moment(text, NOON) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "7", "7 d", "-7d", "7y", "\u0667d", "999999999d", "08:30"),
        *("2026-13-01", "2026-11-21T25:00", "0001-01-01T00:00+05:00", "1700000000"),
    ],
)
def test_an_invalid_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"2026-11-21T08:00:00Z.*90m, 24h or 7d"):
        summary.moment(text, NOON)


@pytest.mark.parametrize("time", [None, 5, "", "soon", "0001-01-01T00:00+05:00"])
def test_a_record_may_not_say_when_it_was(time: object) -> None:
    assert summary.time_of(call(time=time)) is None
