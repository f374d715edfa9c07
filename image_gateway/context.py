"""What every exchange shares: built once by ``app``, and closed by it."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from image_gateway.config import Settings
from image_gateway.core.records.prices import Prices
from image_gateway.core.records.status import CallTracker
from image_gateway.core.request.catalogue import Catalogue
from image_gateway.core.routing import ranking
from image_gateway.core.routing.budget import Budgets
from image_gateway.core.routing.cooldowns import CooldownTracker
from image_gateway.core.routing.outliers import OutlierTracker
from image_gateway.core.routing.plain_answers import PlainAnswers
from image_gateway.core.routing.slots import SlotTable, StartClock
from image_gateway.edge.client.connections import Connections
from image_gateway.edge.kept.store import KeptCalls
from image_gateway.edge.loop_watch import LoopWatch
from image_gateway.edge.metrics import Metrics
from image_gateway.edge.postgres.control_plane import ControlPlane
from image_gateway.edge.records.writer import RequestLog
from image_gateway.edge.slots.broker import SlotBroker
from image_gateway.edge.spool import Spools
from image_gateway.edge.upstream.http_client import UpstreamClient
from image_gateway.edge.upstream.text_api import TextApi


@dataclass(frozen=True)
class AppContext:
    """Settings, resources, and the counts over all requests."""

    settings: Settings
    catalogue: Catalogue
    prices: Prices
    control_plane: ControlPlane
    upstream: UpstreamClient
    spools: Spools
    kept: KeptCalls
    """The calls of this machine that others may ask for."""
    logs: RequestLog
    metrics: Metrics
    connections: Connections
    """The clients' connections to the image port."""
    slots: SlotBroker
    """The accounts' slots, and the places of keys and owners."""
    starts: StartClock
    text_api: TextApi | None
    """Gets the calls on the Responses paths that do not ask for a picture."""
    loop_watch: LoopWatch
    prompt_key: bytes = field(repr=False)
    key_visits: SlotTable = field(default_factory=SlotTable)
    """The keys' requests that send their bodies, or wait for a call that another one started."""
    key_polls: SlotTable = field(default_factory=SlotTable)
    """The keys' requests that wait for a call which they ask for by its id."""
    cooldowns: CooldownTracker = field(default_factory=CooldownTracker)
    outliers: OutlierTracker = field(default_factory=OutlierTracker)
    plain_answers: PlainAnswers = field(default_factory=PlainAnswers)
    budgets: Budgets = field(default_factory=Budgets)
    tracker: CallTracker = field(default_factory=CallTracker)
    """The calls in flight and those of the last hour."""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When the context was built."""

    def now(self) -> ranking.State:
        """The state that routing decides by, at this moment."""
        return ranking.State(
            self.slots.in_use,
            self.cooldowns,
            self.outliers,
            self.budgets,
            self.settings.budget_threshold_percent,
            time.monotonic(),
            datetime.now(UTC),
        )
