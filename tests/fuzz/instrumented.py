"""One target under atheris, which reports to it what of the code each input reaches.

``python -m tests.fuzz.instrumented TARGET OPTION...`` with the options of libFuzzer.
"""

import sys

import atheris

with atheris.instrument_imports(include=["image_gateway", "python_multipart"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Run until a limit or a crash; libFuzzer ends the process."""
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
