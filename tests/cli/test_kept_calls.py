"""``image-gateway logs calls``: which calls of this machine run or are kept."""

import json
from pathlib import Path

import pytest

from image_gateway.__main__ import main
from image_gateway.cli import keep_dir as keep_dirs
from image_gateway.core.calls.model import CallState
from tests.cli.conftest import Ask, Fail, rows
from tests.edge.kept.parts import HEADERS, NOW, Clock, answer, files, identity, keep, opened

ROW = {
    *("call_id", "request_id", "endpoint", "state", "status", "error_code", "error_source"),
    *("began", "ended", "answer_bytes", "client", "expires"),
}


@pytest.fixture
async def kept(tmp_path: Path) -> Path:
    """A folder with four calls whose processes have stopped."""
    folder = tmp_path / "calls"
    async with opened(folder, Clock(NOW)) as store:
        await keep(store, identity(1), answer(3_000_000))
        await keep(store, identity(2_000, endpoint="edits"), sent=False)
        with await store.begin(identity(4_000, name="ab" * 32)) as call:
            await call.end(CallState.MADE, 200, HEADERS, b"picture")
            await call.note_delivered()
        (await store.begin(identity(6_000))).close()
    return folder


def test_calls_are_listed_newest_first(kept: Path, ask: Ask) -> None:
    head, table = ask("calls", "--keep-dir", kept).split("\n\n")
    assert head == "4 calls, 0 running, 2.9 MiB"
    titles, *lines = table.splitlines()
    assert titles.split() == [
        *("call", "id", "request", "id", "endpoint", "state", "status", "began", "ended"),
        *("answer", "bytes", "client", "expires"),
    ]
    assert [line.split()[1] for line in lines] == ["req_6000", "req_4000", "req_2000", "req_1"]
    shown = rows("\n".join(lines))
    assert " ".join(shown[identity(1).call_id]) == (
        "req_1 generations made 200 2023-11-14 22:13:20 2023-11-14 22:13:20 3,000,000 sent "
        "2023-11-14 23:13:20"
    )
    assert shown[identity(2_000).call_id][1] == "edits"
    assert shown[identity(2_000).call_id][8:10] == ["7", "left"]
    assert shown[identity(4_000).call_id][9] == "delivered"
    assert " ".join(shown[identity(6_000).call_id]) == (
        "req_6000 generations unknown - 2023-11-14 22:13:26 - 0 left -"
    )


def test_a_program_gets_one_document(kept: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_GATEWAY_KEEP_SECONDS", "60")
    told = json.loads(ask("calls", "--json", "--keep-dir", kept))
    assert {name: value for name, value in told.items() if name != "calls"} == {
        "keep_dir": str(kept),
        "keep_seconds": 60.0,
        "total": 4,
        "running": 0,
        "disk_bytes": told["disk_bytes"],
        "skipped_files": 0,
    }
    assert told["disk_bytes"] >= 3_000_000
    assert all(set(call) == ROW for call in told["calls"])
    assert told["calls"][3] == {
        "call_id": identity(1).call_id,
        "request_id": "req_1",
        "endpoint": "generations",
        "state": "made",
        "status": 200,
        "error_code": None,
        "error_source": None,
        "began": "2023-11-14T22:13:20.001Z",
        "ended": "2023-11-14T22:13:20.000Z",
        "answer_bytes": 3_000_000,
        "client": "sent",
        "expires": "2023-11-14T22:14:20.000Z",
    }


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
def test_nothing_shows_that_a_call_is_found_by(kept: Path, ask: Ask, form: tuple[str, ...]) -> None:
    """Neither the tags of keys, requests and names, nor an answer or its headers."""
    told = ask("calls", *form, "--keep-dir", kept)
    call = identity(4_000, name="ab" * 32)
    for secret in (call.key_tag, call.fingerprint, str(call.name)):
        assert secret[:16] not in told
    assert "picture" not in told
    assert "application/json" not in told


async def test_it_works_while_an_instance_does(tmp_path: Path, ask: Ask) -> None:
    """And says whether a client is there, has gone, or comes back by the call's id."""
    folder = tmp_path / "calls"
    async with opened(folder, Clock(NOW)) as store:
        with (
            await store.begin(identity(1)),
            await store.begin(identity(2)) as left,
            await store.begin(identity(3, has_id=True)) as submitted,
        ):
            left.note_left()
            await submitted.note_given()
            before = files(folder)
            told = json.loads(ask("calls", "--json", "--keep-dir", folder))
            assert files(folder) == before
            assert (told["total"], told["running"]) == (3, 3)
            assert [call["client"] for call in told["calls"]] == ["has-id", "left", "connected"]
            assert {call["state"] for call in told["calls"]} == {"running"}
            assert {call["expires"] for call in told["calls"]} == {None}


def test_a_limit_shows_the_newest_and_counts_all(kept: Path, ask: Ask) -> None:
    told = json.loads(ask("calls", "--json", "--limit", 2, "--keep-dir", kept))
    assert told["total"] == 4
    assert [call["request_id"] for call in told["calls"]] == ["req_6000", "req_4000"]
    assert ask("calls", "--limit", 2, "--keep-dir", kept).startswith(
        "4 calls, 0 running, 2.9 MiB; the newest 2\n"
    )
    everything = json.loads(ask("calls", "--json", "--limit", 0, "--keep-dir", kept))
    assert len(everything["calls"]) == 4


def test_the_folder_is_that_of_the_settings_or_of_the_installed_instances(
    kept: Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMAGE_GATEWAY_KEEP_DIR", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setattr(keep_dirs, "INSTALLED", kept)
    assert json.loads(ask("calls", "--json"))["keep_dir"] == str(kept)
    (tmp_path / "state" / "calls").mkdir(parents=True)
    assert ask("calls") == "no calls\n"
    monkeypatch.setenv("IMAGE_GATEWAY_STATE_DIR", str(tmp_path))
    assert json.loads(ask("calls", "--json"))["total"] == 4
    monkeypatch.setenv("IMAGE_GATEWAY_KEEP_DIR", str(tmp_path / "state" / "calls"))
    assert ask("calls") == "no calls\n"


def test_a_file_that_is_no_call_is_skipped_and_named(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (kept / "calls" / "call_cut").write_bytes(b"{")
    assert main(["logs", "calls", "--keep-dir", str(kept)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("4 calls, ")
    assert said.err == "image-gateway: skipped 1 file without a call\n"


def test_what_cannot_be_listed_is_said_with_its_exit_code(kept: Path, fail: Fail) -> None:
    missing = kept / "missing"
    assert fail("calls", "--keep-dir", missing) == (
        1,
        f"image-gateway: no such folder: {missing}; name it by --keep-dir\n",
    )
    code, said = fail("calls", "--keep-dir", kept.parent)
    assert (code, said) == (1, f"image-gateway: {kept.parent} is not a folder of kept calls\n")
    code, said = fail("calls", "--keep-dir", kept, "--limit", "-1")
    assert code == 64
    assert "must be a whole number, or 0" in said


def test_a_wrong_setting_is_said_with_its_exit_code(
    kept: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE_GATEWAY_KEEP_SECONDS", "soon")
    assert fail("calls", "--keep-dir", kept) == (
        64,
        "image-gateway: IMAGE_GATEWAY_KEEP_SECONDS must be a number of seconds, or 0\n",
    )
