"""Rows that break the contract: a command makes none, and still helps where there is one."""

from collections.abc import Callable, Mapping

from image_gateway.core.rows import RowError

Parse = Callable[[Mapping[str, object]], object]


def problem(parse: Parse, row: Mapping[str, object]) -> str | None:
    """What is wrong with a row, as the daemon sees it."""
    try:
        parse(row)
    except RowError as error:
        return str(error)
    return None


def refuse_new(parse: Parse, row: Mapping[str, object], changed: Mapping[str, object]) -> None:
    """Raises ``RowError`` for a breach that was not there: a broken row may be switched off."""
    found = problem(parse, changed)
    if found is not None and found != problem(parse, row):
        raise RowError(found)
