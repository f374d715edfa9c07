"""What ``image-gateway check`` says of the limit of open files: whether MAX_CONNECTIONS fits."""

from image_gateway.cli.output import say
from image_gateway.config import Settings
from image_gateway.edge import descriptors


def check(settings: Settings) -> None:
    """Compare MAX_CONNECTIONS with what this process, and its children, may open."""
    allowed = descriptors.limit()
    if allowed is None:
        say("skipped: the limit of open files is not known or not set")
        return
    warning = descriptors.shortage(settings.max_connections, allowed)
    if warning is not None:
        say(f"warning: {warning}")
        return
    say(
        f"ok: MAX_CONNECTIONS {settings.max_connections} needs "
        f"{descriptors.needed(settings.max_connections)} open files, and this process may have "
        f"{allowed}"
    )
