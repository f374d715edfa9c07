"""What the README says is what the code does: every setting, code, field and path."""

import re
from pathlib import Path

from image_gateway import app, config
from image_gateway.core import capability, errors, record

README = Path(__file__).parents[1].joinpath("README.md").read_text("utf-8")


def section(title: str) -> str:
    """The text under a heading, up to the next one of the same level."""
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's first table, without its head."""
    table = re.findall(r"^\|(.*)\|$", section(title), re.MULTILINE)[2:]
    return [[cell.strip() for cell in row.split("|")] for row in table]


def test_every_setting_is_told_with_its_default_and_purpose() -> None:
    told = {
        name.strip("`"): (default.strip("`"), purpose)
        for name, default, purpose in rows("Settings")
    }
    known = {
        setting.name: (
            "required"
            if setting.required
            else setting.default or ("-" if setting.default is None else "none"),
            setting.purpose,
        )
        for setting in config.SETTINGS
    }
    assert told == known
    assert list(told) == list(known)


def test_every_setting_that_may_be_a_file_is_told() -> None:
    for setting in config.SETTINGS:
        if setting.secret:
            assert f"`{setting.name}`" in section("Settings").split("\n\n")[0]


def test_every_error_code_is_told_with_its_status_type_and_retry() -> None:
    told = {
        code.strip("`"): (status, kind.strip("`")) for code, status, kind, _ in rows("Error codes")
    }
    known = {
        code: (f"{kind.status}{'' if kind.retry else ' ✕'}", kind.type)
        for code, kind in errors.KINDS.items()
    }
    assert told == known
    assert f"`{errors.CLIENT_LEFT}`" in section("Error codes")


def test_every_field_of_the_record_is_told_in_order() -> None:
    told = re.findall(r"`(\w+)`", section("The log record").split("\n\n")[1])
    assert tuple(told) == record.FIELDS


def test_every_path_is_told() -> None:
    told = re.findall(r"^    (.*)$", section("Paths"), re.MULTILINE)
    assert sorted(" ".join(told).split()) == sorted((*app.PREFIXES, *app.RESPONSES))


def test_what_each_kind_of_account_can_do_is_told_as_the_code_has_it() -> None:
    head = re.findall(r"^\| needed \|(.*)\|$", README, re.MULTILINE)[0]
    assert [name.strip() for name in head.split("|")] == list(capability.Route)
    told = rows("What each kind of account can do")[: len(capability.NEEDS)]
    known = [
        [need.title, *("✓" if route in need.able else "-" for route in capability.Route)]
        for need in capability.NEEDS
    ]
    assert told == known


def test_what_happens_when_something_fails_is_told_and_each_line_has_its_test() -> None:
    tests = Path(__file__).parent.joinpath("daemon/test_failures.py").read_text("utf-8")
    told = [cells[-1].strip("`") for cells in rows("When something fails")]
    assert told == re.findall(r"^async def (test_\w+)", tests, re.MULTILINE)
