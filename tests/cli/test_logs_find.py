"""``image-gateway logs find``: the record of one request."""

import json
from pathlib import Path

from tests.cli.conftest import Ask, Fail, drawn, rows


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


def test_a_record_that_is_in_no_file_is_a_failure(logs: Path, fail: Fail) -> None:
    told = fail("find", "req_9", "--dir", logs)
    assert told == (1, "image-gateway: no record of req_9 in 3 files\n")
