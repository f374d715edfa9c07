"""What every exchange shares: built once by ``app``, and closed by it."""

from dataclasses import dataclass, field

from image_gateway.config import Settings
from image_gateway.core.health import Health
from image_gateway.core.models import Catalogue
from image_gateway.core.slots import SlotTable, StartClock
from image_gateway.edge.control_plane import ControlPlane
from image_gateway.edge.logs import RequestLog
from image_gateway.edge.spool import Spools
from image_gateway.edge.upstream import Upstream


@dataclass(frozen=True)
class House:
    """Settings, resources, and what is counted over all requests."""

    settings: Settings
    catalogue: Catalogue
    control_plane: ControlPlane
    upstream: Upstream
    spools: Spools
    logs: RequestLog
    prompt_key: bytes = field(repr=False)
    key_slots: SlotTable = field(default_factory=SlotTable)
    account_slots: SlotTable = field(default_factory=SlotTable)
    starts: StartClock = field(default_factory=StartClock)
    health: Health = field(default_factory=Health)
