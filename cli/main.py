"""The app ``nmt``: which verbs there are, the flags they share, and how a command ends.

A verb is loaded when it is used, so that ``nmt --help`` imports no torch and a shell pipe starts quickly. To add one,
write ``cli/commands/<verb>.py`` and add it to :data:`VERBS`. A verb imports heavy modules inside its function.

Every option of every verb is also an environment variable: ``--batch-size`` is ``NMT_BATCH_SIZE``. The flag goes
before the variable, the variable before the recipe, the recipe before the defaults. A variable is for all verbs that
have the option, those of search and of resuming are passed over where they have no say; an option that is another thing
than one of the same name in another verb has a variable of its own, which its declaration and the help name
(``NMT_SCORE_NBEST``).

Exit codes: those of :mod:`nmt.errors`; 2 for a command that was written wrongly; 130 for SIGINT; 141 where the reader
of the output closed the pipe; 1 where the output cannot be written or something unforeseen happens.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import typer.core
import typer.main
from typer.exceptions import TyperException

import nmt
from nmt.errors import ConfigError, NmtError, is_out_of_memory
from nmt_cli import console
from nmt_cli.loading import process
from nmt_cli.options import note_by_hand

__all__ = ["VERBS", "app", "main"]

VERBS = {
    "demo": "Train, score and look at a model on the embedded corpus.",
    "synth": "Write an English-French corpus with gold word links.",
    "split": "Hold pairs of a corpus out, to validate and to test on.",
    "tokenize": "Train subword tokenizers, encode and decode with them.",
    "prepare": "Tokenise a recipe's corpora ahead of training.",
    "train": "Train a model by a recipe.",
    "translate": "Translate lines of text.",
    "score": "Say how likely a model finds given translations.",
    "evaluate": "Score translations: BLEU, chrF, TER.",
    "export": "Write a model for another engine, proved to translate as the run does.",
    "align": "Link words by attention, draw it, measure AER.",
    "average": "Make one model of several checkpoints of a run.",
    "runs": "List runs and what they reached.",
    "race": "Train recipes against each other, the same time for each.",
    "config": "Show what a recipe comes to.",
}
"""What ``nmt --help`` lists. Each verb lives in the module of its name in ``nmt_cli.commands``."""

PIPE_CLOSED = 128 + 13
"""The exit code where the reader of the output left: that of a program ended by SIGPIPE."""

OUT_OF_MEMORY = (
    "out of memory: take smaller batches (training.batch_tokens, --batch-size), a smaller model, shorter lines"
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]
Version = Annotated[bool, typer.Option("--version", help="Show the version and leave.")]


class Verbs(typer.core.TyperGroup):
    """The commands, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All verbs, in their own order."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb of that name, loaded; None where there is none."""
        if cmd_name not in VERBS:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = load_verb(cmd_name)
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the verbs without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As Typer's own, with the nearest verb where there is none of that name."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            nearest = difflib.get_close_matches(args[0], VERBS, n=1)
            ctx.fail(f"There is no verb {args[0]!r}" + (f", did you mean {nearest[0]!r}?" if nearest else ""))
        return super().resolve_command(ctx, args)


TOGETHER = ("race", "train", "translate")
"""Verbs whose work several processes share, started by torchrun."""


app = typer.Typer(
    name="nmt",
    cls=Verbs,
    add_completion=False,
    rich_markup_mode=None,
    invoke_without_command=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="Every option is also an environment variable: --batch-size is NMT_BATCH_SIZE. 'nmt VERB --help' says more.",
)


@app.callback()
def nmt_command(context: typer.Context, quiet: Quiet = False, debug: Debug = False, version: Version = False) -> None:
    """Neural machine translation: train on two text files, translate in a shell pipe, score, and look at attention."""
    _share(quiet, debug)
    if version:
        _tell_version()
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _tell_version() -> None:
    print(f"nmt {nmt.__version__}")


def load_verb(name: str) -> Any:
    """The command of a verb, its options readable from the environment and joined by the flags all verbs share."""
    module = importlib.import_module(f"nmt_cli.commands.{name}")
    verb = getattr(module, name)
    if isinstance(verb, typer.Typer):
        group = typer.main.get_group(verb)
        group.name = name
        for command in (group, *group.commands.values()):
            _equip(command, name)
        return group
    single = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=app.info.context_settings)
    single.command(name)(verb)
    command = typer.main.get_command(single)
    _equip(command, name)
    return command


