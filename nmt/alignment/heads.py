"""Where every head of every layer looks: all the attention there is in a model, over one sentence pair.

What a Transformer's decoder tells of the source is the mean over the heads of one layer. This is the whole: the
encoder's self-attention, the decoder's, masked, and its attention to the source, each a matrix a head and layer
(Vaswani et al. 2017, section 3.2 and figures 3 to 5). A recurrent decoder has one matrix, and one to the source alone.

The pair is forced through the model with a hook on every attention; nothing of the model is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from nmt.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from nmt.decoding.translator import Translator
    from nmt.models import Seq2Seq

__all__ = ["Heads", "as_dict", "heads_of"]

Kind = Literal["encoder", "decoder", "cross"]

BEGIN, END = "<s>", "</s>"


@dataclass(frozen=True)
class Heads:
    """One kind of attention, of N layers with A heads: a row a query, which adds up to 1 over the keys.

    ``encoder`` is that of source pieces to source pieces, ``decoder`` that of what has been written to what was written
    before, and ``cross`` that to the source from which each piece was predicted; the ends of sentences are among them.
    """

    kind: Kind
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    weights: Float[np.ndarray, "N A T S"]


def heads_of(translator: Translator, source: str, target: str) -> list[Heads]:
    """All attention over a pair of lines. Raises ConfigError for one with a blank side or too long to be read at once.

    An ensemble or an export has none to be had: ConfigError as well.
    """
    import torch

    from nmt.data.batching import collate
    from nmt.decoding.scoring import evaluating
    from nmt.decoding.translator import LONGEST

    model, tokenizers = translator.model, translator.tokenizers
    read, written = tokenizers.source.encode(source), tokenizers.target.encode(target)
    if not read or not written:
        raise ConfigError("a pair with a blank side has no attention: choose another line")
    longest = translator.engine.longest_target or LONGEST
    if len(read) >= translator.longest_source or len(written) >= longest:
        raise ConfigError(
            f"{len(read)} source and {len(written)} target pieces are more than the {translator.longest_source - 1} "
            f"and {longest - 1} read at once: choose a shorter line"
        )
    ends = tokenizers.target
    batch = collate([(read, written)], [0], pad_id=ends.pad_id, bos_id=ends.bos_id, eos_id=ends.eos_id)
    with evaluating(model.modules()), torch.inference_mode(), _listening(model) as heard:
        plain = model(batch.to(translator.device), attention=True).attention
    pieces = tuple(tokenizers.source.pieces(read)), tuple(tokenizers.target.pieces(written))
    keys, before, after = (*pieces[0], END), (BEGIN, *pieces[1]), (*pieces[1], END)
    sides: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "encoder": (keys, keys),
        "decoder": (before, before),
        "cross": (after, keys),
    }
    if not heard["cross"] and plain is not None:
        heard["cross"].append(plain.unsqueeze(1))
    return [
        Heads(kind, *both, np.stack([weights[0].double().cpu().numpy() for weights in heard[kind]]))
        for kind, both in sides.items()
        if heard[kind]
    ]


def as_dict(heads: Heads) -> dict[str, Any]:
    """The same for JSON: ``weights`` by layer, head, query and key."""
    return {
        "kind": heads.kind,
        "queries": list(heads.queries),
        "keys": list(heads.keys),
        "weights": np.round(heads.weights, 4).tolist(),
    }


@contextmanager
def _listening(model: Seq2Seq) -> Iterator[dict[Kind, list[Tensor]]]:
    """What each multi-head attention of the model gives its queries meanwhile, layer by layer."""
    from nmt.layers.attention import MultiHeadAttention

    heard: dict[Kind, list[Tensor]] = {"encoder": [], "decoder": [], "cross": []}
    with ExitStack() as hooks:
        for name, part in model.named_modules():
            if isinstance(part, MultiHeadAttention):
                side: Kind = "encoder" if name.startswith("encoder.") else "decoder"
                kind: Kind = "cross" if name.endswith("cross_attention") else side

                def hear(_: Any, __: Any, answer: tuple[Tensor, Tensor], into: list[Tensor] = heard[kind]) -> None:
                    into.append(answer[1])

                hooks.callback(part.register_forward_hook(hear).remove)
        yield heard
