"""The gradients of one step, however its tokens fall into batches and processes, and whatever memory has room for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nmt.data.batching import Batch
from nmt.errors import TrainingError, is_out_of_memory
from nmt.models import Seq2Seq
from nmt.training.loss import token_loss
from nmt.training.precision import autocast
from nmt.training.state import TrainingState

__all__ = ["Gradients", "Objective"]


class Objective(nn.Module):
    """What is minimised, as a module: the loss of a batch, summed over its tokens."""

    def __init__(self, model: Seq2Seq, smoothing: float, consistency: float = 0.0) -> None:
        super().__init__()
        self.model, self.smoothing, self.consistency = model, smoothing, consistency

    def forward(self, batch: Batch) -> Tensor:
        """The loss of every real target token of ``batch``, summed; with consistency each goes through twice."""
        features = self.model(batch.twice() if self.consistency else batch).features
        return token_loss(
            features,
            self.model.output.weight,
            batch.target_out,
            batch.target_mask,
            smoothing=self.smoothing,
            consistency=self.consistency,
        ).loss


class Gradients:
    """Makes the backward passes of a step; where memory runs out, it makes them again over halves of the batches.

    What a batch may hold since then is ``room`` in the state's position: rows times the longest side, padding counted,
    as ``training.batch_tokens``. ``halvings`` counts how often memory has run out here since :meth:`agree`.
    """

    def __init__(self, state: TrainingState, objective: Objective, dtype: torch.dtype) -> None:
        self.state, self.ranks, self.dtype = state, state.ranks, dtype
        self.objective = self.ranks.parallel(objective)
        self.device = next(state.model.parameters()).device
        self.halvings = 0
        self._tried: Batch | None = None
        self._meeting = False  # whether the other processes are in the same backward pass

    def fitted(self, batches: Iterable[Batch]) -> list[Batch]:
        """The batches, in parts those that memory has no room for."""
        room = self.state.position.room
        fitted: list[Batch] = []
        for batch in batches:
            fits = not room or batch.padded_tokens <= room or len(batch) == 1
            fitted += [batch] if fits else self.fitted(batch.halves())
        return fitted

    def backward(self, batches: list[Batch]) -> tuple[float, int]:
        """Gradients of the mean loss over all tokens of the step, in all processes.

        Gives the sum of this process's losses and the number of tokens in all. Raises TrainingError where memory does
        not suffice for a single sentence pair, or runs out in the pass in which the processes meet.
        """
        (tokens,) = self.ranks.total(sum(batch.target_tokens for batch in batches))
        share = self.ranks.size / tokens  # gradients are averaged over the processes
        while True:
            try:
                return self._passes(batches, share), int(tokens)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._meeting and self._tried is not None:  # the others wait for what can no longer be made
                    size = self._tried.padded_tokens
                    raise TrainingError(
                        f"out of memory in the backward pass in which all processes meet, over {size} tokens: go "
                        f"on from the last checkpoint with --resume --force --set training.batch_tokens={size // 2}"
                    ) from error
            self._learn()
            batches = self.fitted(batches)

    def agree(self, halvings: int) -> None:
        """All processes take the room of the one that has least, after as many halvings in all of them."""
        position = self.state.position
        rooms = (int(room) for room in self.ranks.gather(torch.tensor([position.room])))
        position.room = min(room for room in rooms if room)
        position.halved += halvings
        self.halvings = 0

    def _passes(self, batches: list[Batch], share: float) -> float:
        """A pass for every batch, in the last of which the processes meet; gives the sum of the losses."""
        total = 0.0
        for number, batch in enumerate(batches, 1):
            last = number == len(batches)
            self._tried = batch
            with contextlib.nullcontext() if last else self.ranks.local_gradients(self.objective):
                with autocast(self.dtype, self.device):
                    loss = self.objective(batch)
                if last:  # one may have been much slower so far, and the others' patience is short from here on
                    self.ranks.wait()
                self._meeting = last and self.ranks.size > 1
                (loss * share).backward()
                self._meeting = False
            total += float(loss.detach())
        return total

    def _learn(self) -> None:
        """There is no room for what was tried: half of it is the most from now on."""
        assert self._tried is not None
        size = self._tried.padded_tokens
        if len(self._tried) == 1:
            raise TrainingError(
                f"out of memory over one sentence pair of {size} tokens: lower data.max_length, or make the model "
                f"smaller"
            )
        self.state.position.room = size // 2
        self.halvings += 1
        self._tried = None
        self.state.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
