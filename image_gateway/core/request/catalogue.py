"""The catalogue: which parameters the Images API takes, and which values each model accepts.

The data is in ``catalogue.toml``; the settings may add or replace models.  The catalogue is open at
its end: a name of an image model that it does not list has the rules of the newest one.  Any other
model is not refused here: an account may list it, and then no model rules apply (``rules`` returns
None).
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, Literal, cast

from image_gateway.core.request import model_names

Endpoint = Literal["generations", "edits"]
Scalar = str | int | bool

_SNAPSHOT: Final = re.compile(r"-20\d{2}-[01]\d-[0-3]\d$", re.ASCII)
_RESTRICTABLE: Final = frozenset(
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
"""The parameters that a model's table may restrict, beside ``sizes``."""
_FACTS: Final = frozenset({"sizes", "shutdown"})
_PYTHON: Final[Mapping[str, type]] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "object": dict,
}
"""The types of parameters, and how their values are parsed."""


class CatalogueError(ValueError):
    """The catalogue's text is invalid; the message says where."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """Type and rules of one parameter; ``needs`` maps another parameter to its required values.

    ``default`` is the documented default, None if there is none.
    """

    name: str
    type: Literal["string", "integer", "boolean", "object"]
    endpoints: frozenset[Endpoint]
    default: Scalar | None = None
    choices: tuple[str, ...] | None = None
    minimum: int | None = None
    maximum: int | None = None
    longest: int | None = None
    needs: Mapping[str, tuple[Scalar, ...]] | None = None

    def asks_for_nothing(self, value: object) -> bool:
        """Whether a value is the documented default; 1 and true are not the same."""
        return (
            self.default is not None and self.default == value and type(value) is _PYTHON[self.type]
        )


@dataclass(frozen=True, slots=True)
class ModelRules:
    """Rules of one model.  ``sizes`` is None for free sizes; ``choices`` holds the allowed values
    per parameter, () for a parameter that the model does not accept; ``shutdown`` is the day from
    which OpenAI does not serve the model, None if no day is known.
    """

    name: str
    sizes: tuple[str, ...] | None
    choices: Mapping[str, tuple[str, ...]]
    shutdown: date | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All parameters and models, as they were on the day ``as_of``.

    ``newest`` is the model whose rules hold for image models that ``models`` does not have.
    """

    as_of: date
    newest: str
    parameters: Mapping[str, Parameter]
    models: Mapping[str, ModelRules]

    def rules(self, model: str) -> ModelRules | None:
        """The rules of a model, None for one that is neither listed nor an image model by name."""
        listed = self._listed(model)
        if listed is not None:
            return listed
        is_open = model_names.is_image_model(model) and model_names.plain(model) == model
        return self.models[self.newest] if is_open else None

    def shutdown(self, model: str) -> date | None:
        """The day from which OpenAI does not serve a model; None if no day is known."""
        listed = self._listed(model_names.plain(model))
        return None if listed is None else listed.shutdown

    def _listed(self, model: str) -> ModelRules | None:
        """A dated snapshot has the rules of its model."""
        return self.models.get(model) or self.models.get(_SNAPSHOT.sub("", model))


def parse(text: str, extra: Mapping[str, object] | None = None) -> Catalogue:
    """A catalogue from TOML; ``extra`` holds more model tables.  Raises ``CatalogueError``."""
    document = tomllib.loads(text)
    parameters = {
        name: _parameter(name, _table(table, name))
        for name, table in _table(document.get("parameters"), "parameters").items()
    }
    models = parse_models(_table(document.get("models"), "models"))
    newest = document.get("newest")
    if newest not in models:
        raise CatalogueError("newest must be one of the models")
    return Catalogue(
        as_of=_day(document.get("as_of"), "as_of"),
        newest=cast("str", newest),
        parameters=parameters,
        models={**models, **parse_models(extra or {})},
    )


def parse_models(tables: Mapping[str, object]) -> dict[str, ModelRules]:
    """Models from their tables; raises ``CatalogueError``."""
    return {name: _model(name, _table(table, name)) for name, table in tables.items()}


def _parameter(name: str, table: Mapping[str, object]) -> Parameter:
    type_ = table.get("type")
    if type_ not in _PYTHON:
        raise CatalogueError(f"{name}.type must be one of {', '.join(sorted(_PYTHON))}")
    needs, default = table.get("needs"), table.get("default")
    if default is not None and type(default) is not _PYTHON[cast("str", type_)]:
        raise CatalogueError(f"{name}.default must be of type {type_}")
    return Parameter(
        name=name,
        type=cast("Literal['string', 'integer', 'boolean', 'object']", type_),
        endpoints=frozenset(
            cast("tuple[Endpoint, ...]", _texts(table.get("endpoints"), f"{name}.endpoints"))
        ),
        default=cast("Scalar | None", default),
        choices=_texts(table["choices"], f"{name}.choices") if "choices" in table else None,
        minimum=_integer(table.get("minimum"), f"{name}.minimum"),
        maximum=_integer(table.get("maximum"), f"{name}.maximum"),
        longest=_integer(table.get("longest"), f"{name}.longest"),
        needs=None
        if needs is None
        else {
            parameter: tuple(cast("Sequence[Scalar]", values))
            for parameter, values in _table(needs, f"{name}.needs").items()
        },
    )


def _model(name: str, table: Mapping[str, object]) -> ModelRules:
    unknown = set(table) - _RESTRICTABLE - _FACTS
    if unknown:
        allowed = ", ".join(sorted(_FACTS | _RESTRICTABLE))
        raise CatalogueError(
            f"{name}.{min(unknown)} is unknown; a model's table may hold {allowed}"
        )
    sizes, shutdown = table.get("sizes", "free"), table.get("shutdown")
    return ModelRules(
        name=name,
        sizes=None if sizes == "free" else _texts(sizes, f"{name}.sizes"),
        choices={
            key: _texts(value, f"{name}.{key}") for key, value in table.items() if key not in _FACTS
        },
        shutdown=None if shutdown is None else _day(shutdown, f"{name}.shutdown"),
    )


def _table(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise CatalogueError(f"{where} must be a table")
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise CatalogueError(f"{where} must be a list of strings")
    return tuple(value)


def _integer(value: object, where: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise CatalogueError(f"{where} must be an integer")
    return value


def _day(value: object, where: str) -> date:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise CatalogueError(f"{where} must be a day, such as 2026-12-01")
    return value
