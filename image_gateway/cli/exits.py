"""The exit codes of commands, and the errors that end a command early.

Exit codes follow sysexits(3): 0 done, 1 failed, 64 bad settings or usage, 69 the control plane
cannot be used.  The last two are those that a shell reports after SIGINT or SIGPIPE.
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
    """A command failed; holds the message for the operator and the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def handled(
    handler: Callable[[argparse.Namespace], None],
) -> Callable[[argparse.Namespace], int]:
    """``handler`` with its errors reported on stderr; returns the exit code."""

    def run(args: argparse.Namespace) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # for names that stdout cannot encode
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
            # The interpreter flushes stdout again at exit, which would fail again.
            with Path(os.devnull).open("wb") as devnull:
                os.dup2(devnull.fileno(), sys.stdout.fileno())
            return PIPE_CLOSED
        except OSError as error:
            complain(f"{escaped(str(error.filename or 'the output'))}: {error.strerror}")
            return FAILED
        return OK

    return run
