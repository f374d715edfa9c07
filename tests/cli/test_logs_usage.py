"""``image-gateway logs usage``: what somebody bills from, in a table and for programs."""

import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from image_gateway.__main__ import main
from image_gateway.core.records import charges, totals
from image_gateway.core.records.charges import Charge
from image_gateway.core.records.record import AttemptRecord
from image_gateway.core.records.totals import DIMENSIONS, FIGURES
from image_gateway.edge.records import reader
from tests.cli.conftest import Ask, Fail, drawn, found, refused, rows, write

OLD = {
    *("requests_with_images", "images", "input_tokens", "output_tokens"),
    *("text_input_tokens", "text_output_tokens", "total_tokens", "cost_usd"),
    *("may_be_billed", "without_usage"),
}
"""What the rows of keys had before they had more."""
SVG = {"model": "gpt-5.5", "input_tokens": 10, "output_tokens": 20, "total_tokens": 30}
EDIT = {
    "input_tokens": 500,
    "input_tokens_details": {"text_tokens": 100, "image_tokens": 400, "cached_tokens": 300},
    "output_tokens": 4_000,
    "total_tokens": 4_500,
}


def told(ask: Ask, *words: object) -> Any:
    return json.loads(ask("usage", "--json", *words))


@pytest.fixture
def month(logs: Path) -> Path:
    """The logs, with an edit on Azure, an svg, a call that lost its usage, and a retry."""
    azure = AttemptRecord("azure-1", "azure", "answer", 200, None, "deliver", 9_000)
    write(
        logs / "blue" / "requests-20261122T120000Z-0001.jsonl",
        drawn(
            *(50_000,),
            owner_id="o-1",
            group_id="artists",
            upstream_model="gpt-image-2.5",
            account_name="azure-1",
            attempts=(azure,),
            usage=EDIT,
            usage_text=None,
            cost_usd=0.1,
        ),
        drawn(50_001, owner_id="o-1", svg_usage=SVG, usage_text=None, cost_usd=None),
        drawn(50_002, owner_id="o-2", usage=None, usage_text=None, cost_usd=None),
        found(50_003, by=50_000, owner_id="o-1"),
        refused(50_004, owner_id="o-3"),
    )
    return logs


# -- by key, for programs --------------------------------------------------------------------------


def test_usage_is_told_for_each_key_and_refused_calls_are_none(logs: Path, ask: Ask) -> None:
    attempt = AttemptRecord("account-1", "codex", "sent", action="replace")
    lost = refused(300, key_id="key-3", error_code="outcome_unknown", attempts=[attempt])
    lost["may_be_billed"] = True
    write(logs / "blue" / "requests-20261121T120500Z-0001.jsonl", lost, refused(301, key_id="k4"))
    usage = told(ask, "--dir", logs)
    assert list(usage) == [
        *("since", "until", "files", "skipped_lines", "by", "keys", "others", "total"),
    ]
    assert (usage["by"], usage["others"]) == (["key"], None)
    assert all(set(row) == {"key_id", *FIGURES} for row in usage["keys"])
    assert set(FIGURES) >= OLD
    assert [
        (row["key_id"], row["requests_with_images"], row["total_tokens"], row["may_be_billed"])
        for row in usage["keys"]
    ] == [("key-1", 2, 10_080, 0), ("key-2", 1, 5_040, 0), ("key-3", 0, 0, 1)]
    assert [row["cost_usd"] for row in usage["keys"]] == [0.2405, 0.12025, None]
    assert usage["total"]["total_tokens"] == 15_120


def test_a_client_that_leaves_early_shows_with_its_key(logs: Path, ask: Ask) -> None:
    left = drawn(300, key_id="key-3", response_image_count=None, client_left=True)
    left |= {"usage": None, "usage_text": None, "cost_usd": None}
    write(logs / "blue" / "requests-20261121T120500Z-0001.jsonl", left)
    usage = {row["key_id"]: row for row in told(ask, "--dir", logs)["keys"]}
    for gap in ("without_usage", "without_cost"):
        counts = {key_id: row[gap] for key_id, row in usage.items()}
        assert counts == {"key-1": 0, "key-2": 0, "key-3": 1}


