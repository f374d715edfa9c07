"""The log: request records in files, written by a thread; the process's own log on stderr.

A request never waits for the disk.  Records go through a bounded queue to one thread that owns the
files; a record that the queue or the disk cannot take is lost and counted.  A file only holds whole
lines: after a failed write it is truncated to the last one.  Sealed files are named
``requests-<UTC time>-<number>.jsonl``.
"""

import contextlib
import json
import logging
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import orjson
from pythonjsonlogger.json import JsonFormatter

CURRENT: Final = "requests.jsonl"
SEALED: Final = "requests-*.jsonl"

_QUEUED: Final = 10_000
"""Records that may wait for the disk; at 2 KiB each 20 MiB."""
_LONGEST_RECORD: Final = 64 * 1024
_FLUSH_SECONDS: Final = 10.0
_IDLE_SECONDS: Final = 1.0
_STOP: Final = object()

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is sealed, and how many sealed ones are kept."""

    max_file_bytes: int
    max_file_seconds: float
    max_files: int


class RequestLog:
    """Takes records without blocking; opened and flushed by ``with``.

    ``clock`` gives the time in seconds since 1970.
    """

    def __init__(self, folder: Path, rotation: Rotation, clock: Callable[[], float]) -> None:
        self.lost = 0
        """Records that could not be written since the start."""
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._reopen = threading.Event()
        self._file = _CurrentFile(folder, rotation, clock)
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)

    def __repr__(self) -> str:
        return f"<RequestLog {self._file!r} lost={self.lost}>"

    def __enter__(self) -> Self:
        """Raises ``OSError`` when the folder cannot be written."""
        self._file.open()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._queue.put(_STOP)
        # A disk that hangs must not keep the process from ending.
        self._thread.join(_FLUSH_SECONDS)

    def put(self, record: dict[str, object]) -> None:
        """Queue a record; it is lost, and counted, if ten thousand wait already."""
        if self._queue.qsize() < _QUEUED:
            self._queue.put(record)
        else:
            self._lose("the queue is full")

    def reopen(self) -> None:
        """Open the file again by its name, after a log rotator moved it (SIGHUP)."""
        self._reopen.set()

    def _run(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                item = None
            try:
                if item is _STOP:
                    self._file.close()
                    return
                if self._reopen.is_set():
                    self._reopen.clear()
                    self._file.reopen()
                self._file.seal_if_due()
                if item is not None:
                    self._file.append(orjson.dumps(item) + b"\n")
            except Exception as error:  # noqa: BLE001 - one record must not end the thread
                if isinstance(item, dict):
                    self._lose(getattr(error, "strerror", None) or type(error).__name__)

    def _lose(self, reason: str) -> None:
        self.lost += 1
        if self.lost & (self.lost - 1) == 0:  # 1, 2, 4, 8: a full disk must not fill the journal
            _log.error(
                "%d log records lost since the start: %s; check the disk of LOG_DIR",
                self.lost,
                reason,
            )


class _CurrentFile:
    """The current file; used by the writing thread alone, once it is open."""

    def __init__(self, folder: Path, rotation: Rotation, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._rotation = rotation
        self._clock = clock
        self._file: int | None = None
        self._size = 0
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<_CurrentFile {self._size} bytes>"

    def open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._folder / CURRENT, flags, 0o640)
        self._size = os.fstat(self._file).st_size
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            # A process that was killed left half a record: end its line.
            self._size += os.write(self._file, b"\n")
        self._since = self._first_time() if self._size else self._clock()

    def reopen(self) -> None:
        self.close()
        self.open()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def append(self, line: bytes) -> None:
        if self._file is not None and os.fstat(self._file).st_nlink == 0:
            # Somebody removed the file or its folder: what is written now is lost, and no error
            # says so.
            self.close()
        if self._file is None:
            self.open()
        assert self._file is not None
        if not self._size:
            self._since = self._clock()
        try:
            remaining = memoryview(line)
            while remaining:
                remaining = remaining[os.write(self._file, remaining) :]
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)

    def seal_if_due(self) -> None:
        full = self._size >= self._rotation.max_file_bytes
        old = self._clock() - self._since >= self._rotation.max_file_seconds
        if self._size and (full or old):
            self._seal()

    def _seal(self) -> None:
        stamp = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%dT%H%M%SZ")
        number = 1
        while (target := self._folder / f"requests-{stamp}-{number:04}.jsonl").exists():
            number += 1
        self.close()
        with contextlib.suppress(FileNotFoundError):
            # Another program moved the file without a SIGHUP: there is nothing to seal.
            (self._folder / CURRENT).rename(target)
        self.open()
        # Names sort by time of sealing, then by number.
        sealed = sorted(self._folder.glob(SEALED))
        for path in sealed[: max(0, len(sealed) - self._rotation.max_files)]:
            path.unlink(missing_ok=True)

    def _first_time(self) -> float:
        """The time of the first record, so that the file's age survives a restart."""
        assert self._file is not None
        line = os.pread(self._file, _LONGEST_RECORD, 0).partition(b"\n")[0]
        try:
            return datetime.fromisoformat(str(json.loads(line)["time"])).timestamp()
        except (ValueError, KeyError, TypeError):
            return self._clock()


class _Formatter(JsonFormatter):
    """JSON lines that show an exception's type and traceback without its message.

    The message may quote the input: a prompt, a header, a connection string.
    """

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the base class's name
        kind, _, trace = ei
        frames = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)
        ]
        return " < ".join([kind.__name__ if kind else "unknown", *reversed(frames)])


def configure_process_log() -> None:
    """The process's own log: JSON lines on stderr, from libraries only warnings and above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("{levelname}{name}{message}", style="{", timestamp="time"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("image_gateway").setLevel(logging.INFO)
    # It warns about every broken body; the client's error and the record say it already.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


def report_loop_error(loop: object, context: dict[str, Any]) -> None:  # noqa: ARG001 - asyncio's signature
    """Asyncio's exception handler: logs its message without the objects it would print."""
    error = context.get("exception")
    _log.error(
        "asyncio: %s",
        context.get("message"),
        exc_info=error if isinstance(error, Exception) else None,
    )
