"""What all tests share: shapes checked at run time, one thread, and small corpora.

Every module below is imported through jaxtyping's hook, so that a function called with a shape other than the one its
signature promises fails the test that called it.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests say what they mean: nothing comes from the environment of the person who runs them.
for name in [name for name in os.environ if name.startswith("NMT_")]:
    del os.environ[name]
# Two searches are compared to the last digits: commands search in single precision on any processor, as tests do below.
os.environ["NMT_PRECISION"] = "float32"

install_import_hook(
    [
        "nmt.alignment",
        "nmt.data.batching",
        "nmt.decoding",
        "nmt.evaluation",
        "nmt.layers",
        "nmt.models",
        "nmt.training",
    ],
    "beartype.beartype",
)

import torch  # noqa: E402

import nmt.data.tokenizer  # noqa: E402
import nmt.models  # noqa: E402
from nmt.layers import packing  # noqa: E402

# Where few need numpy, arrays and their shapes are known to type checkers alone, of which this is one.
with pytest.MonkeyPatch.context() as patch:
    patch.setattr("typing.TYPE_CHECKING", True)
    import nmt.decoding.hypothesis
    import nmt.decoding.lines  # noqa: F401

from nmt.decoding import torch_engine  # noqa: E402
from nmt.training import loop  # noqa: E402
from tests import forking  # noqa: E402

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent

NOUNS = {"cat": "chat", "dog": "chien", "horse": "cheval", "bird": "oiseau", "wolf": "loup", "lion": "lion"}
ADJECTIVES = {"black": "noir", "white": "blanc", "green": "vert", "tired": "fatigué", "": ""}
VERBS = {"sleeps": "dort", "eats": "mange", "runs": "court", "sings": "chante", "sees the cat": "voit le chat"}


def small_pairs() -> list[tuple[str, str]]:
    """150 English sentences with their French, in an order that mixes words; no sentence twice."""
    pairs = []
    for noun, adjective, verb in itertools.product(NOUNS, ADJECTIVES, VERBS):
        english = f"the {adjective} {noun} {verb} ." if adjective else f"the {noun} {verb} ."
        french = " ".join(f"le {NOUNS[noun]} {ADJECTIVES[adjective]} {VERBS[verb]} .".split())
        pairs.append((english, french))
    return [pairs[(37 * index) % len(pairs)] for index in range(len(pairs))]


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def write_small_corpus(folder: Path) -> Path:
    pairs = small_pairs()
    for name, part in (("train", pairs[:120]), ("valid", pairs[120:135]), ("test", pairs[135:])):
        write_lines(folder / f"{name}.en", [english for english, _ in part])
        write_lines(folder / f"{name}.fr", [french for _, french in part])
    return folder


@pytest.fixture(scope="session", autouse=True)
def single_precision() -> Iterator[None]:
    """Where search may choose it takes float32, on any processor: what rounds is tested where it is asked for."""
    resolve = packing.resolve_precision
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch_engine,
            "resolve_precision",
            lambda wanted, on, weights: resolve("float32" if wanted == "auto" else wanted, on, weights),
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def curves_are_drawn_elsewhere() -> Iterator[None]:
    """A picture takes longer than the rest of a short training: commands draw it, and the tests that look at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "draw_curves", lambda records, path: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell that starts tests in the background has them ignore Ctrl-C, which some send to themselves."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def warm_python() -> Iterator[str]:
    """A program to call in place of ``python`` that has torch loaded already: see ``forking``."""
    with forking.warm_python() as program:
        yield program


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``train``, ``valid`` and ``test`` in English (.en) and French (.fr): 120, 15 and 15 pairs.

    Shared by all tests of a process: read it, do not write to it.
    """
    return write_small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def tracked() -> set[str]:
    """The files of the checkout, new ones too; where there is no git, as in an sdist, there is nothing to compare."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    return {name for name in done.stdout.splitlines() if os.path.lexists(ROOT / name)}


RECIPE = """
[data]
source = "en"
target = "fr"
train = {{ source = "{corpus}/train.en", target = "{corpus}/train.fr" }}
valid = {{ source = "{corpus}/valid.en", target = "{corpus}/valid.fr" }}
test = {{ source = "{corpus}/test.en", target = "{corpus}/test.fr" }}
[tokenizer]
vocabulary = 330
[model]
embedding = 16
encoder = {{ type = "gru", width = 16 }}
decoder = {{ type = "gru", width = 16 }}
tied_embeddings = 3
[decoding]
beam = 2
max_extra = 5
precision = "float32"
"""


@pytest.fixture(scope="session")
def untrained_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder from English to French whose models, tiny GRUs with attention, have the weights they were born with.

    There are two, ``step-10`` and ``step-20``, the latter being the best. Shared by all tests of a process: read it, or
    copy it.
    """
    from nmt.checkpoint import Run
    from nmt.config import parse_recipe
    from nmt.data.tokenizer import train_tokenizers

    recipe = parse_recipe(RECIPE.format(corpus=corpus))
    tokenizers = train_tokenizers(recipe.data, recipe.tokenizer, 1)
    torch.manual_seed(1)
    run = Run.create(tmp_path_factory.mktemp("runs") / "tiny", recipe, tokenizers)
    run.save_model(run.new_model(), 10, {"bleu": 1.0, "chrf": 1.0, "loss": 5.0})
    run.save_model(run.new_model(), 20, {"bleu": 2.0, "chrf": 1.0, "loss": 4.0})
    return run.folder
