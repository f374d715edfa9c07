"""``image-gateway logs find``: the record of one request."""

import json
from pathlib import Path

import pytest

from image_gateway.__main__ import main
from tests.cli.conftest import Ask, Fail, drawn, found, rows, write


def test_find_shows_a_record_with_its_attempts(logs: Path, ask: Ask) -> None:
    """Fields without a value are left out, and no file is too old."""
    text, attempts = ask("find", "req_0", "--dir", logs).split("\n\n")
    shown = rows(text)
    assert shown["time"] == ["2026-11-21T12:00:00.000Z"]
    assert shown["response_bytes"] == ["2,000,000"]
    assert " ".join(shown["usage"]) == (
        "input_tokens 50, input_tokens_details (text_tokens 50, image_tokens 0), "
        "output_tokens 4,000, total_tokens 4,050"
    )
    assert shown["cost_usd"] == ["0.12025"]
    assert shown["client_left"] == ["false"]
    assert "error_code" not in shown
    title, heads, line = attempts.splitlines()
    assert title == "attempts"
    assert heads.split() == [
        *("account_name", "dialect", "stage", "status", "error_code", "action", "upstream_ms"),
        "reason",
    ]
    assert line.split() == ["account-1", "codex", "answer", "200", "-", "deliver", "12,345", "-"]


def test_find_gives_programs_the_record_as_it_was_written(logs: Path, ask: Ask) -> None:
    assert json.loads(ask("find", "req_150", "--json", "--dir", logs)) == drawn(
        150, key_id="key-2", key_name="Bea"
    )


def test_find_begins_with_the_newest_file(logs: Path, ask: Ask) -> None:
    """So it has nothing to complain of in those that it did not need."""
    (logs / "blue" / "requests-20261121T120100Z-0001.jsonl").write_text("cut\n", "utf-8")
    assert ask("find", "req_200", "--dir", logs)


def test_find_follows_a_request_to_the_one_that_started_its_call(logs: Path, ask: Ask) -> None:
    """In whatever file, older or newer, of the other instance, too."""
    write(logs / "green" / "requests.jsonl", found(150, by=0), found(151, by=100))
    for request_id, starter_id in (("req_150", "req_0"), ("req_151", "req_100")):
        own, line, starter, attempts = ask("find", request_id, "--dir", logs).split("\n\n")
        assert rows(own)["request_id"] == [request_id]
        assert rows(own)["call_request_id"] == [starter_id]
        assert "usage" not in rows(own)
        assert line == f"its call was started by {starter_id}, and was paid for there:"
        assert rows(starter)["request_id"] == [starter_id]
        assert "usage" in rows(starter)
        assert attempts.startswith("attempts\n")


def test_find_gives_programs_both_records(logs: Path, ask: Ask) -> None:
    made = drawn(150, call_id="c0ffee", call_source="made", call_request_id="req_150")
    write(logs / "green" / "requests.jsonl", found(151, by=150), made)
    told = json.loads(ask("find", "req_151", "--json", "--dir", logs))
    assert told == {**found(151, by=150), "call_request": made}
    assert json.loads(ask("find", "req_150", "--json", "--dir", logs)) == made
    # By the call's id, the first of its requests in the file.
    assert json.loads(ask("find", "c0ffee", "--json", "--dir", logs)) == told


def test_a_call_that_still_runs_has_no_record_to_follow(logs: Path, ask: Ask) -> None:
    write(logs / "green" / "requests.jsonl", found(151, by=150))
    told = ask("find", "req_151", "--dir", logs)
    assert told.endswith(
        "its call was started by req_150, which has no record yet, or none any more\n"
    )
    told = json.loads(ask("find", "req_151", "--json", "--dir", logs))
    assert told == {**found(151, by=150), "call_request": None}


def test_what_could_not_be_read_on_the_way_to_a_call_is_named(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its record may have been in there."""
    write(logs / "green" / "requests.jsonl", found(151, by=150))
    (logs / "blue" / "requests-20261121T120100Z-0001.jsonl").write_text("cut\n", "utf-8")
    assert main(["logs", "find", "req_151", "--dir", str(logs)]) == 0
    assert capsys.readouterr().err == "image-gateway: skipped 1 line without a record\n"


def test_a_record_that_is_in_no_file_is_a_failure(logs: Path, fail: Fail) -> None:
    told = fail("find", "req_9", "--dir", logs)
    assert told == (1, "image-gateway: no record of req_9 in 3 files\n")
