"""The project's README pages, as texts to be compared with the code."""

import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
_FOLDERS = ("", "bench/", "caddy/", "image_gateway/**/", "scripts/", "systemd/", "tests/")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Page:
    """One README; ``name`` is its path below the project."""

    name: str

    @property
    def path(self) -> Path:
        return PROJECT / self.name

    @property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def headings(self) -> list[tuple[int, str]]:
        """Every heading with its level, without what only looks like one in a block of code."""
        prose = _FENCED.sub("", self.text)
        found = re.findall(r"^(#+) (.*)$", prose, re.MULTILINE)
        return [(len(signs), title) for signs, title in found]

    @property
    def anchors(self) -> set[str]:
        """What a link to a heading may name after its ``#``."""
        titles = [title.lower() for _, title in self.headings]
        return {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles}

    def section(self, title: str) -> str:
        """The text under a heading, up to the next one of its level or above."""
        [level] = [level for level, each in self.headings if each == title]
        text = self.text.split(f"\n{'#' * level} {title}\n", 1)[1]
        return re.split(rf"^#{{2,{level}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]

    def rows(self, title: str) -> list[list[str]]:
        """The cells of a section's first table, without its head."""
        return self.table(title)[1:]

    def table(self, title: str) -> list[list[str]]:
        """The cells of a section's first table, its head first."""
        [table] = re.findall(
            r"\A(?:(?!^\|).*\n)*((?:\|.*\|\n)+)", self.section(title), re.MULTILINE
        )
        head, _, *rows = table.splitlines()
        return [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in (head, *rows)
        ]

    def blocks(self) -> list[str]:
        """What the page has somebody type into a shell, in order."""
        return re.findall(r"^```sh\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)


FRONT = Page("README.md")
CALLS = Page("image_gateway/core/README.md")
COMMANDS = Page("image_gateway/cli/README.md")
CONTROL_PLANE = Page("image_gateway/sql/README.md")
DIALECT_FACTS = Page("image_gateway/core/dialects/README.md")
OPERATION = Page("systemd/README.md")
OPS = Page("image_gateway/ops/README.md")
SCRIPTS = Page("scripts/README.md")


def every_page() -> list[Page]:
    """All pages that the repository holds."""
    paths = [path for folder in _FOLDERS for path in PROJECT.glob(f"{folder}README.md")]
    paths += PROJECT.glob("image_gateway/sql/planes/*.md")
    return [Page(path.relative_to(PROJECT).as_posix()) for path in sorted(paths)]
