"""Processes that prepare chunks side by side; what comes back is in order, whoever was quicker.

A worker is ``python -c`` with this module's :func:`serve`: it reads messages on its standard input and answers on its
standard output, and ends when its input does. A message is a line of JSON and the arrays whose types and sizes it
names. Nothing of the program that started it is imported in a worker, and no torch.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt

from nmt.config import DataConfig
from nmt.data.corpus import Chunk
from nmt.data.preparing import Prepared, Preparer
from nmt.data.ragged import Ragged
from nmt.data.tokenizer import Tokenizer, Tokenizers
from nmt.errors import ConfigError, DataError, NmtError

__all__ = ["Workers", "processors", "serve"]

AHEAD = 2
"""Chunks read ahead for each worker, so that none waits for the one whose turn it is."""

START = "import sys; sys.path = sys.argv[1:]; from nmt.data.workers import serve; serve()"

T = TypeVar("T")
Arrays = Sequence[npt.NDArray[Any]]


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """``number`` processes that prepare chunks, from the beginning of a ``with`` block to its end."""

    def __init__(self, number: int, data: DataConfig, tokenizers: Tokenizers) -> None:
        self._number, self._data, self._tokenizers = number, data, tokenizers
        self._processes: list[subprocess.Popen[bytes]] = []
        self._free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()

    def __enter__(self) -> Self:
        sides = (self._tokenizers.source, self._tokenizers.target)[: 1 if self._tokenizers.joint else 2]
        models = [np.frombuffer(side.to_bytes(), dtype=np.uint8) for side in sides]
        try:
            for _ in range(self._number):
                # In a group of its own, Ctrl-C does not reach it: it ends when its input does.
                process = subprocess.Popen(
                    [sys.executable, "-c", START, *sys.path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    process_group=0,
                )
                self._processes.append(process)
                with contextlib.suppress(BrokenPipeError):  # it is found dead when it is asked
                    _send(_open(process.stdin), {"data": self._data.model_dump(mode="json")}, models)
                self._free.put(process)
        except BaseException:
            self._end()
            raise
        self._threads = ThreadPoolExecutor(self._number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._end()
        self._threads.shutdown()

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    _open(stream).close()

    def map(self, chunks: Iterable[tuple[T, Chunk]]) -> Iterator[tuple[T, Prepared]]:
        """Every chunk prepared, in order, with what stands beside it.

        Raises what a worker raises, and NmtError where one ends before its time.
        """
        waiting: deque[tuple[T, Future[Prepared]]] = deque()
        for beside, chunk in chunks:
            waiting.append((beside, self._threads.submit(self._ask, chunk)))
            if len(waiting) > AHEAD * self._number:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()

    def _ask(self, chunk: Chunk) -> Prepared:
        """Have the next free worker prepare a chunk."""
        process = self._free.get()
        try:
            sides = [np.frombuffer(side, dtype=np.uint8) for side in (chunk.source, chunk.target)]
            _send(_open(process.stdin), {"first": chunk.first, "names": chunk.names}, sides)
            head, arrays = _receive(_open(process.stdout))
        except (OSError, EOFError, ValueError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            raise NmtError(
                f"a process that was preparing pairs has ended (exit code {process.returncode}): it may have been "
                f"killed for want of memory; what is done is kept: start again, perhaps with fewer of --workers"
            ) from error
        finally:
            self._free.put(process)
        if "error" in head:
            for kind in (ConfigError, DataError):
                if head["error"] == kind.__name__:
                    raise kind(head["message"])
            raise NmtError(f"a process that was preparing pairs failed: {head['error']}: {head['message']}")
        return _prepared(head["read"], arrays)


# ------------------------------------------------------------------------------------------------------------ messages


def _send(stream: BinaryIO, head: dict[str, Any], arrays: Arrays) -> None:
    kinds = [(array.dtype.str, array.nbytes) for array in arrays]
    stream.write(json.dumps({**head, "arrays": kinds}).encode() + b"\n")
    for array in arrays:
        stream.write(array.data)
    stream.flush()


def _receive(stream: BinaryIO) -> tuple[dict[str, Any], Arrays]:
    """The next message. Raises EOFError where there is none or it is cut short, ValueError where its head is."""
    line = stream.readline()
    if not line:
        raise EOFError
    head = json.loads(line)
    arrays = []
    for kind, size in head["arrays"]:
        data = stream.read(size)
        if len(data) < size:
            raise EOFError
        arrays.append(np.frombuffer(data, dtype=kind))
    return head, arrays


def _arrays(one: Prepared) -> Arrays:
    columns = (one.source_ids, one.target_ids, one.source_text, one.target_text)
    return [one.reasons, one.hashes, *(part for column in columns for part in (column.flat, column.offsets))]


def _prepared(read: int, arrays: Arrays) -> Prepared:
    reasons, hashes, *parts = arrays
    columns = (Ragged(flat, offsets) for flat, offsets in zip(parts[::2], parts[1::2], strict=True))
    return Prepared(read, reasons, hashes, *columns)


def _open(stream: Any) -> BinaryIO:
    return cast(BinaryIO, stream)


# ------------------------------------------------------------------------------------------------------------ a worker


def serve() -> None:
    """Be a worker: prepare chunks until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is written to standard output is no message
    with io.BufferedReader(io.FileIO(0)) as asked, contextlib.suppress(EOFError, BrokenPipeError):
        head, models = _receive(asked)
        source, *others = [Tokenizer(model.tobytes()) for model in models]
        data, tokenizers = DataConfig.model_validate(head["data"]), Tokenizers(source, *(others or [source]))
        preparer: Preparer | None = None
        while True:
            head, sides = _receive(asked)
            chunk = Chunk(sides[0].tobytes(), sides[1].tobytes(), head["first"], head["names"])
            try:
                preparer = preparer or Preparer(data, tokenizers)  # which may find fault with the held-out sets
                one = preparer(chunk)
            except Exception as error:
                _send(answers, {"error": type(error).__name__, "message": str(error)}, [])
            else:
                _send(answers, {"read": one.read}, _arrays(one))