def _equip(command: Any, verb: str) -> None:
    """Give a command the shared flags, all its options environment variables, and word of what was given by hand; keep
    one that is of no ``verb`` in :data:`TOGETHER` from being done as often as torchrun has processes.
    """
    shared = typer.Typer(add_completion=False)
    shared.command()(_share)
    names = {parameter.name for parameter in command.params}
    for parameter in typer.main.get_command(shared).params:
        if parameter.name not in names:
            parameter.callback = _remember
            parameter.expose_value = False
            command.params.append(parameter)
    for parameter in command.params:
        if parameter.param_type_name == "option" and not parameter.envvar:
            parameter.envvar = f"NMT_{max(parameter.opts, key=len).lstrip('-').replace('-', '_').upper()}"
            parameter.show_envvar = False
    invoke = command.invoke

    def invoke_knowing(context: Any) -> Any:
        if verb not in TOGETHER and "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0":
            raise ConfigError(f"nmt {verb} works in one process: start it without torchrun")
        note_by_hand(context)
        return invoke(context)

    command.invoke = invoke_knowing


def _share(quiet: Quiet = False, debug: Debug = False) -> None:
    """Take note of the shared flags; given once, before or after the verb, they hold."""
    console.settings.quiet |= quiet
    console.settings.debug |= debug


def _remember(context: Any, parameter: Any, value: bool) -> bool:
    """The callback of a shared flag that stands after the verb."""
    _share(**{parameter.name: value})
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Nothing that a user can do ends in a traceback."""
    process.is_ours = arguments is None
    console.settings.quiet = False
    console.settings.debug = _is_on(os.environ.get("NMT_DEBUG", ""))
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):  # UTF-8 whatever the terminal's is, as lines are, and any path's name
            stream.reconfigure(encoding="utf-8", errors=errors)
    if not _open_standard_streams():
        console.error("standard output is closed: there is nowhere to write to")
        return 1
    console.take_over()
    # Before torch is loaded: its threads are to sleep while they wait for each other. Spinning, the default, makes two
    # threads many times slower than one as soon as anything else wants the processor.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if process.is_ours:
        # Before pydantic is: it would look for plugins of it in what every installed package says of itself.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    ending = _run(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # lest the interpreter try again as it leaves
        if isinstance(error, BrokenPipeError):
            ending = Ending(PIPE_CLOSED)
        elif ending.code == 0 or isinstance(ending.error, OSError):
            ending = Ending(1, f"standard output: {error.strerror}", error)
    if ending.error is not None and console.settings.debug:
        console.trace(ending.error)
    if ending.message:
        console.error(ending.message)
    if process.has_loaded:
        process.keep()
    return ending.code


def _is_on(value: str) -> bool:
    """Whether a flag's variable switches it on, by the words that flags are read by."""
    return value.strip().lower() not in ("", "0", "false", "f", "no", "n", "off")


@dataclass(frozen=True)
class Ending:
    """How a command ended: its exit code, and where it failed the line to say and the error it came from."""

    code: int
    message: str = ""
    error: BaseException | None = None


def _run(arguments: Sequence[str]) -> Ending:
    """Run the command; whatever it raises is an ending."""
    try:
        if list(arguments) == ["--version"]:  # at once: what reads flags takes three times as long to load
            _tell_version()
            return Ending(0)
        command = typer.main.get_command(app)
        with command.make_context("nmt", list(arguments)) as context:
            command.invoke(context)
        return Ending(0)
    except typer.Exit as leave:
        return Ending(leave.exit_code)
    except TyperException as error:
        return Ending(error.exit_code, _usage(error), error)
    except NmtError as error:
        return Ending(error.exit_code, str(error), error)
    except KeyboardInterrupt as error:
        return Ending(128 + signal.SIGINT, "interrupted", error)
    except BrokenPipeError:
        return Ending(PIPE_CLOSED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return Ending(1, f"{where}{error.strerror or error}", error)
    except (MemoryError, RuntimeError) as error:
        return Ending(1, OUT_OF_MEMORY, error) if is_out_of_memory(error) else _unforeseen(error)
    except Exception as error:
        return _unforeseen(error)


def _unforeseen(error: Exception) -> Ending:
    """The ending of a command that met what nobody thought of."""
    kind = type(error).__name__
    return Ending(1, f"unexpected {kind}: {error} (please report it; --debug shows the traceback)", error)


def _usage(error: TyperException) -> str:
    """What is wrong with the command line, and whose help to read."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "nmt"
    return f"{error.format_message().rstrip('.')} (see '{path} --help')"


def _open_standard_streams() -> bool:
    """Whether stdout is open; stands /dev/null in for what is closed, lest the next opened file take its number."""
    closed = []
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            closed.append(number)
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    return 1 not in closed


if __name__ == "__main__":
    sys.exit(main())
