"""How many calls have room in Postgres's lock table, as ``image-gateway check`` tells it."""

from collections.abc import Callable

import pytest

from image_gateway import config
from image_gateway.cli import lock_room
from image_gateway.core.routing import lock_table
from tests.parts.plane import Plane

Told = Callable[..., str]


@pytest.fixture
def told(plane: Plane, capsys: pytest.CaptureFixture[str]) -> Told:
    """What it says with these settings."""

    def tell(**settings: str) -> str:
        values = {"control_database_url": plane.reader_url, **settings}
        named = {f"IMAGE_GATEWAY_{name.upper()}": value for name, value in values.items()}
        lock_room.check(config.parse(named, lambda path: path.read_text("utf-8")))
        return capsys.readouterr().out

    return tell


@pytest.fixture
def size(plane: Plane) -> int:
    [(per_session, sessions)] = plane.ask(
        "SELECT current_setting('max_locks_per_transaction')::int,"
        " current_setting('max_connections')::int"
    )
    return int(per_session * sessions)


def test_the_size_the_share_and_the_calls_are_told(told: Told, size: int) -> None:
    assert told() == (
        f"ok: Postgres's lock table holds {size} locks, of which the gateways take up to "
        f"{size // 2}: enough for {size // 6} calls at once, each with a lock for its account, its "
        "key and its owner\n"
    )


@pytest.mark.parametrize(("calls", "word"), [(199, "warning"), (200, "ok")])
def test_room_for_fewer_than_200_calls_is_warned_of(
    told: Told, size: int, monkeypatch: pytest.MonkeyPatch, calls: int, word: str
) -> None:
    monkeypatch.setattr(lock_table, "SHARE", (calls * 3 + 0.5) / size)
    line = told()
    assert line.startswith(f"{word}: Postgres's lock table")
    assert f"enough for {calls} calls" in line
    assert ("raise max_locks_per_transaction" in line) is (word == "warning")


def test_a_process_that_counts_alone_needs_no_locks(told: Told) -> None:
    assert told(slots="process") == ""


def test_a_postgres_that_does_not_answer_is_told(told: Told) -> None:
    line = told(direct_database_url="postgresql://nobody:hush@127.0.0.1:1/none")
    assert line.startswith("warning: the size of Postgres's lock table cannot be read: ")
    assert "hush" not in line
