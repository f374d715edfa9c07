"""``Prefer``: what a client would like is read as RFC 7240 writes it, and nothing can break it."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from image_gateway.core.calls import preferences
from image_gateway.core.calls.preferences import LONGEST_WAIT, Preferences

NONE = Preferences()
BOTH = Preferences(respond_async=True, wait_seconds=60)
ASYNC_10 = Preferences(respond_async=True, wait_seconds=10)
ASYNC = Preferences(respond_async=True)


def wait(seconds: int) -> Preferences:
    return Preferences(wait_seconds=seconds)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], NONE),
        (["respond-async"], ASYNC),
        (["Respond-Async"], ASYNC),
        (["wait=10"], wait(10)),
        (["WAIT=10"], wait(10)),
        (["wait=0"], wait(0)),
        (["wait=007"], wait(7)),
        (["wait=60"], wait(60)),
        (["wait=61"], wait(60)),
        (["wait=" + "9" * 2000], wait(60)),
        (["respond-async, wait=10"], ASYNC_10),
        (["respond-async", "wait=10"], ASYNC_10),
        # RFC 7240, 2: the examples and the rules of its grammar.
        (["respond-async, wait=100", "handling=lenient"], BOTH),
        (['foo; some-parameter=" "'], NONE),
        (["return=minimal; foo=bar, wait=5"], wait(5)),
        (['wait="5"'], wait(5)),
        (['wait="\\5"'], wait(5)),
        (["wait = 5"], wait(5)),
        (["\twait\t=\t5\t;\tfoo"], wait(5)),
        (["wait=5;foo;bar=baz"], wait(5)),
        (["wait=5;"], wait(5)),
        (['respond-async=""'], ASYNC),
        (["respond-async="], ASYNC),
        (["respond-async;foo=1"], ASYNC),
        (["wait=5, wait=9"], wait(5)),
        (["wait=5", "wait=9"], wait(5)),
        ([",, ,wait=5,,"], wait(5)),
        # A comma or a semicolon in quotes divides nothing.
        (['foo="a,wait=9", wait=5'], wait(5)),
        (['foo="a\\",wait=9", wait=5'], wait(5)),
        (['foo="a;b"; bar="x,y", wait=5'], wait(5)),
        (['foo=bar; baz="respond-async,"'], NONE),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_preferences_are_read(values: list[str], found: Preferences) -> None:
    assert preferences.read(values) == found


@pytest.mark.parametrize(
    "value",
    [
        "",
        ",",
        "wait",
        "wait=",
        'wait=""',
        "wait=soon",
        "wait=-1",
        "wait=+1",
        "wait=1.5",
        "wait=1 2",
        "wait=\u0665",
        "wait=\u00b2",
        "wait==5",
        "wait:5",
        "x wait=5",
        "waiting=5",
        "await=5",
        "wait=soon, wait=5",
        "respond-async=yes",
        "respond-async=no, respond-async",
        "respond_async",
        "respond-async wait=5",
        '"respond-async"',
        "=respond-async",
        ";respond-async",
        'foo="open, respond-async, wait=5',
        "respond-async" + " " * 2048,
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_not_known_or_broken_is_ignored(value: str) -> None:
    assert preferences.read([value]) == NONE


def test_a_quote_without_its_end_spoils_neither_what_came_before_nor_other_headers() -> None:
    assert preferences.read(['respond-async, foo="open', "wait=5"]) == Preferences(
        respond_async=True, wait_seconds=5
    )


WORDS = st.text("!#$%&'*+.^_`|~09azAZ-", min_size=1, max_size=8)
QUOTED = st.text(max_size=8).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
PARAMETERS = st.lists(WORDS | st.builds("{}={}".format, WORDS, WORDS | QUOTED), max_size=2)
OTHERS = st.builds(
    lambda name, word, more: ";".join([f"other-{name}{word}", *more]),
    WORDS,
    st.just("") | WORDS.map("={}".format) | QUOTED.map("={}".format),
    PARAMETERS,
)


@given(
    st.lists(OTHERS, max_size=4),
    st.lists(OTHERS, max_size=4),
    st.integers(0, 200),
    PARAMETERS,
    st.sampled_from(["one header", "many"]),
)
def test_what_stands_around_a_preference_changes_nothing(
    before: list[str], after: list[str], seconds: int, parameters: list[str], headers: str
) -> None:
    own = ";".join([f"wait={seconds}", *parameters])
    elements = [*before, own, "respond-async", *after]
    values = elements if headers == "many" else [", ".join(elements)]
    assert preferences.read(values) == Preferences(
        respond_async=True, wait_seconds=min(seconds, LONGEST_WAIT)
    )


@given(st.lists(st.text() | st.text('wait=5,;" \\\t'), max_size=4))
@example(["\ud800", "wait=5\n"])
def test_any_text_is_read(values: list[str]) -> None:
    found = preferences.read(values)
    assert found.wait_seconds is None or 0 <= found.wait_seconds <= LONGEST_WAIT


@pytest.mark.parametrize(
    "text", ['"', "\\", '"\\', " ", "\t=", "a ", "a= ", "=", ",", ";", 'a="', 'a=" ', 'a;"\\"']
)
def test_no_header_takes_long(text: str) -> None:
    """Linear: a bound of a quarter of a second is a thousand times what the longest takes."""
    value = (text * 2048)[:2048]
    began = time.perf_counter()
    for _ in range(10):
        preferences.read([value])
        preferences.read(["a" + value[1:-1] + "\x00"])
        preferences.read([value * 1000])
    assert time.perf_counter() - began < 2.5


@pytest.mark.parametrize(
    ("done", "value"),
    [
        (NONE, None),
        (ASYNC, "respond-async"),
        (wait(0), "wait=0"),
        (Preferences(respond_async=True, wait_seconds=5), "respond-async, wait=5"),
    ],
)
def test_what_was_done_is_told_in_the_words_of_the_request(
    done: Preferences, value: str | None
) -> None:
    assert done.header() == value
    assert preferences.read([value or ""]) == done
