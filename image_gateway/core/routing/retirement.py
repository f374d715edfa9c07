"""Warnings about models that OpenAI has shut down or will shut down, where an operator names them.

The days are data of the catalogue.  Today's date is an argument.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from image_gateway.core.model import Account
from image_gateway.core.request.catalogue import Catalogue
from image_gateway.core.request.model_names import is_image_model


@dataclass(frozen=True, slots=True)
class NamedByKeys:
    """A model that keys name: how many of them, and the id of one."""

    model: str
    keys: int
    key_id: str


def warnings(
    accounts: Sequence[Account],
    named: Sequence[NamedByKeys],
    default_model: str,
    catalogue: Catalogue,
    today: date,
) -> Iterator[str]:
    """One line for each account, model of keys and setting that names such a model."""
    for account in accounts:
        for model in dict.fromkeys(_models(account)):
            shutdown = _shutdown(model, catalogue, today)
            if shutdown is not None:
                yield f"account {account.account_name}: deployments name {shutdown}"
    for item in named:
        shutdown = _shutdown(item.model, catalogue, today)
        if shutdown is not None:
            rest = item.keys - 1
            others = "" if rest == 0 else f" and {rest} other key{'s' * (rest > 1)}"
            verb = "names" if rest == 0 else "name"
            yield f"key {item.key_id}{others} {verb} {shutdown}"
    shutdown = _shutdown(default_model, catalogue, today)
    if shutdown is not None:
        yield f"DEFAULT_MODEL is {shutdown}"


def _models(account: Account) -> Iterator[str]:
    """The models that an account draws with: a deployment's own name says it, else the model's."""
    for model, deployment in (account.deployments or {}).items():
        yield deployment if is_image_model(deployment) else model


def _shutdown(model: str, catalogue: Catalogue, today: date) -> str | None:
    day = catalogue.shutdown(model)
    if day is None:
        return None
    return f"{model}, which {'was' if day <= today else 'will be'} shut down on {day}"
