"""How a command ends: its exit codes, and every way to end early.

Exit codes follow sysexits(3): 0 done, 1 failed, 64 bad settings or usage, 69 the control plane
cannot be used.  The last two are what a shell makes of a command that SIGINT or SIGPIPE ended.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from image_gateway import config
from image_gateway.cli.output import complain, escaped

OK: Final = 0
FAILED: Final = 1
BAD_SETTINGS: Final = 64
CONTROL_PLANE_UNUSABLE: Final = 69
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141


class CommandError(Exception):
    """A command cannot do what it was asked; says why, and the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def handled(
    handler: Callable[[argparse.Namespace], None],
) -> Callable[[argparse.Namespace], int]:
    """A handler that gives the exit code, whatever way ``handler`` ends."""

    def run(args: argparse.Namespace) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names that its encoding has not
        try:
            handler(args)
            sys.stdout.flush()
        except CommandError as error:
            complain(str(error))
            return error.code
        except config.SettingsError as error:
            for mistake in error.mistakes:
                complain(mistake)
            return BAD_SETTINGS
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            # The interpreter flushes once more at its end, and would complain.
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            return PIPE_CLOSED
        except OSError as error:
            complain(f"{escaped(str(error.filename or 'the result'))}: {error.strerror}")
            return FAILED
        return OK

    return run
