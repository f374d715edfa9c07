"""What the tracked files cite can be found in the repository."""

import re
import subprocess
from pathlib import Path

from image_gateway.core.records.phases import Phase
from image_gateway.core.records.status import LABELS

ROOT = Path(__file__).parents[1]
OWN = Path(__file__).relative_to(ROOT).as_posix()

NUMBERED_SECTION = re.compile(r"\b[A-Z][A-Z_]{3,}(?:\.md)?,? sections? \d")
DOCUMENT = re.compile(r"(?<![\w*{}])[\w./-]*\b\w+\.md\b")
CITED_SECTIONS = re.compile(r'README\.md(?:``)?(?: in this folder)?, ("[^"]+"(?: and "[^"]+")?)')


def tracked() -> dict[str, str]:
    """The text of every tracked file by its path; pictures and fuzzers' inputs have none."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    paths = listed.stdout.rstrip("\0").split("\0")
    files = [
        path
        for path in paths
        if (ROOT / path).is_file()
        and not path.endswith(".png")
        and not path.startswith("tests/fuzz/corpus/")
    ]
    return {path: (ROOT / path).read_text("utf-8") for path in files}


def test_no_file_cites_a_numbered_section_of_another_document() -> None:
    found = {
        (path, match[0])
        for path, text in tracked().items()
        if path != OWN
        for match in NUMBERED_SECTION.finditer(text)
    }
    assert found == set()


def test_every_document_that_a_file_names_is_in_the_repository() -> None:
    files = tracked()
    known = {Path(path).name for path in files}
    found = {
        (path, match[0])
        for path, text in files.items()
        if path != OWN
        for match in DOCUMENT.finditer(text)
        if Path(match[0]).name not in known and "://" not in match[0]
    }
    assert found == set()


def test_every_section_that_a_source_cites_is_a_heading_of_a_page() -> None:
    files = tracked()
    pages = [text for path, text in files.items() if path.endswith("README.md")]
    headings = {title for text in pages for title in re.findall(r"^##+ (.*)$", text, re.MULTILINE)}
    cited = {
        title
        for path, text in files.items()
        if path.startswith("image_gateway/")
        for match in CITED_SECTIONS.finditer(re.sub(r"\s*\n[#\s]*", " ", text))
        for title in re.findall(r'"([^"]+)"', match[1])
    }
    assert len(cited) >= 5
    assert cited <= headings


def test_every_module_that_the_developers_page_names_is_there() -> None:
    page = ROOT / "image_gateway" / "README.md"
    named = set(re.findall(r"`([\w/.-]+(?:\.(?:py|sql|toml)|/))`", page.read_text("utf-8")))
    package = page.parent
    rows = re.findall(r"^\| `(\S+/)` \|.*\| `(\S+)` \|$", page.read_text("utf-8"), re.MULTILINE)
    firsts = {first for _, first in rows}
    missing = {
        name
        for name in named - firsts
        if not (package / name).exists() and not (ROOT / name).exists()
    }
    assert missing == set()
    assert [folder for folder, first in rows if not (package / folder / first).is_file()] == []


def test_the_developers_page_shows_the_phases() -> None:
    page = (ROOT / "image_gateway" / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\w*) \|$", page, re.MULTILINE)
    shown = [(name, label) for name, label in rows if name in set(Phase)]
    assert shown == [(phase, LABELS[phase]) for phase in Phase]
