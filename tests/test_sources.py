"""What the tracked files cite can be found in the repository."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
OWN = Path(__file__).relative_to(ROOT).as_posix()
FACTS = "image_gateway/core/dialects/README.md"

PRIVATE_NOTES = re.compile(
    r"\b(?:API_CONTRACT|PITFALLS|DESIGN|HOUSE|STYLE\.md|WORLD|CALLS\.md|PERFORMANCE|PLANES\.md)\b"
)
HOME_OF_SOMEBODY = re.compile(r"(?<![\w.$}*-])/(?:home|root|Users|work|workspace|tmp/\w)/")
DOCUMENT = re.compile(r"(?<![\w*{}])[\w./-]*\b\w+\.md\b")
CITED_SECTIONS = re.compile(r'README\.md(?:``)?(?: in this folder)?, ("[^"]+"(?: and "[^"]+")?)')


def tracked() -> dict[str, str]:
    """The text of every tracked file by its path."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    paths = listed.stdout.rstrip("\0").split("\0")
    return {path: (ROOT / path).read_text("utf-8") for path in paths if (ROOT / path).is_file()}


def test_no_file_cites_private_notes_or_the_folders_of_a_person() -> None:
    found = {
        (path, match[0])
        for path, text in tracked().items()
        if path != OWN
        for pattern in (PRIVATE_NOTES, HOME_OF_SOMEBODY)
        for match in pattern.finditer(text)
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


def test_every_section_that_a_source_cites_is_a_heading_of_the_facts() -> None:
    files = tracked()
    headings = set(re.findall(r"^## (.*)$", files[FACTS], re.MULTILINE))
    cited = {
        title
        for path, text in files.items()
        if path.startswith("image_gateway/core/") or path.startswith("image_gateway/exchange/")
        for match in CITED_SECTIONS.finditer(re.sub(r"\s*\n[#\s]*", " ", text))
        for title in re.findall(r'"([^"]+)"', match[1])
    }
    assert len(cited) >= 5
    assert cited <= headings
