"""``image-gateway logs``: what an operator asks the log records, and what a program gets."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_gateway.__main__ import main
from image_gateway.cli import log_files, output
from image_gateway.core.records import record
from image_gateway.core.records.record import AttemptRecord
from tests.cli.conftest import Ask, Fail, drawn, found, rows, write
from tests.daemon.conftest import Door, open_door
from tests.parts.examples import scaled
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream

STATS = {
    *("calls", "errors", "p50_ms", "p90_ms", "p99_ms", "request_bytes", "response_bytes"),
    *("input_tokens", "output_tokens", "text_input_tokens", "text_output_tokens", "total_tokens"),
    *("images", "cost_usd"),
}
LOGS = (sys.executable, "-m", "image_gateway", "logs")


def command(*words: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``image-gateway logs WORDS`` as a process."""
    return subprocess.run(
        [*LOGS, *map(str, words)],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
        timeout=60,
    )


# -- summary ---------------------------------------------------------------------------------------


def test_the_summary_is_over_all_files_of_both_instances(logs: Path, ask: Ask) -> None:
    first, *tables = ask("summary", "--dir", logs).split("\n\n")
    assert first == "4 calls, 1 error, from 2026-11-21 12:00:00 to 2026-11-21 12:03:20 UTC"
    assert [table.split()[0] for table in tables] == ["key", "account", "model", "outcome"]
    keys, accounts, _, outcomes = map(rows, tables)
    # calls, errors, seconds, bytes, tokens of pictures, of the main model, of both, images, cost
    assert " ".join(keys["key-1"]) == (
        "Ann 3 1 12.4 20.1 20.1 3,000 4,000,000 100 8,000 1,800 180 10,080 2 0.240500"
    )
    assert keys["key-2"][:2] == ["Bea", "1"]
    assert accounts["account-1"][0] == "3"
    assert accounts["(none)"][0] == "1"
    assert " ".join(outcomes["key_concurrency"]) == "1 1 0.0 0.0 0.0 1,000 0 0 0 0 0 0 0 -"
    assert outcomes["(all)"][:2] == ["4", "1"]


def test_the_summary_for_programs_has_its_keys_and_numbers(logs: Path, ask: Ask) -> None:
    told = json.loads(ask("summary", "--json", "--dir", logs))
    assert list(told) == [
        *("since", "until", "files", "skipped_lines", "first", "last", "already_paid"),
        *("total", "tables"),
    ]
    assert (told["since"], told["until"]) == (None, None)
    assert (told["files"], told["skipped_lines"]) == (3, 0)
    assert (told["first"], told["last"]) == ("2026-11-21T12:00:00Z", "2026-11-21T12:03:20Z")
    assert set(told["total"]) == STATS
    assert list(told["tables"]) == ["key", "account", "model", "outcome"]
    for name, table in told["tables"].items():
        assert set(table) == {"rows", "others"}
        own = {"name", "key_name"} if name == "key" else {"name"}
        assert all(set(row) == STATS | own for row in table["rows"])
    assert told["tables"]["key"]["rows"][0] == {
        "name": "key-1",
        "key_name": "Ann",
        "calls": 3,
        "errors": 1,
        "p50_ms": 12_352,
        "p90_ms": 20_096,
        "p99_ms": 20_096,
        "request_bytes": 3_000,
        "response_bytes": 4_000_000,
        "input_tokens": 100,
        "output_tokens": 8_000,
        "text_input_tokens": 1_800,
        "text_output_tokens": 180,
        "total_tokens": 10_080,
        "images": 2,
        "cost_usd": 0.2405,
    }


def test_answers_of_calls_that_were_paid_for_have_a_line_of_their_own(logs: Path, ask: Ask) -> None:
    before = json.loads(ask("summary", "--json", "--dir", logs))
    write(logs / "green" / "requests-20261121T120500Z-0001.jsonl", found(160, by=0))
    lines = ask("summary", "--dir", logs).splitlines()
    assert lines[0].startswith("5 calls, 1 error, ")
    assert lines[1] == "1 request came to a call that was already paid for"
    after = json.loads(ask("summary", "--json", "--dir", logs))
    assert (before["already_paid"], after["already_paid"]) == (0, 1)
    for figure in ("images", "total_tokens", "cost_usd"):
        assert after["total"][figure] == before["total"][figure]
    write(logs / "green" / "requests-20261121T120600Z-0001.jsonl", found(161, by=0))
    lines = ask("summary", "--dir", logs).splitlines()
    assert lines[1] == "2 requests came to calls that were already paid for"


