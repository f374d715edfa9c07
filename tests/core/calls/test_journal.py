"""A call's journal: read back as it was written, whatever was cut off, and without an error."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.calls import journal
from image_gateway.core.calls.journal import JOURNAL_BYTES, LINE_BYTES, Ending, Journal, Note
from image_gateway.core.calls.model import CallIdentity, CallState

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
TIMES = st.floats(-1e12, 1e12)

IDENTITIES = st.builds(
    CallIdentity,
    call_id=TEXT,
    request_id=TEXT,
    key_tag=TEXT,
    fingerprint=TEXT,
    name=st.none() | TEXT,
    endpoint=TEXT,
    created_at=TIMES,
    has_id=st.booleans(),
)
ENDINGS = st.builds(
    Ending,
    state=st.sampled_from([state for state in CallState if state is not CallState.RUNNING]),
    at=TIMES,
    status=st.none() | st.integers(100, 599),
    headers=st.dictionaries(TEXT, TEXT, max_size=5),
    length=st.integers(0, 2**50),
    seconds=st.none() | st.floats(0, 1e9),
    pictures=st.lists(st.integers(0, 2**40), max_size=12).map(tuple),
)
NOTES = st.lists(st.sampled_from(Note), max_size=6)

IDENTITY = CallIdentity("call_1", "req_1", "a" * 64, "b" * 64, "c" * 64, "generations", 1.5)
ENDING = Ending(CallState.MADE, 2.5, 200, {"content-type": "application/json"}, 2048, 60.0)


@st.composite
def journals(draw: st.DrawFn) -> tuple[list[bytes], list[Journal]]:
    """Lines as they may be written, and what the first n of them say, for each n but none."""
    identity = draw(IDENTITIES)
    ending = draw(ENDINGS)
    notes = draw(NOTES)
    end = draw(st.none() | st.integers(0, len(notes)))
    lines = [journal.created(identity)]
    said = [Journal(identity)]
    for number in range(len(notes) + 1):
        if number == end:
            lines.append(journal.ended(ending))
            said.append(dataclasses.replace(said[-1], ending=ending))
        if number < len(notes):
            lines.append(journal.noted(notes[number]))
            said.append(dataclasses.replace(said[-1], notes=said[-1].notes | {notes[number]}))
    return lines, said


@given(written=journals())
def test_what_was_written_is_read_back(written: tuple[list[bytes], list[Journal]]) -> None:
    lines, said = written
    assert journal.read(b"".join(lines)) == said[-1]


@given(written=journals(), data=st.data())
def test_a_journal_cut_anywhere_says_what_its_whole_lines_say(
    written: tuple[list[bytes], list[Journal]], data: st.DataObject
) -> None:
    lines, said = written
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    complete = sum(len(b"".join(lines[: number + 1])) <= cut for number in range(len(lines)))
    assert journal.read(whole[:cut]) == (said[complete - 1] if complete else None)


@given(written=journals(), data=st.data())
def test_a_torn_line_spoils_itself_alone(
    written: tuple[list[bytes], list[Journal]], data: st.DataObject
) -> None:
    """A full disk may take half a line, and be free again for the next one."""
    lines, said = written
    torn = data.draw(st.sampled_from([*lines, journal.ended(ENDING)]))
    torn = torn[: data.draw(st.integers(0, len(torn) - 2))]
    place = data.draw(st.integers(1, len(lines)))
    assert journal.read(b"".join([*lines[:place], torn, *lines[place:]])) == said[-1]


@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_without_an_exception(data: bytes) -> None:
    journal.read(data)
    assert journal.read(journal.created(IDENTITY) + data + b"\n") is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(data=st.data())
def test_a_line_with_any_value_in_any_field_is_read_or_ignored(data: st.DataObject) -> None:
    line = data.draw(
        st.sampled_from(
            [journal.created(IDENTITY), journal.ended(ENDING), journal.noted(Note.SENT)]
        )
    )
    fields = json.loads(line)
    name = data.draw(st.sampled_from(sorted(fields)))
    changed = json.dumps(fields | {name: data.draw(JSON)}).encode() + b"\n"
    for before in (b"", journal.created(IDENTITY)):
        read = journal.read(before + changed)
        if read is not None:
            # What is read can be written again: nothing of an odd type came through.
            again = journal.created(read.identity)
            if read.ending is not None:
                again += journal.ended(read.ending)
            assert journal.read(again) == Journal(read.identity, read.ending)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("version", 2, id="another-version"),
        pytest.param("call_id", None, id="no-id"),
        pytest.param("key_tag", 7, id="odd-tag"),
        pytest.param("name", 7, id="odd-name"),
        pytest.param("created_at", "today", id="odd-time"),
        pytest.param("has_id", "yes", id="odd-flag"),
    ],
)
def test_a_journal_whose_first_line_is_not_a_calls_is_no_call(field: str, value: object) -> None:
    fields = json.loads(journal.created(IDENTITY)) | {field: value}
    odd = json.dumps(fields).encode() + b"\n"
    assert journal.read(odd + journal.created(IDENTITY) + journal.ended(ENDING)) is None


def test_a_call_is_never_read_as_ended_and_running() -> None:
    fields = json.loads(journal.ended(ENDING)) | {"state": "running"}
    odd = json.dumps(fields).encode() + b"\n"
    assert journal.read(journal.created(IDENTITY) + odd) == Journal(IDENTITY)


@pytest.mark.parametrize(
    "pictures", [None, 5, [-1], ["1"], [True], [0.5], [None], {"0": 1}, [0] * 1001], ids=repr
)
def test_an_end_with_odd_sizes_of_pictures_is_ignored(pictures: object) -> None:
    """A wrong size would make a picture of other bytes."""
    line = json.dumps(json.loads(journal.ended(ENDING)) | {"pictures": pictures}).encode()
    assert journal.read(journal.created(IDENTITY) + line + b"\n") == Journal(IDENTITY)


def test_of_two_ends_the_first_counts() -> None:
    """Who sees that a process died may write that, too, while another writes the same."""
    later = Ending(CallState.UNKNOWN, 99.0)
    lines = journal.created(IDENTITY) + journal.ended(ENDING) + journal.ended(later)
    assert journal.read(lines) == Journal(IDENTITY, ENDING)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"x": "y" * LINE_BYTES}, id="too-long"),
        pytest.param({"x": "\ud800"}, id="no-text"),
    ],
)
def test_what_fits_no_line_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"journal|surrogates|UTF-8"):
        journal.ended(dataclasses.replace(ENDING, headers=headers))


def test_a_journal_that_grows_without_end_is_read_within_its_bound() -> None:
    notes = journal.noted(Note.SENT) * (JOURNAL_BYTES // len(journal.noted(Note.SENT)) + 1)
    text = journal.created(IDENTITY) + notes + journal.ended(ENDING)
    assert journal.read(text) == Journal(IDENTITY, None, frozenset({Note.SENT}))


def test_a_journal_has_nothing_but_what_its_call_is_found_by_and_the_head_of_its_answer() -> None:
    """No field for a key, a prompt or a picture can come in unseen."""
    assert set(json.loads(journal.created(IDENTITY))) == {
        "version",
        *(item.name for item in dataclasses.fields(CallIdentity)),
    }
    assert set(json.loads(journal.ended(ENDING))) == {
        item.name for item in dataclasses.fields(Ending)
    }
