"""The targets of fuzzing: a name, and a check that raises for an input that breaks a promise."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.fuzz import (
    fuzz_answers,
    fuzz_calls,
    fuzz_events,
    fuzz_faults,
    fuzz_headers,
    fuzz_json,
    fuzz_multipart,
    fuzz_requests,
    fuzz_signals,
)

Check = Callable[[bytes], None]

TARGETS: Final[Mapping[str, Check]] = {
    "answers": fuzz_answers.check,
    "calls": fuzz_calls.check,
    "events": fuzz_events.check,
    "faults": fuzz_faults.check,
    "headers": fuzz_headers.check,
    "json": fuzz_json.check,
    "multipart": fuzz_multipart.check,
    "requests": fuzz_requests.check,
    "signals": fuzz_signals.check,
}

CORPUS: Final = Path(__file__).parent / "corpus"


def corpus(name: str) -> list[Path]:
    """The committed inputs of a target: seeds written by hand, and what was found."""
    return sorted(path for path in CORPUS.joinpath(name).iterdir() if path.is_file())
