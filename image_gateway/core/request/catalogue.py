"""The catalogue: which parameters the Images API takes, and what each model makes of them.

The data is ``catalogue.toml``; an operator's settings may add models or replace them.  A model that
the catalogue does not know is not refused here: where an account lists it, it has no rules of its
own (``rules`` gives None).
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

Endpoint = Literal["generations", "edits"]
Scalar = str | int | bool

_SNAPSHOT: Final = re.compile(r"-20\d{2}-[01]\d-[0-3]\d$", re.ASCII)
_NARROWED: Final = frozenset(
    {
        "background",
        "complexity",
        "input_fidelity",
        "markup",
        "mask",
        "moderation",
        "output_format",
        "quality",
        "size",
    }
)
"""What a model's table may narrow, beside its sizes."""
_TYPES: Final = frozenset({"string", "integer", "boolean", "object"})


class CatalogueError(ValueError):
    """The catalogue's text breaks its own rules; the message says where."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter's type and rules; ``needs`` maps another one to the values it must have."""

    name: str
    type: Literal["string", "integer", "boolean", "object"]
    endpoints: frozenset[Endpoint]
    choices: tuple[str, ...] | None = None
    minimum: int | None = None
    maximum: int | None = None
    longest: int | None = None
    needs: Mapping[str, tuple[Scalar, ...]] | None = None


@dataclass(frozen=True, slots=True)
class ModelRules:
    """One model's rules.  ``sizes`` None: free sizes.  ``choices``: what narrows a parameter."""

    name: str
    sizes: tuple[str, ...] | None
    choices: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All parameters and models."""

    parameters: Mapping[str, Parameter]
    models: Mapping[str, ModelRules]

    def rules(self, model: str) -> ModelRules | None:
        """A model's rules; a dated snapshot has those of the model it is of."""
        return self.models.get(model) or self.models.get(_SNAPSHOT.sub("", model))


def parse(text: str, extra: Mapping[str, object] | None = None) -> Catalogue:
    """A catalogue from TOML; ``extra`` holds further model tables.  Raises ``CatalogueError``."""
    document = tomllib.loads(text)
    parameters = {
        name: _parameter(name, _table(table, name))
        for name, table in _table(document.get("parameters"), "parameters").items()
    }
    models = parse_models(_table(document.get("models"), "models"))
    return Catalogue(parameters, {**models, **parse_models(extra or {})})


def parse_models(tables: Mapping[str, object]) -> dict[str, ModelRules]:
    """Models from their tables; raises ``CatalogueError``."""
    return {name: _model(name, _table(table, name)) for name, table in tables.items()}


def _parameter(name: str, table: Mapping[str, object]) -> Parameter:
    kind = table.get("type")
    if kind not in _TYPES:
        raise CatalogueError(f"{name}: type is none of {', '.join(sorted(_TYPES))}")
    needs = table.get("needs")
    return Parameter(
        name=name,
        type=cast("Literal['string', 'integer', 'boolean', 'object']", kind),
        endpoints=frozenset(cast("tuple[Endpoint, ...]", _texts(table.get("endpoints"), name))),
        choices=_texts(table["choices"], name) if "choices" in table else None,
        minimum=_integer(table.get("minimum"), name),
        maximum=_integer(table.get("maximum"), name),
        longest=_integer(table.get("longest"), name),
        needs=None
        if needs is None
        else {
            other: tuple(cast("Sequence[Scalar]", values))
            for other, values in _table(needs, name).items()
        },
    )


def _model(name: str, table: Mapping[str, object]) -> ModelRules:
    unknown = set(table) - _NARROWED - {"sizes"}
    if unknown:
        raise CatalogueError(f"{name}.{min(unknown)} is nothing that a model can narrow")
    sizes = table.get("sizes", "free")
    return ModelRules(
        name=name,
        sizes=None if sizes == "free" else _texts(sizes, f"{name}.sizes"),
        choices={
            key: _texts(value, f"{name}.{key}") for key, value in table.items() if key != "sizes"
        },
    )


def _table(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise CatalogueError(f"{where} is no table")
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise CatalogueError(f"{where} is no list of text")
    return tuple(value)


def _integer(value: object, where: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise CatalogueError(f"{where} has a limit that is no integer")
    return value
