"""Each target over its committed inputs and some hundreds of mutations of them."""

from pathlib import Path

import pytest

from tests.fuzz.mutations import mutated
from tests.fuzz.targets import CORPUS, TARGETS, Check, corpus

MUTATIONS = 300
"""Of each target; scripts/fuzz tries some millions, led by what of the code they reach."""
MOST_CORPUS_BYTES = 64 * 1024

INPUTS = [(name, path) for name in TARGETS for path in corpus(name)]


@pytest.mark.parametrize(
    ("name", "path"), INPUTS, ids=[f"{name}-{path.name}" for name, path in INPUTS]
)
def test_a_committed_input_breaks_no_promise(name: str, path: Path) -> None:
    TARGETS[name](path.read_bytes())


@pytest.mark.parametrize(("name", "check"), TARGETS.items(), ids=TARGETS)
def test_a_mutated_input_breaks_no_promise(name: str, check: Check) -> None:
    inputs = [path.read_bytes() for path in corpus(name)]
    assert inputs
    for data in mutated(inputs, MUTATIONS, seed=1):
        try:
            check(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, the input must be named
            pytest.fail(f"{name} breaks with {data!r}: {error!r}")


def test_the_corpus_is_small_and_each_of_its_folders_is_a_target() -> None:
    folders = {path.name for path in CORPUS.iterdir() if path.is_dir()}
    assert folders == TARGETS.keys()
    assert sum(path.stat().st_size for _, path in INPUTS) < MOST_CORPUS_BYTES
