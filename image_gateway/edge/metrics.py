"""Counts and times of all calls, for Prometheus.

Counters and histograms change when a request's record is built; gauges (slots, accounts, budgets)
are read at each scrape.  Every label has few values: accounts come from the operator, error codes
from the gateway (all codes of upstreams count as one), statuses from HTTP.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from image_gateway.core import errors
from image_gateway.core.calls.model import CallSource
from image_gateway.core.records.record import Record, saves_purchase
from image_gateway.core.records.status import PhaseLabel
from image_gateway.core.routing.ranking import Condition

CONTENT_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8"
BUCKETS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 240, 300, 420, 600)
"""Seconds; a picture takes from 25, on a good day, to 400, on a bad one."""

_UPSTREAM_CODE: Final = "upstream_error"
_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)
_PREFIX: Final = "image_gateway_"
_PICTURE_STATUSES: Final = (200, 206, 304, 404)
"""Shown as 0 before the first one."""


@dataclass(frozen=True, slots=True)
class AccountGauges:
    """One account at this moment."""

    account_name: str
    condition: Condition
    slots_in_use: int
    slots_limit: int


@dataclass(frozen=True, slots=True)
class CallGauges:
    """The calls of this process at this moment.

    ``running`` have a client, ``left`` go on without one, ``kept`` have ended and their answers are
    kept, in ``kept_bytes`` on disk; a folder that processes share counts whole in each of them.
    """

    running: int = 0
    left: int = 0
    kept: int = 0
    kept_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ConnectionGauges:
    """The clients' connections at this moment: without a request, with one, and how many may be."""

    idle: int
    busy: int
    limit: int


@dataclass(frozen=True, slots=True)
class GaugeValues:
    """All gauges at this moment; ``grant_age_seconds`` is None before the accounts are first read.

    ``since`` is when the process started, in seconds since 1970; ``phases`` counts the calls in
    flight by phase; ``loop_lags`` is the longest of the last minute, in seconds, by phase.
    """

    version: str
    since: float
    accounts: tuple[AccountGauges, ...]
    waiting: int
    phases: Mapping[PhaseLabel, int]
    slots_shared: bool
    slots_without_lock: int
    bytes_in_flight: int
    control_plane_up: bool
    notify: bool
    grant_age_seconds: float | None
    log_records_lost: int
    connections: ConnectionGauges
    calls: CallGauges
    loop_lags: Mapping[str, float]


