"""However many names come, and in whatever order, few rows are kept and no sum is lost."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.records.bounded import Bounded, Name, order


class Count:
    """A row that counts."""

    def __init__(self) -> None:
        self.number = 0

    def merge(self, other: "Count") -> None:
        self.number += other.number


PARTS = st.none() | st.sampled_from(["", "a", "b", "\ud800"])
NAMES = st.lists(st.tuples(PARTS, PARTS), max_size=40)


def counted(names: list[Name], most: int) -> tuple[dict[Name, int], int]:
    """The kept names with their counts, and the count of all others."""
    table = Bounded(Count, most)
    for name in names:
        table.row(name).number += 1
        assert len(table.rows) <= most
    kept = {name: row.number for name, row in table.rows.items()}
    return kept, 0 if table.others is None else table.others.number


@given(NAMES, st.integers(1, 12), st.randoms(use_true_random=False))
def test_the_last_names_stay_with_all_that_is_theirs(
    names: list[Name], most: int, random: Random
) -> None:
    """Whatever the order in which they come."""
    shuffled = random.sample(names, len(names))
    every = Counter(names)
    last = sorted(every, key=order)[-most:]
    kept, others = counted(shuffled, most)
    assert kept == {name: every[name] for name in last}
    assert others == len(names) - sum(kept.values())


def test_what_is_not_known_comes_after_all_texts() -> None:
    names: list[Name] = [(None, "a"), ("b", None), ("b", ""), ("\U0001f58c", "a"), ("b", "a")]
    assert sorted(names, key=order) == [
        *[("b", ""), ("b", "a"), ("b", None)],
        *[("\U0001f58c", "a"), (None, "a")],
    ]


def test_there_are_no_others_before_there_are_too_many_names() -> None:
    others: list[object] = []
    table = Bounded(Count, 2)
    for name in ("a", "b", "a", "b", "c"):
        others.append(table.others)
        table.row((name,)).number += 1
    assert others == [None] * 5
    assert table.others is not None
    assert repr(table) == "<Bounded 2 of 2 rows>"
