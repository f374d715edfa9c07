"""The catalogue: what the shipped data promises, and what an operator may add to it."""

from datetime import date
from typing import Any

import pytest

from image_gateway.core.request import catalogue
from image_gateway.core.request.catalogue import CatalogueError
from tests.core.builders import CATALOGUE

_BOTH = {"generations", "edits"}


def test_exactly_these_parameters_are_known_and_where() -> None:
    assert {name: set(each.endpoints) for name, each in CATALOGUE.parameters.items()} == {
        "prompt": _BOTH,
        "model": _BOTH,
        "n": _BOTH,
        "size": _BOTH,
        "quality": _BOTH,
        "background": _BOTH,
        "output_format": _BOTH,
        "output_compression": _BOTH,
        "moderation": _BOTH,
        "stream": _BOTH,
        "partial_images": _BOTH,
        "input_fidelity": {"edits"},
        "complexity": _BOTH,
        "frame_count": _BOTH,
        "frame_duration_ms": _BOTH,
        "svg": _BOTH,
        "user": _BOTH,
        "safety_identifier": _BOTH,
        "response_format": _BOTH,
    }


def test_every_name_in_the_catalogue_is_its_own() -> None:
    for name, parameter in CATALOGUE.parameters.items():
        assert parameter.name == name
    for name, model in CATALOGUE.models.items():
        assert model.name == name


def test_a_model_narrows_only_parameters_that_exist() -> None:
    """A misspelt name in the data would be a rule that does not hold."""
    for model in CATALOGUE.models.values():
        for name, choices in model.choices.items():
            parameter = CATALOGUE.parameters.get(name)
            assert parameter is not None or name in {"markup", "mask"}
            if parameter is not None and parameter.choices is not None:
                assert set(choices) <= set(parameter.choices)


def test_a_need_names_parameters_and_values_that_exist() -> None:
    for parameter in CATALOGUE.parameters.values():
        for other, wanted in (parameter.needs or {}).items():
            choices = CATALOGUE.parameters[other].choices
            assert wanted
            assert choices is None or set(wanted) <= set(choices)


def test_no_shipped_model_knows_the_dead_qualities() -> None:
    choices = CATALOGUE.parameters["quality"].choices
    assert choices is not None
    assert not {"standard", "hd"} & set(choices)


@pytest.mark.parametrize(
    ("model", "rules"),
    [
        ("gpt-image-1", "gpt-image-1"),
        ("gpt-image-1-mini", "gpt-image-1-mini"),
        ("gpt-image-1.5", "gpt-image-1.5"),
        ("gpt-image-2", "gpt-image-2"),
        ("gpt-image-2.5-flare", "gpt-image-2.5-flare"),
        ("gpt-image-2.6-sunburst", "gpt-image-2.6-sunburst"),
        ("chatgpt-image-latest", "chatgpt-image-latest"),
        ("gpt-image-2-2026-04-21", "gpt-image-2"),
        ("gpt-image-1-mini-2025-10-06", "gpt-image-1-mini"),
        ("gpt-image-2.5-sunburst-2026-09-08", "gpt-image-2.5-sunburst"),
        # What the catalogue does not list has the rules of the newest model.
        ("gpt-image-2.5", "gpt-image-2.6-sunburst"),
        ("gpt-image-2-2026", "gpt-image-2.6-sunburst"),
        ("gpt-image-2-2026-04-21-x", "gpt-image-2.6-sunburst"),
        ("gpt-image-2-preview", "gpt-image-2.6-sunburst"),
        ("gpt-image-20", "gpt-image-2.6-sunburst"),
        ("gpt-image-2.7-sunburst-2027-01-01", "gpt-image-2.6-sunburst"),
        ("chatgpt-image-next", "gpt-image-2.6-sunburst"),
        ("gpt-image", None),
        ("my-gpt-image-2", None),
        ("openai/gpt-image-2", None),
        ("GPT-Image-2", None),
        ("gpt-image-2/chat", None),
        ("dall-e-3", None),
        ("-2026-04-21", None),
        ("", None),
    ],
)
def test_a_model_has_its_own_rules_or_those_of_its_base_or_of_the_newest(
    model: str, rules: str | None
) -> None:
    found = CATALOGUE.rules(model)
    assert (None if found is None else found.name) == rules


def test_the_shipped_models_are_those_of_its_day_and_a_plain_2_5_is_not_among_them() -> None:
    assert CATALOGUE.as_of == date(2026, 11, 28)
    assert CATALOGUE.models[CATALOGUE.newest].shutdown is None
    assert {name: each.shutdown for name, each in CATALOGUE.models.items()} == {
        "gpt-image-2.6-sunburst": None,
        "gpt-image-2.6-flare": None,
        "gpt-image-2.5-sunburst": None,
        "gpt-image-2.5-flare": None,
        "gpt-image-2": None,
        "chatgpt-image-latest": date(2026, 12, 1),
        "gpt-image-1.5": date(2026, 12, 1),
        "gpt-image-1-mini": date(2026, 12, 1),
        "gpt-image-1": date(2026, 10, 23),
    }


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("gpt-image-1", date(2026, 10, 23)),
        ("OpenAI/GPT-Image-1-2025-04-23", date(2026, 10, 23)),
        ("gpt-image-1.5-2025-12-16", date(2026, 12, 1)),
        ("gpt-image-2", None),
        ("gpt-image-9", None),
        ("dall-e-3", None),
    ],
)
def test_a_shutdown_holds_for_every_name_of_a_model(name: str, day: date | None) -> None:
    assert CATALOGUE.shutdown(name) == day