def test_a_row_tells_all_that_can_be_billed(month: Path, ask: Ask) -> None:
    [codex, azure] = told(ask, "--by", "account", "--dir", month)["rows"]
    assert azure == {
        "account_name": "azure-1",
        "calls": 1,
        "requests_with_images": 1,
        "images": 1,
        "input_tokens": 500,
        "input_tokens_text": 100,
        "input_tokens_image": 400,
        "input_tokens_cached": 300,
        "output_tokens": 4_000,
        "text_input_tokens": 0,
        "text_input_tokens_cached": None,
        "text_output_tokens": 0,
        "svg_input_tokens": None,
        "svg_output_tokens": None,
        "svg_total_tokens": None,
        "total_tokens": 4_500,
        "cost_usd": 0.1,
        "may_be_billed": 0,
        "without_usage": 0,
        "without_cost": 0,
    }
    assert (codex["account_name"], codex["calls"], codex["svg_total_tokens"]) == (
        *("account-1", 5, 30),
    )
    assert (codex["without_usage"], codex["without_cost"]) == (1, 2)


# -- by what was asked for -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "calls"),
    [
        ("key", [("key-1", 5), ("key-2", 1)]),
        ("owner", [("o-1", 2), ("o-2", 1), (None, 3)]),
        ("group", [("artists", 1), (None, 5)]),
        ("model", [("gpt-image-2", 5), ("gpt-image-2.5", 1)]),
        ("account", [("account-1", 5), ("azure-1", 1)]),
        ("day", [("2026-11-21", 3), ("2026-11-22", 3)]),
    ],
)
def test_usage_is_summed_by_what_was_asked_for(
    month: Path, ask: Ask, by: totals.Dimension, calls: list[tuple[str | None, int]]
) -> None:
    usage = told(ask, "--by", by, "--dir", month)
    sums = usage["keys" if by == "key" else "rows"]
    assert [(row[DIMENSIONS[by]], row["calls"]) for row in sums] == calls


def test_of_several_names_each_combination_has_a_row(month: Path, ask: Ask) -> None:
    usage = told(ask, "--by", "day", "owner", "--by", "day", "--dir", month)
    assert usage["by"] == ["day", "owner"]
    assert [(row["day"], row["owner_id"], row["calls"]) for row in usage["rows"]] == [
        *[("2026-11-21", None, 3), ("2026-11-22", "o-1", 2), ("2026-11-22", "o-2", 1)],
    ]


@pytest.mark.parametrize("by", [["key"], ["owner", "day"], [*DIMENSIONS]])
def test_the_sums_are_those_that_usage_apply_charges(month: Path, ask: Ask, by: list[str]) -> None:
    records = [each for file in reader.find([month]) for each in reader.read(file)]
    charged = [each for each in map(charges.of, records) if isinstance(each, Charge)]
    assert len(charged) == 6
    usage = told(ask, "--by", *by, "--dir", month)
    for sums in (usage["total"], summed(usage.get("keys") or usage["rows"])):
        assert sums["calls"] == len(charged)
        assert sums["total_tokens"] == sum(each.tokens or 0 for each in charged)
        assert sums["input_tokens"] + sums["text_input_tokens"] == sum(
            each.input for each in charged
        )
        assert sums["input_tokens_cached"] == sum(each.cached_input for each in charged)
        assert sums["output_tokens"] + sums["text_output_tokens"] == sum(
            each.output for each in charged
        )
        cost = sum((each.cost for each in charged if each.cost is not None), Decimal(0))
        assert Decimal(str(sums["cost_usd"])) == cost
    assert usage["total"]["without_usage"] == [each.tokens for each in charged].count(None) == 1


def summed(sums: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: sum(Decimal(str(row[name])) for row in sums if row[name] is not None)
        for name in FIGURES
    }


