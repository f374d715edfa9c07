"""The official SDK of JavaScript as a client: a script on Node in a process of its own."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "clients" / "node"
SCRIPT_SECONDS = 60.0
# What the SDK and Node read from their surroundings would change what a test sees.
_FOREIGN = ("OPENAI_", "AZURE_OPENAI_", "NODE_")


async def run(script: str, order: Any, seconds: float = SCRIPT_SECONDS) -> Any:
    """Give ``order`` to a script of ``FOLDER`` as JSON; gives the JSON that it says."""
    assert (FOLDER / "node_modules" / "openai").is_dir(), "not installed: run scripts/node-modules"
    process = await asyncio.create_subprocess_exec(
        "node",
        str(FOLDER / script),
        env={k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            said, words = await process.communicate(json.dumps(order).encode())
    except TimeoutError:
        raise AssertionError(f"{script} did not end within {seconds} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, words.decode()
    return json.loads(said)