_TEXT = """
as_of = 2026-01-02
newest = "two"
[parameters.size]
type = "string"
endpoints = ["edits"]
choices = ["a", "b"]
longest = 3
needs = { n = [1, true, "x"] }
[parameters.n]
type = "integer"
endpoints = []
minimum = 0
maximum = 5
[models.one]
sizes = ["1x1"]
quality = ["a"]
mask = []
[models.two]
shutdown = 2027-01-01
"""


def test_a_catalogue_holds_what_its_text_says() -> None:
    made = catalogue.parse(_TEXT)
    assert made.parameters == {
        "size": catalogue.Parameter(
            "size",
            "string",
            frozenset({"edits"}),
            choices=("a", "b"),
            longest=3,
            needs={"n": (1, True, "x")},
        ),
        "n": catalogue.Parameter("n", "integer", frozenset(), minimum=0, maximum=5),
    }
    assert made.models == {
        "one": catalogue.ModelRules("one", ("1x1",), {"quality": ("a",), "mask": ()}),
        "two": catalogue.ModelRules("two", None, {}, date(2027, 1, 1)),
    }
    assert (made.as_of, made.newest) == (date(2026, 1, 2), "two")


def test_an_operator_s_models_are_added_or_replace_a_shipped_one() -> None:
    made = catalogue.parse(_TEXT, {"one": {"sizes": "free"}, "three": {"quality": []}})
    assert set(made.models) == {"one", "two", "three"}
    assert made.models["one"] == catalogue.ModelRules("one", None, {})
    assert made.models["three"].choices == {"quality": ()}


@pytest.mark.parametrize(
    "name",
    [
        "background",
        "complexity",
        "input_fidelity",
        "markup",
        "mask",
        "moderation",
        "output_format",
        "quality",
    ],
)
def test_what_a_model_may_narrow(name: str) -> None:
    made = catalogue.parse_models({"a": {name: ["x"]}, "b": {name: []}})
    assert made["a"].choices == {name: ("x",)}
    assert made["b"].choices == {name: ()}


def test_a_new_model_s_own_snapshot_goes_before_the_rules_of_its_base() -> None:
    made = catalogue.parse(_TEXT, {"two-2026-01-01": {"sizes": ["2x2"]}})
    found = made.rules("two-2026-01-01")
    assert found is not None
    assert found.sizes == ("2x2",)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[parameters.a]\ntype="text"\nendpoints=[]\n[models]', "a.type must be one of"),
        ("[parameters.a]\nendpoints=[]\n[models]", "a.type must be one of"),
        ('[parameters.a]\ntype="string"\n[models]', "a.endpoints"),
        ('[parameters.a]\ntype="string"\nendpoints="edits"\n[models]', "a.endpoints"),
        ('[parameters.a]\ntype="string"\nendpoints=[]\nchoices=[1]\n[models]', "a.choices"),
        ('[parameters.a]\ntype="string"\nendpoints=[]\nlongest="9"\n[models]', "a.longest"),
        ('[parameters.a]\ntype="string"\nendpoints=[]\nminimum=true\n[models]', "a.minimum"),
        ('[parameters.a]\ntype="string"\nendpoints=[]\nmaximum=1.5\n[models]', "a.maximum"),
        ('[parameters.a]\ntype="string"\nendpoints=[]\nneeds=1\n[models]', "a.needs"),
        ("parameters=1\n[models]", "parameters must be a table"),
        ("models=1\n[parameters]", "models must be a table"),
        ("[parameters]\n[models]\na=1", "a must be a table"),
        ("[parameters]\n[models.a]\nsizes=1", "a.sizes must be a list"),
        ("[parameters]\n[models.a]\nquality='low'", "a.quality must be a list"),
        ("[parameters]\n[models.a]\nqualtiy=['low']", "a.qualtiy is unknown"),
        ("[parameters]\n[models.a]\nprompt=['x']", "a.prompt is unknown"),
        ("[parameters]\n[models.a]\nn=['1']", "a.n is unknown"),
        ("[models]", "parameters must be a table"),
        ("[parameters]", "models must be a table"),
        ("[parameters]\n[models.a]\nshutdown='soon'", "a.shutdown must be a day"),
        ("[parameters]\n[models.a]\nshutdown=2026-12-01T00:00:00Z", "a.shutdown must be a day"),
        ("as_of=2026-01-01\n[parameters]\n[models.a]", "newest must be one of the models"),
        ("newest='b'\n[parameters]\n[models.a]", "newest must be one of the models"),
        ("newest='a'\n[parameters]\n[models.a]", "as_of must be a day"),
    ],
)
def test_data_that_breaks_its_own_rules_says_where(text: str, where: str) -> None:
    with pytest.raises(CatalogueError, match=where):
        catalogue.parse(text)


@pytest.mark.parametrize(
    "extra", [{"a": 1}, {"a": {"sizes": [1]}}, {"a": {"quality": "low"}}, {"a": {"x": []}}]
)
def test_an_operator_s_broken_model_says_where(extra: dict[str, Any]) -> None:
    with pytest.raises(CatalogueError, match=r"^a"):
        catalogue.parse(_TEXT, extra)
    with pytest.raises(CatalogueError, match=r"^a"):
        catalogue.parse_models(extra)
