"""Names of image models: which names are one, and when two names mean the same model.

Clients write ``openai/gpt-image-2`` or ``GPT-Image-2`` for ``gpt-image-2``.  Such a name counts as
the plain one, unless an operator has given exactly this name a meaning of its own: in a model map,
in ``allowed_models``, or among an account's deployments.
"""

from dataclasses import dataclass
from typing import Final, Self

from image_gateway.core.model import Grant, Key

PREFIXES: Final = ("gpt-image-", "chatgpt-image-")
"""What the names of OpenAI's image models begin with, also of models that do not exist yet."""


def plain(name: str) -> str:
    """An image model's name without space, upper case and vendor; any other name unchanged."""
    bare = _bare(name)
    return bare if bare.startswith(PREFIXES) else name


def is_image_model(name: str) -> bool:
    """Whether this is the name of an image model, ignoring space, case and a ``vendor/`` prefix."""
    return _bare(name).startswith(PREFIXES)


def _bare(name: str) -> str:
    return name.strip().lower().rpartition("/")[2].strip()


@dataclass(frozen=True, slots=True)
class ModelNames:
    """What names of models mean to a key; ``deployed`` are those in its accounts' deployments."""

    key: Key
    deployed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, grant: Grant) -> Self:
        """The meaning of names under a grant."""
        accounts = grant.allowed_accounts()
        return cls(grant.key, frozenset().union(*(each.deployments or () for each in accounts)))

    def requested(self, name: str) -> str:
        """The model that a client's name means, before the key's map."""
        is_own = (
            name in self.key.model_map
            or name in (self.key.allowed_models or ())
            or name in self.deployed
        )
        return name if is_own else plain(name)

    def mapped(self, name: str) -> str:
        """The model that the key maps a client's name to, as the operator wrote it."""
        requested = self.requested(name)
        return self.key.model_map.get(requested, requested)

    def upstream(self, name: str) -> str:
        """The model that accounts must serve for a client's name."""
        mapped = self.mapped(name)
        return mapped if mapped in self.deployed else plain(mapped)
