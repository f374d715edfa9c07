"""Fuzz the targets for some minutes each, one after the other, and say what was found.

``python -m tests.fuzz.run [TARGET|all] [MINUTES]``; see ``scripts/fuzz``.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.fuzz.targets import CORPUS, TARGETS

PROJECT: Final = Path(__file__).parents[2]
FOUND: Final = PROJECT / ".fuzz"
"""Inputs that reach new code, and those that break a promise, by target."""
INPUT_SECONDS: Final = 10
"""An input that takes longer breaks a promise, too: the slowest takes some milliseconds."""
MEMORY_MIB: Final = 1024
INPUT_BYTES: Final = 4096
DEFAULT_MINUTES: Final = 2.0


def main(arguments: list[str]) -> int:
    """Fuzz; return 1 if something was found."""
    target = arguments[0] if arguments else "all"
    names = list(TARGETS) if target == "all" else [target]
    try:
        minutes = float(arguments[1]) if len(arguments) > 1 else DEFAULT_MINUTES
    except ValueError:
        minutes = 0.0
    if len(arguments) > 2 or minutes <= 0 or not set(names) <= TARGETS.keys():
        print(f"usage: scripts/fuzz [TARGET|all] [MINUTES]\ntargets: {', '.join(TARGETS)}")
        return 64
    found = [fuzz(name, minutes) for name in names]
    for name, (runs, crashes) in zip(names, found, strict=True):
        print(f"{name}: {runs} runs, {len(crashes)} broken promises")
        for crash in crashes:
            print(f"  {crash}\n  reproduce: .venv/bin/python -m tests.fuzz {name} {crash}")
    return int(any(crashes for _, crashes in found))


def fuzz(name: str, minutes: float) -> tuple[int, list[Path]]:
    """One target until the time is up or a promise is broken: the runs, and what broke it."""
    inputs, crashes = FOUND / name / "inputs", FOUND / name / "crashes"
    inputs.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(exist_ok=True)
    before = set(crashes.iterdir())
    log = FOUND / name / "log"
    command = [
        *(sys.executable, "-m", "tests.fuzz.instrumented", name),
        f"-max_total_time={minutes * 60:.0f}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={INPUT_BYTES}",
        f"-artifact_prefix={crashes}/",
        f"-dict={CORPUS.with_name('words.dict')}",
        "-print_final_stats=1",
        *(str(inputs), str(CORPUS / name)),
    ]
    print(f"{name}: {minutes:g} min, log in {log.relative_to(PROJECT)}", flush=True)
    with log.open("wb") as file:
        code = subprocess.run(
            command, cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    text = log.read_text("utf-8", "replace")
    runs = re.search(r"stat::number_of_executed_units: *(\d+)", text)
    new = sorted(set(crashes.iterdir()) - before)
    if code != 0:
        print(text[-3000:])
        if not new:
            raise SystemExit(f"{name}: the fuzzer failed; see {log}")
    return int(runs[1]) if runs else 0, [path.relative_to(PROJECT) for path in new]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
