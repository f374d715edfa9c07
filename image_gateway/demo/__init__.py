"""The gateway at work with everything embedded: Postgres, an upstream that draws, real clients.

For people who want to see it before they install it.  Nothing here is used by ``serve``.
"""

from image_gateway.demo.show import run

__all__ = ["run"]
