"""The command as a shell meets it: exit codes, the one line on stderr, and where output goes when it cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from nmt_cli import commands
from nmt_cli.main import TOGETHER

NMT = Path(sys.executable).with_name("nmt")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without what would change a command: PYTHONUNBUFFERED hides buffering faults."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "NO_COLOR")}
    return {**kept, **(extra or {})}


def nmt(*arguments: str, extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(NMT), *arguments], capture_output=True, text=True, timeout=60, env=environment(extra), check=False
    )


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """A bash line in which ``nmt`` is ours."""
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment({"PATH": f"{NMT.parent}:{os.environ['PATH']}"}),
        check=False,
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text("[training]\nmax_steps = 7\n")
    return path


def test_version() -> None:
    import nmt as package

    done = nmt("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"nmt {package.__version__}\n", "")


def test_python_m_nmt_is_nmt() -> None:
    done = subprocess.run([sys.executable, "-m", "nmt", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == nmt("--version").stdout


def test_help_lists_the_verbs_in_order() -> None:
    from nmt_cli.main import VERBS

    done = nmt("--help")
    listed = [line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    assert done.returncode == 0
    assert [verb for verb in listed if verb in VERBS] == list(VERBS)


def test_no_verb_is_a_usage_error_that_shows_the_help() -> None:
    done = nmt()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Commands:" in done.stderr


def test_help_and_version_import_nothing_heavy() -> None:
    """Neither the library by itself, nor the command with all its verbs loaded."""
    code = (
        "import sys; from nmt_cli.main import main; code = main(['--help']);"
        "heavy = {'torch', 'numpy', 'datasets', 'matplotlib', 'sacrebleu', 'sentencepiece', 'tensorboard', 'rich'};"
        "sys.exit(f'imported: {sorted(heavy & set(sys.modules))}' if heavy & set(sys.modules) else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_library_costs_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import nmt; nmt.__version__; new = set(sys.modules) - before;"
        "sys.exit(' '.join(new & {'torch', 'numpy', 'pydantic', 'typing_extensions', 'sentencepiece', 'typer'}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["trian"], "There is no verb 'trian', did you mean 'train'? (see 'nmt --help')"),
        (["config"], "Missing argument 'RECIPE' (see 'nmt config --help')"),
        (
            ["config", "r.toml", "--jsn"],
            "No such option: --jsn (Possible options: --json, --set) (see 'nmt config --help')",
        ),
    ],
)
def test_a_command_written_wrongly_is_one_line_and_exit_2(arguments: list[str], words: str) -> None:
    done = nmt(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"nmt: error: {words}\n")


def test_a_known_error_is_one_line_with_its_exit_code(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    done = nmt("config", str(missing))
    line = f"nmt: error: {missing}: the recipe cannot be read: No such file or directory\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


@pytest.mark.parametrize("where", ["before", "after", "environment"])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(tmp_path: Path, where: str) -> None:
    arguments = ["config", str(tmp_path / "missing.toml")]
    if where == "environment":
        done = nmt(*arguments, extra={"NMT_DEBUG": "1"})
    else:
        done = nmt(*(["--debug", *arguments] if where == "before" else [*arguments, "--debug"]))
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.splitlines()[-1].startswith("nmt: error: ")


def test_an_unforeseen_error_asks_for_a_report(tmp_path: Path) -> None:
    code = (
        "import sys, nmt_cli.main as m, nmt.config as c\n"
        "def broken(*_): raise RuntimeError('first\\nsecond')\n"
        "c.recipe_text = broken\n"
        "sys.exit(m.main(['config', 'x.toml']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    words = "nmt: error: unexpected RuntimeError: first second (please report it; --debug shows the traceback)\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", words)


@pytest.mark.parametrize("raised, code", [("KeyboardInterrupt", 130), ("SystemExit(5)", 5), ("OSError(28, 'x')", 1)])
def test_how_an_exception_ends_the_command(raised: str, code: int) -> None:
    program = (
        "import sys, nmt_cli.main as m, nmt.config as c\n"
        f"def broken(*_): raise {raised}\n"
        "c.recipe_text = broken\n"
        "sys.exit(m.main(['config', 'x.toml']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "raised", ["MemoryError()", 'RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried")']
)
def test_memory_that_does_not_suffice_says_what_to_make_smaller(raised: str) -> None:
    program = (
        "import sys, nmt_cli.main as m, nmt.config as c\n"
        f"def broken(*_): raise {raised}\n"
        "c.recipe_text = broken\n"
        "sys.exit(m.main(['config', 'x.toml']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "nmt: error: out of memory: take smaller batches (training.batch_tokens, --batch-size)"
    )


def test_a_closed_pipe_is_silent() -> None:
    done = shell("nmt --help | true; echo ${PIPESTATUS[0]}")
    assert (done.stdout, done.stderr) in (("141\n", ""), ("0\n", ""))  # 0 where the reader left too late
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = subprocess.run([str(NMT), "--help"], stdout=write_end, stderr=subprocess.PIPE, env=environment())
    os.close(write_end)
    assert (process.returncode, process.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_stdout_is_an_error(recipe: Path) -> None:
    done = shell(f"nmt config {recipe} > /dev/full")
    assert (done.returncode, done.stderr) == (1, "nmt: error: standard output: No space left on device\n")


def test_a_closed_stdout_is_an_error(recipe: Path) -> None:
    done = shell(f"nmt config {recipe} >&-")
    assert (done.returncode, done.stderr) == (
        1,
        "nmt: error: standard output is closed: there is nowhere to write to\n",
    )


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "<&- 2>&-"])
def test_other_closed_streams_do_no_harm(recipe: Path, closed: str) -> None:
    done = shell(f"nmt config {recipe} {closed}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "max_steps = 7" in done.stdout


def test_no_colour_in_a_pipe() -> None:
    done = nmt("config", extra={"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"})
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("variables, coloured", [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_on_a_terminal_unless_it_is_not_wanted(variables: dict[str, str], coloured: bool) -> None:
    import pty

    leader, follower = pty.openpty()
    done = subprocess.run(
        [str(NMT), "config"],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=environment({"TERM": "xterm", **variables}),
        check=False,
    )
    os.close(follower)
    said = os.read(leader, 4096).decode()
    os.close(leader)
    assert done.returncode == 2
    assert ("\x1b[" in said) is coloured
    assert "Missing argument" in said


def test_every_option_has_its_environment_variable(recipe: Path) -> None:
    assert '"max_steps":7' in nmt("config", str(recipe), extra={"NMT_JSON": "1"}).stdout.replace(" ", "")
    by_variable = nmt("config", str(recipe), extra={"NMT_SET": "training.max_steps=8 decoding.beam=3"}).stdout
    assert "max_steps = 8" in by_variable
    assert "beam = 3" in by_variable


@pytest.mark.parametrize("verb", ["evaluate", "tokenize", "config"])
def test_what_works_in_one_process_is_not_done_by_all(recipe: Path, verb: str) -> None:
    command = [verb, *(["encode"] if verb == "tokenize" else []), str(recipe)]
    done = nmt(*command, extra={"TORCHELASTIC_RUN_ID": "x", "RANK": "1"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"nmt: error: nmt {verb} works in one process: start it without torchrun\n"
    assert "without torchrun" not in nmt(*command, extra={"TORCHELASTIC_RUN_ID": "x", "RANK": "0"}).stderr


def test_the_verbs_whose_work_is_shared_are_those_that_join() -> None:
    folder = Path(commands.__path__[0])
    assert {path.stem for path in folder.glob("*.py") if "joined()" in path.read_text()} == set(TOGETHER)


def test_a_flag_goes_before_its_variable(recipe: Path) -> None:
    done = nmt("config", str(recipe), "--set", "training.max_steps=9", extra={"NMT_SET": "training.max_steps=8"})
    assert "max_steps = 9" in done.stdout


def test_every_verb_carries_the_shared_flags() -> None:
    from nmt_cli.main import VERBS, load_verb

    for verb in VERBS:
        command = load_verb(verb)
        commands = getattr(command, "commands", {verb: command}).values()
        for each in commands:
            options = {option for parameter in each.params for option in parameter.opts}
            assert {"--quiet", "--debug"} <= options, (verb, each.name)
            assert all(
                parameter.envvar.startswith("NMT_")
                for parameter in each.params
                if parameter.param_type_name == "option"
            )


def test_a_verb_of_verbs_takes_the_shared_flags_itself() -> None:
    done = nmt("tokenize", "--debug", "encode", "nowhere.model")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    done = nmt("tokenize", "-q", "encode", "nowhere.model")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_no_variable_is_of_two_kinds() -> None:
    """What is another thing in another verb, by its type or by what may be chosen, has a variable of its own."""
    from nmt_cli.main import VERBS, load_verb

    kinds: dict[str, set[tuple[str, bool]]] = {}
    own = set()
    for verb in VERBS:
        command = load_verb(verb)
        for each in getattr(command, "commands", {verb: command}).values():
            for option in each.params:
                if option.param_type_name == "option":
                    kind = str(option.type_descriptor.annotation), option.multiple
                    kinds.setdefault(option.envvar, set()).add(kind)
                    if option.envvar != f"NMT_{max(option.opts, key=len).lstrip('-').replace('-', '_').upper()}":
                        own.add(option.envvar)
                        assert option.envvar.startswith(f"NMT_{verb.upper()}_")
                        assert option.show_envvar
    assert {variable: kind for variable, kind in kinds.items() if len(kind) > 1} == {}
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert own and [variable for variable in own if f"`{variable}`" not in readme] == []
    assert "[env var: NMT_SCORE_NBEST]" in " ".join(nmt("score", "--help").stdout.split())


def test_output_is_utf8_whatever_the_terminals_encoding(tmp_path: Path) -> None:
    recipe = tmp_path / "r\u0153.toml"
    recipe.write_text("[training]\nmax_steps = 7\n")
    for encoding in ("latin-1", "ascii"):
        done = nmt("config", str(recipe), extra={"PYTHONIOENCODING": encoding})
        assert (done.returncode, done.stderr) == (0, "")
        assert str(recipe) in done.stdout
    done = nmt("config", str(tmp_path / "\u0153.toml"), extra={"PYTHONIOENCODING": "ascii"})
    assert done.stderr.startswith(f"nmt: error: {tmp_path}/\u0153.toml: the recipe cannot be read")


@pytest.mark.parametrize("value", ["0", "false", "No", "OFF", ""])
def test_debugging_can_be_switched_off_by_its_variable(tmp_path: Path, value: str) -> None:
    done = nmt("config", str(tmp_path / "missing.toml"), extra={"NMT_DEBUG": value})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_force_for_other_verbs_is_passed_over_where_nothing_is_resumed(recipe: Path, tmp_path: Path) -> None:
    """Only what was given by hand is refused: the recipe, which names no corpora, is what is wrong then."""
    done = nmt("train", str(recipe), "--out", str(tmp_path / "run"), extra={"NMT_FORCE": "1"})
    assert (done.returncode, "--force" in done.stderr) == (2, False), done.stderr
    done = nmt("train", str(recipe), "--out", str(tmp_path / "run"), "--force")
    assert (done.returncode, "--force is about resuming" in done.stderr) == (2, True)