class Metrics:
    """One process's metrics; ``read_gauges`` gives the values at this moment."""

    def __init__(self, read_gauges: Callable[[], GaugeValues]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(read_gauges))
        self._requests = Counter(
            f"{_PREFIX}requests",
            "Requests that ended, by endpoint, dialect, status and error code.",
            ("endpoint", "dialect", "status", "error_code"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            f"{_PREFIX}request_seconds",
            "Seconds from a request's headers to the end of its response.",
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._phases = Histogram(
            f"{_PREFIX}phase_seconds",
            "Seconds that a request spent in each phase.",
            ("phase",),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._attempts = Counter(
            f"{_PREFIX}attempts",
            "Attempts at accounts, by outcome.",
            ("account", "outcome"),
            registry=self._registry,
        )
        self._attempt_seconds = Histogram(
            f"{_PREFIX}attempt_seconds",
            "Seconds from the start of an attempt to the upstream's response headers.",
            ("account",),
            buckets=BUCKETS,
            registry=self._registry,
        )

        self._found = Counter(
            f"{_PREFIX}calls_found",
            "Requests that came to a call, by whether they made, joined, took over or repeated it.",
            ("source",),
            registry=self._registry,
        )
        for source in CallSource:
            self._found.labels(source)
        self._saved = Counter(
            f"{_PREFIX}purchases_saved",
            "Requests that got the answer of a call that was already paid for.",
            registry=self._registry,
        )
        self._pictures = Counter(
            f"{_PREFIX}picture_requests",
            "Requests to addresses of pictures, by status; they have no log record.",
            ("status",),
            registry=self._registry,
        )
        for status in _PICTURE_STATUSES:
            self._pictures.labels(str(status))

    def __repr__(self) -> str:
        return "<Metrics>"

    def observe(self, record: Record) -> None:
        """Count a request that ended."""
        code = record.error_code or ""
        if code and code not in errors.ERROR_SPECS and code != errors.CLIENT_LEFT:
            code = _UPSTREAM_CODE
        self._requests.labels(
            record.endpoint or "", record.dialect or "", _status(record.status), code
        ).inc()
        self._seconds.observe((record.total_ms or 0) / 1000)
        for phase, milliseconds in (
            ("auth", record.auth_ms),
            ("body", record.body_ms),
            ("wait", record.wait_ms),
            ("upstream", record.upstream_ms),
            ("stream", record.stream_ms),
        ):
            if milliseconds is not None:
                self._phases.labels(phase).observe(milliseconds / 1000)
        for attempt in record.attempts:
            self._attempts.labels(attempt.account_name, attempt.action or "unfinished").inc()
            if attempt.upstream_ms is not None:
                seconds = self._attempt_seconds.labels(attempt.account_name)
                seconds.observe(attempt.upstream_ms / 1000)

        if record.call_source is not None:
            self._found.labels(record.call_source).inc()
        if saves_purchase(record.call_source, record.error_source):
            self._saved.inc()

    def observe_picture(self, status: int | None) -> None:
        """Count a request to the address of a picture; None: it had no answer."""
        self._pictures.labels(_status(status)).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    def __init__(self, read_gauges: Callable[[], GaugeValues]) -> None:
        self._read_gauges = read_gauges

    def describe(self) -> Iterable[Metric]:
        """Empty: else the registry would call ``collect`` before there are values to read."""
        return ()

    def collect(self) -> Iterable[Metric]:
        now = self._read_gauges()
        in_use = _gauge("slots_in_use", "Slots of the account that this process holds.", "account")
        limit = _gauge("slots_limit", "Slots that the account has.", "account")
        state = _gauge(
            "account_state", "1 for the state of the account, 0 for others.", "account", "state"
        )
        for account in now.accounts:
            name = account.account_name
            in_use.add_metric([name], account.slots_in_use)
            limit.add_metric([name], account.slots_limit)
            for condition in Condition:
                state.add_metric([name, condition], condition is account.condition)
        yield from (in_use, limit, state)
        yield _single("waiting", "Calls that wait for a slot.", now.waiting)
        phases = _gauge("in_flight", "Calls in flight, by phase.", "phase")
        for phase in PhaseLabel:
            phases.add_metric([phase], now.phases.get(phase, 0))
        yield phases
        connections = _gauge(
            "connections", "Clients' connections, without a request and with one.", "state"
        )
        connections.add_metric(["idle"], now.connections.idle)
        connections.add_metric(["busy"], now.connections.busy)
        yield connections
        yield _single(
            "connections_limit",
            "MAX_CONNECTIONS, or fewer if the process may not open files for so many.",
            now.connections.limit,
        )
        calls = _gauge("calls", "Calls with a client, without one, and kept ones.", "state")
        calls.add_metric(["running"], now.calls.running)
        calls.add_metric(["left"], now.calls.left)
        calls.add_metric(["kept"], now.calls.kept)
        yield calls
        yield _single("calls_kept_bytes", "Bytes of kept answers on disk.", now.calls.kept_bytes)
        yield _single(
            "slots_shared",
            "1 while all processes count slots, and calls of keys and owners, together; 0 while "
            "this one counts alone.",
            now.slots_shared,
        )
        yield _single(
            "slots_without_lock",
            "Places of running calls that other processes should see and do not.",
            now.slots_without_lock,
        )
        yield _single(
            "bytes_in_flight",
            "Bytes of requests and responses in memory and on disk.",
            now.bytes_in_flight,
        )
        yield _single(
            "control_plane_up", "0 while the control plane cannot be read.", now.control_plane_up
        )
        yield _single("notify", "1 while changes arrive at once, by NOTIFY.", now.notify)
        if now.grant_age_seconds is not None:
            yield _single(
                "grant_age_seconds", "Seconds since the accounts were read.", now.grant_age_seconds
            )
        lags = _gauge(
            "loop_lag_seconds",
            "The longest that the event loop was late in the last minute, by the phase of the "
            "request at work.",
            "phase",
        )
        for name, seconds in now.loop_lags.items():
            lags.add_metric([name], seconds)
        yield lags
        lost = CounterMetricFamily(
            f"{_PREFIX}log_records_lost", "Log records that could not be written."
        )
        lost.add_metric([], now.log_records_lost)
        yield lost
        yield _single(
            "start_time_seconds", "Start of the process, in seconds since 1970.", now.since
        )
        build = _gauge("build_info", "1, with the version as a label.", "version")
        build.add_metric([now.version], 1)
        yield build


def _status(status: int | None) -> str:
    """The status as a label; one that HTTP does not define becomes its class, such as ``4xx``."""
    if status is None:
        return ""
    return str(status) if status in _STATUSES else f"{status // 100}xx"


def _gauge(name: str, help_text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, help_text, labels=labels)


def _single(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    gauge = _gauge(name, help_text)
    gauge.add_metric([], value)
    return gauge
