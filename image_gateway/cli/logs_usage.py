"""``image-gateway logs usage``: what calls used, for people, and for programs that bill it."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any, Final

from image_gateway.cli import log_files, log_window, output
from image_gateway.cli.exits import handled
from image_gateway.cli.output import cell, complain, escaped, say
from image_gateway.core.records import totals
from image_gateway.core.records.totals import DIMENSIONS, FIGURES, Totals, TotalsTable

HEADINGS: Final = {
    "calls": "calls",
    "images": "images",
    "input_tokens": "tokens in",
    "input_tokens_text": "of text",
    "input_tokens_image": "of image",
    "input_tokens_cached": "cached",
    "output_tokens": "tokens out",
    "text_input_tokens": "text in",
    "text_input_tokens_cached": "text cached",
    "text_output_tokens": "text out",
    "svg_total_tokens": "svg",
    "total_tokens": "tokens",
    "cost_usd": "cost USD",
    "without_usage": "no usage",
    "without_cost": "no cost",
}
"""The figures for people; programs get all of them."""


def add_report(reports: "argparse._SubParsersAction[Any]") -> None:
    """Put ``usage`` on the command line, below ``logs``."""
    parser = reports.add_parser("usage", help="show what each key used, or each owner, day, ...")
    log_window.add_options(parser)
    log_files.add_dir(parser)
    parser.add_argument(
        "--by",
        nargs="+",
        action="extend",
        choices=tuple(DIMENSIONS),
        help="what to sum by; of several, each combination has a row (default: key)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document")
    form.add_argument("--csv", action="store_true", help="print CSV, with a row of names first")
    parser.set_defaults(run=handled(_usage))


def _usage(args: argparse.Namespace) -> None:
    table = TotalsTable(list(dict.fromkeys(args.by or ["key"])), totals.MOST_ROWS)
    counts = log_window.read(args, table.add)
    if table.others is not None:
        complain(
            f"there are more than {totals.MOST_ROWS:,} rows; the first ones are summed up as "
            "(others). Ask for a shorter time, or by less"
        )
    if args.json:
        output.say_json({**log_window.as_json(args, counts), **_document(table)})
    elif args.csv:
        output.say_csv(_csv(table))
    elif table.total().calls:
        say(output.table(*_table(table)))
    else:
        say("no usage")


def _document(table: TotalsTable) -> dict[str, object]:
    fields = [DIMENSIONS[dimension] for dimension in table.by]
    rows = [{**dict(zip(fields, name, strict=True)), **asdict(sums)} for name, sums in table.rows()]
    return {
        "by": table.by,
        "keys" if table.by == ["key"] else "rows": rows,
        "others": None if table.others is None else asdict(table.others),
        "total": asdict(table.total()),
    }


def _csv(table: TotalsTable) -> Iterator[Sequence[str | int | Decimal | None]]:
    """Without a row for all, which a sum over a column would count twice."""
    yield [*(DIMENSIONS[dimension] for dimension in table.by), *FIGURES]
    rows = table.rows()
    if table.others is not None:
        rows.append((("(others)",) * len(table.by), table.others))
    for name, sums in rows:
        yield [*name, *(getattr(sums, figure) for figure in FIGURES)]


def _table(table: TotalsTable) -> tuple[list[str], list[list[str]]]:
    """The headings and the rows for people."""
    blanks = [""] * (len(table.by) - 1)
    rows = [
        [*("(none)" if part is None else escaped(part) for part in name), *_cells(sums)]
        for name, sums in table.rows()
    ]
    if table.others is not None:
        rows.append(["(others)", *blanks, *_cells(table.others)])
    rows.append(["(all)", *blanks, *_cells(table.total())])
    return [*table.by, *HEADINGS.values()], rows


def _cells(sums: Totals) -> list[str]:
    return [_cell(getattr(sums, figure)) for figure in HEADINGS]


def _cell(value: int | Decimal | None) -> str:
    return f"{value:,f}" if isinstance(value, Decimal) else cell(value)
