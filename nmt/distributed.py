"""One job in many processes, each with a copy of the model, a share of the data and a device of its own.

``torchrun`` starts the processes and tells each in its environment who it is: its ``RANK`` among ``WORLD_SIZE``, its
``LOCAL_RANK`` on its machine. :class:`Ranks` is all that the rest of nmt knows of it: for a single process every method
is there and does nothing, so that there is one road for one process and for many. Gradients go through torch's
DistributedDataParallel, by NCCL between GPUs and gloo between processors; the few numbers that are agreed on beside
them, and on processors Muon's matrices, always go by gloo, which tells at once when a process has ended. A single
process loads no torch for it.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

from nmt.errors import ConfigError, Interrupted, TrainingError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["ALONE", "Ranks", "joined"]

#: How long a process waits for the others' gradients: all begin together on the pass that they come out of.
STEP_TIMEOUT = timedelta(seconds=50)
#: How long it waits otherwise: for the first to read corpora, validate and write files.
PATIENCE = timedelta(days=1)


class Ranks:
    """The processes of a job, as seen from one: ``rank`` of ``size``, and ``local`` on its machine."""

    def __init__(self, rank: int = 0, size: int = 1, local: int = 0) -> None:
        self.rank, self.size, self.local = rank, size, local
        self._patient: Any = None
        if size > 1:
            import torch

            self._patient = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks, validates and writes for all."""
        return self.rank == 0

    def total(self, *values: float) -> tuple[float, ...]:
        """Each value summed over all processes, the same in each to the last bit."""
        if self.size == 1:
            return values
        import torch

        sums = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(sums, group=self._patient)
        return tuple(sums.tolist())

    def of_first(self, *values: float) -> tuple[float, ...]:
        """The values that the first process gives, in every process, however long the first takes to come by them."""
        if self.size == 1:
            return values
        import torch

        told = torch.tensor(values, dtype=torch.float64)
        torch.distributed.broadcast(told, 0, group=self._patient)
        return tuple(told.tolist())

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes by rank; they have one shape and lie in main memory."""
        if self.size == 1:
            return [tensor]
        import torch

        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        torch.distributed.all_gather(tensors, tensor, group=self._patient)
        return tensors

    def tell(self, text: str) -> str:
        """What the first process says, in every process, however long it takes to find words."""
        if self.size == 1:
            return text
        import torch

        said = text.encode() if self.is_first else b""
        (length,) = self.of_first(len(said))
        letters = torch.empty(int(length), dtype=torch.uint8)
        if said:
            letters.copy_(torch.frombuffer(bytearray(said), dtype=torch.uint8))
        torch.distributed.broadcast(letters, 0, group=self._patient)
        return letters.numpy().tobytes().decode()

    def collect(self, text: str) -> list[str]:
        """What each process says, by rank, in every process."""
        if self.size == 1:
            return [text]
        import torch

        said = text.encode()
        lengths = [int(length) for length in self.gather(torch.tensor([len(said)]))]
        letters = torch.zeros(max(lengths), dtype=torch.uint8)
        if said:
            letters[: len(said)] = torch.frombuffer(bytearray(said), dtype=torch.uint8)
        return [
            one[:length].numpy().tobytes().decode() for one, length in zip(self.gather(letters), lengths, strict=True)
        ]

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.size > 1:
            import torch

            torch.distributed.barrier(group=self._patient)

    def leave(self) -> None:
        """Let go of what talks to the others: nothing can be agreed on any more."""
        self._patient = None

    @contextlib.contextmanager
    def first_leads(self) -> Iterator[None]:
        """The others do what is inside when the first has done it."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with the weights of the first process, whose backward pass averages gradients over all.

        Its buffers are left alone: tables that each process lengthens as its own batches ask.
        """
        if self.size == 1:
            return module
        import torch

        kind = torch.nn.parallel.DistributedDataParallel
        if "forward_sync_buffers" in inspect.signature(kind).parameters:  # what torch 2.13 calls it
            return kind(module, gradient_as_bucket_view=True, forward_sync_buffers=False)
        return kind(module, gradient_as_bucket_view=True, broadcast_buffers=False)

    @contextlib.contextmanager
    def local_gradients(self, module: nn.Module) -> Iterator[None]:
        """Backward passes of a :meth:`parallel` module inside add up gradients of this process alone."""
        import torch

        alone = (
            module.no_sync()
            if isinstance(module, torch.nn.parallel.DistributedDataParallel)
            else contextlib.nullcontext()
        )
        with alone:
            yield


#: A single process.
ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started, met; a single one where it started none.

    Raises ConfigError for an environment that makes no sense, TrainingError inside where another process is gone,
    Interrupted where SIGTERM comes and nobody inside has taken it upon himself.
    """
    rank, size, local = (_number(name, least) for name, least in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    if size == 1:
        yield ALONE
        return
    import torch

    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(local % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            torch.distributed.init_process_group(backend, timeout=STEP_TIMEOUT)
        except ValueError as error:
            raise ConfigError(f"WORLD_SIZE={size} in the environment, but {error}; torchrun sets both") from error
        ranks = Ranks(rank, size, local)
        try:
            yield ranks
        finally:
            ranks.leave()
    except (RuntimeError, Interrupted) as error:
        # torchrun terminates the others when one has ended, often before they could say what that means for them.
        told = error if isinstance(error, RuntimeError) else error.__context__
        if not isinstance(told, RuntimeError) or not _tells_of_others(told):
            raise
        before = signal.SIG_IGN
        raise TrainingError(
            f"process {rank} of {size}: the others cannot be reached any more: where one of them has ended, its own "
            f"message says why; a training that had begun goes on with --resume"
        ) from told
    finally:
        signal.signal(signal.SIGTERM, before)
        if torch.distributed.is_initialized():  # and with it the threads of its groups, before Python ends
            torch.distributed.destroy_process_group()


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Interrupted("terminated", number)


def _tells_of_others(error: RuntimeError) -> bool:
    """Whether an error is one of talking to other processes; gloo has words for that only."""
    import torch

    words = ("gloo", "connection closed", "connection reset", "connection refused", "timed out")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error).lower() for word in words)


def _number(name: str, least: int) -> int:
    text = os.environ.get(name) or str(least)
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{name}={text} in the environment: torchrun sets it to a number from {least} on; unset it")
    return int(text)
