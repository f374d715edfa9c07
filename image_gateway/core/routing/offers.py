"""The models that a key may ask for: what a client learns that asks for another one.

A model is offered if the key may use it, under the client's name and under the one it maps to, and
if an account that is switched on serves it.  What an open catalogue would serve besides has no end
and is not listed.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import Final

from image_gateway.core.dialects import DIALECTS
from image_gateway.core.errors import Refusal
from image_gateway.core.model import Account, Grant, Key
from image_gateway.core.request.catalogue import Catalogue
from image_gateway.core.request.model_names import ModelNames
from image_gateway.core.untrusted import shown_model

_MOST_NAMES: Final = 10
"""Names of models in one message."""


def allows(names: ModelNames, model: str) -> bool:
    """Whether the key may use a model, by the client's name and by the one it maps to."""
    allowed = names.key.allowed_models
    if allowed is None:
        return True
    mapped = {names.mapped(model), names.upstream(model)}
    return names.requested(model) in allowed and not mapped.isdisjoint(allowed)


def serves(account: Account, model: str, catalogue: Catalogue) -> bool:
    """Whether an account serves a model: by its own list, or if it has none, by what all accounts
    of its dialect serve, or by the catalogue.
    """
    if account.deployments is not None:
        return model in account.deployments
    can_send = DIALECTS[account.dialect].can_send(account, model)
    return can_send and _serves_by_dialect(account.dialect, model, catalogue)


def _serves_by_dialect(dialect: str, model: str, catalogue: Catalogue) -> bool:
    own_models = DIALECTS[dialect].own_models
    return catalogue.rules(model) is not None if own_models is None else model in own_models


def is_offered(grant: Grant, model: str, catalogue: Catalogue) -> bool:
    """Whether a key may ask for a model, and an account that is switched on serves it."""
    return _are_offered(grant, [model], catalogue) == (model,)


def offered(grant: Grant, catalogue: Catalogue, today: date) -> tuple[str, ...]:
    """The names of the models that a key may ask for, the key's own names first.

    Of an account without ``deployments`` the models that are shut down are left out.
    """
    candidates = [*sorted(grant.key.model_map), *sorted(grant.key.allowed_models or ())]
    for account in _switched_on(grant):
        candidates += _names_of(account, catalogue, today)
    return _are_offered(grant, dict.fromkeys(candidates), catalogue)


def _are_offered(grant: Grant, models: Iterable[str], catalogue: Catalogue) -> tuple[str, ...]:
    """Those of ``models`` that are offered; takes no time for each pair of a model and an account,
    because a plane may have thousands of both.
    """
    names, accounts = ModelNames.of(grant), _switched_on(grant)
    deployed = {name for account in accounts for name in account.deployments or ()}
    dialects = {account.dialect for account in accounts if account.deployments is None}

    def is_served(model: str) -> bool:
        return model in deployed or any(
            _serves_by_dialect(dialect, model, catalogue) for dialect in dialects
        )

    return tuple(
        model for model in models if allows(names, model) and is_served(names.upstream(model))
    )


def _switched_on(grant: Grant) -> list[Account]:
    return [
        account
        for account in grant.allowed_accounts()
        if account.status == "active" and account.image_enabled
    ]


def _names_of(account: Account, catalogue: Catalogue, today: date) -> Iterator[str]:
    if account.deployments is not None:
        yield from account.deployments
        return
    own_models = DIALECTS[account.dialect].own_models
    for name in catalogue.models if own_models is None else sorted(own_models):
        shutdown = catalogue.shutdown(name)
        if shutdown is None or shutdown > today:
            yield name


def not_allowed(model: str, names: Sequence[str], key: Key) -> Refusal:
    """The key may not use a model; ``names`` are those that it may ask for.

    Where no account serves any, its ``allowed_models`` still say what was meant for it.
    """
    allowed = sorted(key.allowed_models or ())
    advice = _advice(names) if names or not allowed else f"It may use {_listed(allowed)}."
    return Refusal(
        "model_not_allowed",
        f"This key may not use {shown_model(model)}. {advice}",
        param="model",
    )


def not_found(model: str, names: Sequence[str]) -> Refusal:
    """No account serves a model; ``names`` are those that the key may ask for."""
    return Refusal(
        "model_not_found",
        f"No account of this key serves {shown_model(model)}. {_advice(names)}",
        param="model",
    )


def _advice(names: Sequence[str]) -> str:
    if not names:
        return "At the moment the key may ask for no model. Ask the operator of this gateway."
    return f"It may ask for {_listed(names)}."


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(shown_model, names[:_MOST_NAMES]))
    rest = len(names) - _MOST_NAMES
    return f"{shown} and {rest} more" if rest > 0 else shown
