"""Parts of bench/README.md that programs write, between marks that name them."""

import re
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


def write(name: str, words: str, page: Path = PAGE) -> None:
    page.write_text(with_part(page.read_text("utf-8"), name, words), "utf-8")


def _pattern(name: str) -> re.Pattern[str]:
    mark = re.escape(name)
    return re.compile(rf"<!-- {mark} -->\n\n(.*?)\n\n<!-- /{mark} -->", re.DOTALL)
