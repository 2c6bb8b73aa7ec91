"""Python that has torch loaded already: without the seconds that importing it takes, each time, for each process.

:func:`warm_python` starts one process that imports what nmt may ever need. What is called in place of ``python`` hands
its arguments, environment and standard streams over; a fork of that process does with them what ``python`` would, ends
as it would, gets the signals that are sent to the caller, and is killed when the caller is.

A test that is about how a process starts, or about what it finds when it does, calls the real Python.
"""

from __future__ import annotations

import faulthandler
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
CALLER = """#!{python} -SE
import json, os, signal, socket, sys
signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(call).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(call)
    with server.makefile("rb") as told:
        process = int(told.readline() or 0)
        for one in signals:
            signal.signal(one, lambda number, frame: os.kill(process, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        code = int(told.readline() or 1)
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@contextmanager
def warm_python() -> Iterator[str]:
    """The path of a program to call in place of ``python``, for as long as the block lasts."""
    with TemporaryDirectory(prefix="nmt") as folder:
        address, program = f"{folder}/socket", Path(folder) / "python"
        program.write_text(CALLER.format(python=sys.executable, address=address))
        program.chmod(0o755)
        # Unbuffered, a standard output hides faults; what a call's own environment says of it comes too late.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        command = [sys.executable, "-m", "tests.forking", address, str(program)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == b"ready\n"
                yield str(program)
            finally:
                server.terminate()


def serve(address: str, program: str) -> None:
    """Do what ``program`` asks for at ``address``, each time in a fork of its own."""
    import datasets  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import torch._dynamo  # which the first optimiser imports
    import torch.distributed.elastic.multiprocessing
    import torch.distributed.launcher.api  # noqa: F401

    import nmt_cli.main  # noqa: F401

    sys.path.insert(1, str(ROOT))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while True:
            caller, _ = listening.accept()
            if not os.fork():
                listening.close()
                answer(caller, program)
            caller.close()


def answer(caller: socket.socket, program: str) -> None:
    """Have a fork do what a caller asks for and tell how it ended; kill it when the caller is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(caller, 4, 3)
    call = b""
    while len(call) < int.from_bytes(size, "big"):
        call += caller.recv(1 << 16)
    alive, held = os.pipe()
    process = os.fork()
    if not process:
        caller.close()
        os.close(alive)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        become(program, *json.loads(call))
    for descriptor in (held, *streams):
        os.close(descriptor)
    caller.sendall(b"%d\n" % process)
    ready, _, _ = select.select([alive, caller.fileno()], [], [])
    if alive not in ready:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    try:
        caller.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    finally:
        os._exit(0)


def become(program: str, arguments: Sequence[str], folder: str, environment: dict[str, str]) -> None:
    """Be the process that ``python`` with these arguments starts, and end as it does; what it starts is warm too.

    What modules have registered to be done at the end is not done.
    """
    import torch

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # These are read when torch and Python start, which is over.
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    if environment.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    sys.executable = program
    take_streams(environment.get("PYTHONIOENCODING", "utf-8"))
    code: object = 0
    try:
        python(arguments[1:] if arguments[0] == "-u" else arguments)
    except SystemExit as left:
        code = left.code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        if isinstance(code, str):
            print(code, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def take_streams(encoding: str) -> None:
    """Open what is standard input, output and error by now: Python did that for others, which may have been files."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        errors = "backslashreplace" if name == "stderr" else None
        stream = open(number, mode, 1 if number == 2 else -1, encoding, errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def python(arguments: Sequence[str]) -> None:
    """Run a module (``-m``), a program (``-c``) or a file."""
    what, *rest = arguments
    if what == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = str(Path(what).parent)
        sys.argv = list(arguments)
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    serve(*sys.argv[1:])
