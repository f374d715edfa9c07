"""Metrics of calls: what was bought, what was found, and what runs without a client."""

import re
from datetime import UTC, datetime

from image_gateway.core.calls.model import CallSource
from image_gateway.core.errors import Source
from image_gateway.core.records.record import Record
from image_gateway.edge.metrics import CallGauges, ConnectionGauges, GaugeValues, Metrics

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def make(calls: CallGauges | None = None) -> Metrics:
    connections = ConnectionGauges(1, 2, 3)
    counts = calls or CallGauges()
    now = GaugeValues("1", 0.0, (), 0, {}, True, 0, 0, True, True, None, 0, connections, counts, {})
    return Metrics(lambda: now)


def request(source: CallSource | None, failed: Source | None = None) -> Record:
    return Record(NOON, "req_2", call_source=source, error_source=failed, call_request_id="req_1")


def values(metrics: Metrics, name: str) -> dict[str, float]:
    """The lines of one metric, by their labels."""
    pattern = rf"^image_gateway_{name}(?:{{(.*)}})? (\S+)$"
    lines = re.findall(pattern, metrics.text().decode(), re.MULTILINE)
    return {labels: float(value) for labels, value in lines}


def test_every_way_to_a_call_is_counted_and_all_are_there_from_the_start() -> None:
    """A rate over a counter that appears with its first count would miss that one."""
    metrics = make()
    ways = {f'source="{source}"': 0 for source in ("made", "joined", "taken-over", "replayed")}
    assert values(metrics, "calls_found_total") == ways
    for source in (CallSource.JOINED, CallSource.JOINED, CallSource.MADE, None):
        metrics.observe(request(source))
    assert values(metrics, "calls_found_total") == {
        **ways,
        'source="joined"': 2,
        'source="made"': 1,
    }


def test_a_purchase_is_saved_where_a_call_was_found_and_the_gateway_did_not_fail() -> None:
    metrics = make()
    assert values(metrics, "purchases_saved_total") == {"": 0}
    for source in (None, CallSource.MADE):
        metrics.observe(request(source))
    metrics.observe(request(CallSource.REPLAYED, Source.GATEWAY))
    assert values(metrics, "purchases_saved_total") == {"": 0}
    for source in (CallSource.JOINED, CallSource.TAKEN_OVER, CallSource.REPLAYED):
        metrics.observe(request(source))
    metrics.observe(request(CallSource.JOINED, Source.CLIENT))
    assert values(metrics, "purchases_saved_total") == {"": 4}


def test_calls_with_and_without_a_client_and_kept_ones_are_shown() -> None:
    metrics = make(CallGauges(running=3, left=2, kept=5, kept_bytes=700))
    assert values(metrics, "calls") == {
        'state="running"': 3,
        'state="left"': 2,
        'state="kept"': 5,
    }
    assert values(metrics, "calls_kept_bytes") == {"": 700}
