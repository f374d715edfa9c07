"""Rows that break the contract: commands do not create any, but can change one that exists."""

from collections.abc import Callable, Mapping

from image_gateway.core.rows import RowError

Parse = Callable[[Mapping[str, object]], object]


def problem(parse: Parse, row: Mapping[str, object]) -> str | None:
    """What is wrong with a row, by the daemon's own checks; None if nothing is."""
    try:
        parse(row)
    except RowError as error:
        return str(error)
    return None


def refuse_new(parse: Parse, row: Mapping[str, object], changed: Mapping[str, object]) -> None:
    """Raise ``RowError`` for a problem that is new: a broken row may still be switched off."""
    new_problem = problem(parse, changed)
    if new_problem is not None and new_problem != problem(parse, row):
        raise RowError(new_problem)
