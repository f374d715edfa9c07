"""Parts of bench/README.md that programs write, between marks that name them."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from bench.peers import ROOT

PAGE = ROOT / "bench" / "README.md"
RESULTS = ROOT / "bench" / "results"


def part(text: str, name: str) -> str:
    """What stands between the marks of this name; raises ``ValueError`` without them."""
    found = _pattern(name).findall(text)
    if len(found) != 1:
        raise ValueError(f"the page needs one pair of marks <!-- {name} --> <!-- /{name} -->")
    return str(found[0])


def with_part(text: str, name: str, words: str) -> str:
    """The page with other words between these marks."""
    part(text, name)
    marked = f"<!-- {name} -->\n\n{words}\n\n<!-- /{name} -->"
    return _pattern(name).sub(lambda _: marked, text)


def publish(name: str, words: str, files: Mapping[str, Path]) -> None:
    """Write this part of the page, and keep the figures and the chart beside it."""
    RESULTS.mkdir(exist_ok=True)
    for kind, path in files.items():
        if kind != "md":
            shutil.copy(path, RESULTS)
    PAGE.write_text(with_part(PAGE.read_text("utf-8"), name, words), "utf-8")


def _pattern(name: str) -> re.Pattern[str]:
    mark = re.escape(name)
    return re.compile(rf"<!-- {mark} -->\n\n(.*?)\n\n<!-- /{mark} -->", re.DOTALL)
