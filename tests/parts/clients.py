"""Clients that people use, each a program of its own that takes orders (``tests/clients``).

A program stays up while tests go by, because starting one takes seconds.  What it takes and says is
told in ``tests/clients/python/orders.py``.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NODE_MODULES = ROOT / "tests" / "clients" / "node" / "node_modules"
PYTHON = ROOT / ".venvs" / "clients" / "bin" / "python"
OPENAI_CLI = ROOT / ".venvs" / "openai-cli" / "bin" / "openai"
ANSWER_SECONDS = 60.0

PROGRAMS: Mapping[str, Sequence[str]] = {
    "ai-sdk": ("node", "tests/clients/node/ai-sdk.mjs"),
    "langchain-js": ("node", "tests/clients/node/langchain.mjs"),
    "agents-js": ("node", "tests/clients/node/agents.mjs"),
    "langchain": (str(PYTHON), "-m", "tests.clients.python.with_langchain"),
    "agents": (str(PYTHON), "-m", "tests.clients.python.with_agents"),
    "pydantic-ai": (str(PYTHON), "-m", "tests.clients.python.with_pydantic_ai"),
    "litellm": (str(PYTHON), "-m", "tests.clients.python.with_litellm"),
}

# What clients read from their surroundings would change what a test sees, or lead them elsewhere.
_FOREIGN = ("openai_", "azure_", "node_", "python", "langsmith_", "langchain_", "litellm_")
_OWN = {
    # litellm asks the network for prices when it is imported, unless told otherwise.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def environment() -> dict[str, str]:
    """The surroundings of a client: nothing of another service, and no proxy."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().startswith(_FOREIGN) and not name.lower().endswith("_proxy")
    }
    return kept | _OWN


class Program:
    """One running client; close it when the tests are over."""

    def __init__(self, name: str) -> None:
        self.name = name
        installed = NODE_MODULES if PROGRAMS[name][0] == "node" else PYTHON
        assert installed.exists(), "not installed: run scripts/client-packages"
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the program
        self._process = subprocess.Popen(
            PROGRAMS[name],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
        )

    async def ask(self, order: Mapping[str, Any], seconds: float = ANSWER_SECONDS) -> Any:
        """What the client's user saw of this order."""
        waiting = asyncio.create_task(asyncio.to_thread(self._exchange, order))
        done, _ = await asyncio.wait([waiting], timeout=seconds)
        if not done:
            # Its end ends the thread that waits for its line.
            self._process.kill()
        line = await waiting
        assert line, f"{self.name} did not answer: {self._said()}"
        return json.loads(line)

    def _exchange(self, order: Mapping[str, Any]) -> bytes:
        """Its line, or nothing if it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        return self._process.stdout.readline()

    def _said(self) -> str:
        self._words.seek(0)
        return self._words.read().decode(errors="replace")[-4000:]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._words.close()


class Programs:
    """The clients that some test has asked for, each started once."""

    def __init__(self) -> None:
        self._running: dict[str, Program] = {}

    def __getitem__(self, name: str) -> Program:
        if name not in self._running:
            self._running[name] = Program(name)
        return self._running[name]

    def close(self) -> None:
        for program in self._running.values():
            program.close()