def test_the_summary_is_by_what_was_asked_for(logs: Path, ask: Ask) -> None:
    told = json.loads(ask("summary", "--json", "--by", "outcome", "key", "--dir", logs))
    assert list(told["tables"]) == ["outcome", "key"]


def test_the_window_holds_its_start_and_not_its_end(logs: Path, ask: Ask) -> None:
    """Across time zones, and without the file that was sealed long before."""
    window = ["--since", "2026-11-21T13:01:40+01:00", "--until", "2026-11-21T12:03:20"]
    told = json.loads(ask("summary", "--json", *window, "--dir", logs))
    assert told["total"]["calls"] == 2
    assert (told["since"], told["until"]) == ("2026-11-21T12:01:40Z", "2026-11-21T12:03:20Z")
    late = json.loads(ask("summary", "--json", "--since", "2026-11-21T14:00", "--dir", logs))
    assert (late["total"]["calls"], late["files"]) == (0, 2)


def test_a_span_goes_back_from_now(logs: Path, ask: Ask) -> None:
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    write(logs / "green" / "requests.jsonl", drawn(0) | {"time": hour_ago})
    told = [json.loads(ask("usage", "--json", "--since", t, "--dir", logs)) for t in ("50m", "2h")]
    assert [len(each["keys"]) for each in told] == [0, 1]


def test_no_call_in_the_window_is_no_failure(logs: Path, ask: Ask) -> None:
    assert ask("summary", "--until", "2020-01-01", "--dir", logs) == "no calls\n"
    assert ask("usage", "--until", "2020-01-01", "--dir", logs) == "no usage\n"


@settings(max_examples=scaled(50))
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 10**6)), max_size=12),
    st.lists(st.integers(0, 5), min_size=12, max_size=12),
)
def test_any_split_into_files_tells_the_same(calls: list[tuple[str, int]], at: list[int]) -> None:
    made = [drawn(n, key_id=key, total_ms=ms) for n, (key, ms) in enumerate(calls)]
    names = [
        *(f"{color}/requests-2026112{day}T120000Z-0001.jsonl" for color in "bg" for day in "12"),
        "b/requests.jsonl",
        "g/requests.jsonl",
    ]

    def told(*parts: list[dict[str, Any]]) -> Any:
        with tempfile.TemporaryDirectory() as folder, io.StringIO() as said:
            for name, part in zip(names, parts, strict=False):
                write(Path(folder) / name, *part)
            with contextlib.redirect_stdout(said):
                assert main(["logs", "summary", "--json", "--dir", folder]) == 0
            found = json.loads(said.getvalue())
        del found["files"]
        return found

    split = [[each for each, part in zip(made, at, strict=False) if part == n] for n in range(6)]
    assert told(made) == told(*split)


def test_what_a_terminal_would_obey_is_shown_escaped(logs: Path, ask: Ask, fail: Fail) -> None:
    """In every place that a record's text comes to."""
    evil = "\x1b[31mred\x9b\u202e\n"
    facts = dict.fromkeys(("key_name", "account_name", "model", "error_code", "key_id"), evil)
    attempt = AttemptRecord(evil, evil, evil)
    odd = {"path": [evil], evil: evil, "usage": {evil: 1}, "request_id": "req_evil"}
    write(logs / "green" / "requests.jsonl", drawn(0, **facts, attempts=[attempt]) | odd)
    said = [ask(*words, "--dir", logs) for words in (["summary"], ["usage"], ["find", "req_evil"])]
    for text in said:
        assert "\\x1b[31mred\\x9b\\u202e\\n" in text
        assert text.replace("\n", "").isprintable()
    _, complaint = fail("find", evil.strip(), "--dir", logs)
    assert "no record of \\x1b[31mred\\x9b\\u202e in 3 files" in complaint


