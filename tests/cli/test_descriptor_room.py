"""Whether MAX_CONNECTIONS fits the limit of open files, as ``image-gateway check`` tells it."""

import pytest

from image_gateway import config
from image_gateway.cli import descriptor_room
from image_gateway.edge import descriptors


@pytest.mark.parametrize(
    ("allowed", "line"),
    [
        (None, "skipped: the limit of open files is not known"),
        (200, "ok: MAX_CONNECTIONS 20 needs 196 open files, and this process may have 200"),
        (195, "warning: MAX_CONNECTIONS 20 needs 196 open files, and this process may have 195"),
    ],
)
def test_what_this_process_may_open_is_compared(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    allowed: int | None,
    line: str,
) -> None:
    monkeypatch.setattr(descriptors, "limit", lambda: allowed)
    named = {"CONTROL_DATABASE_URL": "postgresql://localhost/none", "MAX_CONNECTIONS": "20"}
    environment = {f"IMAGE_GATEWAY_{name}": value for name, value in named.items()}
    descriptor_room.check(config.parse(environment, lambda path: path.read_text("utf-8")))
    assert capsys.readouterr().out.startswith(line)