def test_more_rows_than_are_kept_are_one_and_told_of(
    month: Path,
    ask: Ask,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = told(ask, "--by", "owner", "--dir", month)["total"]
    monkeypatch.setattr(totals, "MOST_ROWS", 2)
    assert main(["logs", "usage", "--json", "--by", "owner", "--dir", str(month)]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("image-gateway: there are more than 2 rows; ")
    usage = json.loads(said.out)
    assert [row["owner_id"] for row in usage["rows"]] == ["o-2", None]
    assert usage["others"]["calls"] == 2
    assert usage["total"] == whole
    assert main(["logs", "usage", "--csv", "--by", "owner", "--dir", str(month)]) == 0
    read = [(row["owner_id"], row["calls"]) for row in cells(capsys.readouterr().out)]
    assert read == [("o-2", "1"), ("", "3"), ("(others)", "2")]
    assert main(["logs", "usage", "--by", "owner", "day", "--dir", str(month)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        *(["owner", "day"], ["o-2", "2026-11-22"], ["(none)", "2026-11-21"]),
        *(["(others)", "2"], ["(all)", "6"]),
    ]


# -- for people ------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_name_and_one_for_all(month: Path, ask: Ask) -> None:
    text = ask("usage", "--by", "owner", "--dir", month)
    assert " ".join(text.splitlines()[0].split()) == (
        "owner calls images tokens in of text of image cached tokens out "
        "text in text cached text out svg tokens cost USD no usage no cost"
    )
    usage = {name: " ".join(cells) for name, cells in rows(text).items()}
    assert usage["o-1"] == "2 2 550 150 400 300 8,000 0 - 0 30 8,550 0.100000 0 1"
    assert usage["o-2"] == "1 1 0 - - - 0 0 - 0 - 0 - 1 1"
    assert usage["(none)"] == "3 3 150 150 0 - 12,000 2,700 - 270 - 15,120 0.360750 0 0"
    assert usage["(all)"] == "6 6 700 300 400 300 20,000 2,700 - 270 30 23,670 0.460750 1 2"


# -- for spreadsheets ------------------------------------------------------------------------------


def cells(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_csv_has_names_that_stay_and_plain_numbers(month: Path, ask: Ask) -> None:
    text = ask("usage", "--csv", "--by", "owner", "day", "--dir", month)
    assert text == (
        "owner_id,day,calls,requests_with_images,images,input_tokens,input_tokens_text,"
        "input_tokens_image,input_tokens_cached,output_tokens,text_input_tokens,"
        "text_input_tokens_cached,text_output_tokens,svg_input_tokens,svg_output_tokens,"
        "svg_total_tokens,total_tokens,cost_usd,may_be_billed,without_usage,without_cost\r\n"
        "o-1,2026-11-22,2,2,2,550,150,400,300,8000,0,,0,10,20,30,8550,0.100000,0,0,1\r\n"
        "o-2,2026-11-22,1,1,1,0,,,,0,0,,0,,,,0,,0,1,1\r\n"
        ",2026-11-21,3,3,3,150,150,0,,12000,2700,,270,,,,15120,0.360750,0,0,0\r\n"
    )


@pytest.mark.parametrize("by", [["key"], ["owner", "day"], [*DIMENSIONS]])
def test_csv_and_json_have_the_same_figures(month: Path, ask: Ask, by: list[str]) -> None:
    usage = told(ask, "--by", *by, "--dir", month)
    read = cells(ask("usage", "--csv", "--by", *by, "--dir", month))
    rows_told = usage.get("keys") or usage["rows"]
    assert [[*row] for row in read] == [[*row] for row in rows_told]
    for row, other in zip(read, rows_told, strict=True):
        for name, value in other.items():
            if name in FIGURES and value is not None:
                assert Decimal(row[name]) == Decimal(str(value)), name
            else:
                assert row[name] == (value or ""), name


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "'=1", "''", "-"])
def test_no_name_becomes_a_formula_and_each_can_be_had_back(
    logs: Path, ask: Ask, formula: str
) -> None:
    write(logs / "green" / "requests.jsonl", drawn(0, key_id=formula))
    names = [row["key_id"] for row in cells(ask("usage", "--csv", "--dir", logs))]
    assert sorted(names) == sorted(["key-1", f"'{formula}"])


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("\t=1", "\\t=1"),
        ("\r=1", "\\r=1"),
        ("\n=1", "\\n=1"),
        ("\x1b[2J", "\\x1b[2J"),
        ('a "b", c', 'a "b", c'),
        ("a=b", "a=b"),
        ("Zoë 雪", "Zoë 雪"),
    ],
)
def test_every_name_is_one_cell_on_one_line(logs: Path, ask: Ask, name: str, cell: str) -> None:
    write(logs / "green" / "requests.jsonl", drawn(0, key_id=name))
    text = ask("usage", "--csv", "--dir", logs)
    assert len(text.splitlines()) == 3
    assert cell in [row["key_id"] for row in cells(text)]


def test_no_call_is_a_csv_without_rows(logs: Path, ask: Ask) -> None:
    text = ask("usage", "--csv", "--by", "group", "--until", "2020-01-01", "--dir", logs)
    assert text == ",".join(["group_id", *FIGURES]) + "\r\n"


# -- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--by", "size"], "invalid choice: 'size' (choose from 'key', 'owner',"),
        (["--by"], "--by: expected at least one argument"),
        (["--json", "--csv"], "argument --csv: not allowed with argument --json"),
    ],
)
def test_what_usage_cannot_be_told_by_or_as_is_refused(
    fail: Fail, words: list[str], complaint: str
) -> None:
    code, said = fail("usage", *words)
    assert code == 64
    assert complaint in said
