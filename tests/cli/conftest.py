"""Log files with records in them, and the ``logs`` commands run on them in this process."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from image_gateway.__main__ import main
from image_gateway.core.records.record import AttemptRecord, Record

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def drawn(number: int, **facts: Any) -> dict[str, Any]:
    """The daemon's record of a call that made a picture, ``number`` seconds after noon."""
    made: dict[str, Any] = {
        "key_id": "key-1",
        "key_name": "Ann",
        "model": "gpt-image-2",
        "status": 200,
        "account_name": "account-1",
        "attempts": (AttemptRecord("account-1", "codex", "answer", 200, None, "deliver", 12_345),),
        "request_bytes": 1_000,
        "response_bytes": 2_000_000,
        "response_image_count": 1,
        "usage": {
            "input_tokens": 50,
            "input_tokens_details": {"text_tokens": 50, "image_tokens": 0},
            "output_tokens": 4_000,
            "total_tokens": 4_050,
        },
        "usage_text": {"input_tokens": 900, "output_tokens": 90, "total_tokens": 990},
        "cost_usd": 0.12025,
        "total_ms": 12_400,
    }
    time = NOON + timedelta(seconds=number)
    return Record(time, **{"request_id": f"req_{number}", **made, **facts}).as_json()


def found(number: int, by: int, **facts: Any) -> dict[str, Any]:
    """The record of a request that got the answer of the call that request ``by`` started."""
    call = {"call_id": "c0ffee", "call_source": "joined", "call_request_id": f"req_{by}"}
    nothing = dict.fromkeys(("account_name", "usage", "usage_text", "cost_usd"))
    return drawn(number, **{**nothing, **call, "attempts": (), **facts})


def refused(number: int, **facts: Any) -> dict[str, Any]:
    """The record of a call that was refused."""
    nothing = dict.fromkeys(
        ("account_name", "response_image_count", "usage", "usage_text", "cost_usd")
    )
    nothing["response_bytes"] = None
    refusal = {"status": 429, "error_code": "key_concurrency", "total_ms": 3, "attempts": ()}
    return drawn(number, **{**nothing, **refusal, **facts})


def write(path: Path, *records: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records), "utf-8")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """The folder above two instances, with four calls in three files."""
    folder = tmp_path / "logs"
    write(folder / "blue" / "requests-20261121T120100Z-0001.jsonl", drawn(0))
    write(folder / "blue" / "requests.jsonl", drawn(100, total_ms=20_000), refused(200))
    write(folder / "green" / "requests.jsonl", drawn(150, key_id="key-2", key_name="Bea"))
    return folder


Ask = Callable[..., str]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run ``image-gateway logs WORDS`` here; gives stdout where it ends well and complains not."""

    def run(*words: object) -> str:
        code = main(["logs", *map(str, words)])
        said = capsys.readouterr()
        assert (code, said.err) == (0, "")
        return said.out

    return run


Fail = Callable[..., tuple[int, str]]


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Fail:
    """The same where it does not end well and has no result; gives the exit code and stderr."""

    def run(*words: object) -> tuple[int, str]:
        try:
            code = main(["logs", *map(str, words)])
        except SystemExit as end:
            code = int(str(end.code))
        said = capsys.readouterr()
        assert said.out == ""
        return code, said.err

    return run


def rows(text: str) -> dict[str, list[str]]:
    """The lines of a text by their first word."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