@pytest.mark.slow
def test_a_name_that_the_terminal_has_no_letters_for_is_shown_all_the_same(logs: Path) -> None:
    write(logs / "green" / "requests.jsonl", drawn(300, key_name="Zoë 雪"))
    done = command("summary", "--dir", logs, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Zo\xeb \\u96ea" in done.stdout


def test_what_is_no_record_is_counted_on_stderr(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (logs / "green" / "requests.jsonl").open("a") as file:
        file.write('{"no": "time"}\n{"cut')
    assert main(["logs", "summary", "--json", "--dir", str(logs)]) == 0
    said = capsys.readouterr()
    assert said.err == "image-gateway: skipped 2 lines without a record\n"
    assert json.loads(said.out)["skipped_lines"] == 2
    assert json.loads(said.out)["total"]["calls"] == 4


# -- where and when --------------------------------------------------------------------------------


def test_the_folder_is_the_settings(logs: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGS_DIRECTORY", str(logs / "blue"))
    assert json.loads(ask("summary", "--json"))["files"] == 2
    monkeypatch.setenv("IMAGE_GATEWAY_LOG_DIR", str(logs))
    assert json.loads(ask("summary", "--json"))["files"] == 3


@pytest.fixture
def elsewhere(logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without logs to be in, and an installed gateway with some."""
    monkeypatch.setattr(log_files, "INSTALLED", logs)
    monkeypatch.delenv("LOGS_DIRECTORY", raising=False)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.usefixtures("elsewhere")
def test_where_nothing_is_set_and_nothing_lies_here_the_installed_ones_are_read(ask: Ask) -> None:
    assert ask("find", "req_0")


def test_what_lies_here_goes_before_the_installed_ones(elsewhere: Path, ask: Ask) -> None:
    write(elsewhere / "logs" / "requests.jsonl", drawn(7))
    assert json.loads(ask("summary", "--json"))["total"]["calls"] == 1


@pytest.mark.usefixtures("elsewhere")
def test_a_folder_that_is_set_is_never_replaced(
    monkeypatch: pytest.MonkeyPatch, fail: Fail
) -> None:
    monkeypatch.setenv("IMAGE_GATEWAY_LOG_DIR", "/nowhere")
    code, complaint = fail("usage")
    assert code == 1
    assert "no log files in /nowhere," in complaint


def test_folders_without_log_files_are_named(tmp_path: Path, fail: Fail) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    code, complaint = fail("summary", "--dir", one, "--dir", tmp_path)
    assert code == 1
    assert f"no log files in {one}, {tmp_path}, or" in complaint
    told = fail("summary", "--dir", one, "--dir", two)
    assert told == (1, f"image-gateway: no such folder: {two}\n")


EVIL = "\x1b[2J\nred\u202e"
HARMLESS = r"\x1b[2J\nred\u202e"


def test_what_cannot_be_read_is_named_without_what_a_terminal_would_obey(
    tmp_path: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / EVIL).write_text("no folder")
    monkeypatch.setenv("IMAGE_GATEWAY_LOG_DIR", str(tmp_path / EVIL))
    code, complaint = fail("summary")
    assert code == 1
    [line] = complaint.splitlines()
    assert line.startswith(f"image-gateway: {tmp_path}/{HARMLESS}: ")


def test_folders_are_named_without_what_a_terminal_would_obey(tmp_path: Path, fail: Fail) -> None:
    told = fail("usage", "--dir", tmp_path / EVIL)
    assert told == (1, f"image-gateway: no such folder: {tmp_path}/{HARMLESS}\n")
    (tmp_path / EVIL).mkdir()
    code, complaint = fail("usage", "--dir", tmp_path / EVIL)
    assert code == 1
    assert complaint.startswith(f"image-gateway: no log files in {tmp_path}/{HARMLESS},")


def test_a_link_that_leads_in_a_circle_and_a_deep_line_do_no_harm(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (logs / "blue" / "requests-20261121T120200Z-0001.jsonl").symlink_to(
        "requests-20261121T120200Z-0001.jsonl"
    )
    with (logs / "green" / "requests.jsonl").open("a") as file:
        file.write('{"request_id": "deep", "model": ' + '{"a":' * 900 + "1" + "}" * 901 + "\n")
    for words in (["find", "deep"], ["find", "deep", "--json"]):
        assert main(["logs", *words, "--dir", str(logs)]) == 1
        said = capsys.readouterr()
        assert "skipped 1 line without" in said.err
        assert "no record of deep in 3 files" in said.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["summary", "--since", "lately"], "--since: must be a time such as 2026-11-21"),
        (["usage", "--until", "7 days"], "--until: must be a time such as 2026-11-21"),
        (["usage", "--since", "1h", "--until", "2h"], "--since must be before --until"),
        (["summary", "--by", "size"], "invalid choice: 'size'"),
        (["find"], "required: ID"),
        ([], "REPORT"),
    ],
)
def test_wrong_usage_exits_with_64_and_says_what_would_be_right(
    fail: Fail, words: list[str], told: str
) -> None:
    code, complaint = fail(*words)
    assert code == 64
    assert told in complaint


def test_a_setting_that_cannot_be_used_exits_with_64(
    fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE_GATEWAY_LOG_DIR", " ")
    code, complaint = fail("usage")
    assert code == 64
    assert "IMAGE_GATEWAY_LOG_DIR must be text" in complaint


# -- terminals and pipes ---------------------------------------------------------------------------


@pytest.fixture
def many_keys(tmp_path: Path) -> Path:
    """Calls of so many keys that no pipe holds a summary by key."""
    write(tmp_path / "requests.jsonl", *(drawn(n, key_id=f"key-{n:05}") for n in range(5_000)))
    return tmp_path


def start(*words: object, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    # Under nohup and the like SIGINT would be ignored from the start.
    return subprocess.Popen(
        ["/usr/bin/env", "--default-signal=INT", *LOGS, *map(str, words)],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_a_reader_that_leaves_ends_it_quietly(many_keys: Path) -> None:
    with start("summary", "--dir", many_keys) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().startswith(b"5,000 calls")
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(60) == 141


@pytest.mark.slow
def test_a_reader_that_was_gone_before_ends_it_quietly_too(logs: Path) -> None:
    """Though all there is to say would still fit into the buffer."""
    reader, writer = os.pipe()
    os.close(reader)
    with start("usage", "--dir", logs, stdout=writer) as running:
        os.close(writer)
        assert running.stderr is not None
        assert running.stderr.read() == b""
        assert running.wait(60) == 141


@pytest.mark.slow
def test_ctrl_c_ends_it_without_a_trace(many_keys: Path) -> None:
    with start("summary", "--dir", many_keys) as running:
        assert running.stdout is not None
        # It is writing to a pipe that is full, or soon will be.
        assert running.stdout.readline().startswith(b"5,000 calls")
        running.send_signal(signal.SIGINT)
        _, complaints = running.communicate(timeout=60)
        assert (running.returncode, complaints) == (130, b"")


class Screen:
    """A terminal to write to, and what it was sent."""

    def __init__(self) -> None:
        outside, inside = os.openpty()
        self._outside = os.fdopen(outside, "rb", buffering=0)
        self.stderr = os.fdopen(inside, "w", encoding="utf-8")

    def shown(self) -> str:
        """What was written up to now, and is not more than a terminal holds."""
        self.stderr.write("\n")  # or there might be nothing to wait for
        self.stderr.flush()
        shown = b""
        while not shown.endswith(b"\r\n"):  # what is written comes through in pieces
            shown += self._outside.read(4096)
        return shown.decode().removesuffix("\r\n")

    def close(self) -> None:
        self.stderr.close()
        self._outside.close()


@pytest.fixture
def screen() -> Iterator[Screen]:
    made = Screen()
    yield made
    made.close()


def test_progress_is_told_to_a_terminal_and_cleared(
    logs: Path, ask: Ask, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(output, "_PROGRESS_SECONDS", 0.0)
    ask("summary", "--dir", logs)  # which holds that nothing else is told
    with contextlib.redirect_stderr(screen.stderr):
        ask("summary", "--dir", logs)
    shown = screen.shown()
    assert shown.count("\rreading: 0 of 0 MiB\033[K") == 4
    assert shown.endswith("MiB\033[K\r\033[K")


def test_a_short_reading_shows_no_progress(logs: Path, ask: Ask, screen: Screen) -> None:
    with contextlib.redirect_stderr(screen.stderr):
        ask("summary", "--dir", logs)
    assert screen.shown() == ""


# -- the daemon's own records ----------------------------------------------------------------------


async def test_the_calls_of_two_daemons_are_summed_up_found_and_counted(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    folder = tmp_path / "logs"
    doors: list[Door] = []
    for color in ("blue", "green"):
        gateway = make_gateway(plane.reader_url, log_dir=folder / color, log_max_file_bytes=1)
        doors.append(open_door(gateway.start(), plane, upstream, "codex"))
    ids = []
    for door in doors:
        for body in (b'{"prompt": "a red door"}', b'{"prompt": 5}', b'{"prompt": "another"}'):
            _, headers, _ = await door.post(body)
            ids.append(headers["x-request-id"])
        assert door.gateway.stop() == 0
    assert len(list(folder.rglob("requests-*.jsonl"))) >= 4

    told = json.loads(command("summary", "--json", "--dir", folder).stdout)
    assert (told["total"]["calls"], told["total"]["errors"]) == (6, 2)
    assert {row["name"]: row["calls"] for row in told["tables"]["key"]["rows"]} == {
        door.key_id: 3 for door in doors
    }
    assert {row["name"]: row["calls"] for row in told["tables"]["outcome"]["rows"]} == {
        "ok": 4,
        "invalid_type": 2,
    }
    assert told["total"]["p50_ms"] is not None
    used = json.loads(command("usage", "--json", "--dir", folder).stdout)
    assert [(row["requests_with_images"], row["images"]) for row in used["keys"]] == [(2, 2)] * 2
    for request_id in ids:
        found = json.loads(command("find", request_id, "--json", "--dir", folder).stdout)
        assert tuple(found) == record.FIELDS
        assert found["request_id"] == request_id
