"""Commands of nmt without the seconds that importing torch takes each time: one process has it, and forks.

:func:`commands` starts that process. What is called in place of ``nmt`` hands its arguments, environment and standard
streams over; a fork of the process runs the command as ``nmt`` itself would.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
CALLER = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(call).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(call)
    code = server.recv(1)
sys.exit(code[0] if code else 1)
"""


@contextmanager
def commands() -> Iterator[str]:
    """The beginning of a command line that runs a command of nmt, for as long as the block lasts."""
    with TemporaryDirectory(prefix="nmt") as folder:
        address, program = f"{folder}/socket", Path(folder) / "caller.py"
        program.write_text(CALLER.format(address=address))
        with subprocess.Popen(
            [sys.executable, "-m", "tests.forking", address], stdout=subprocess.PIPE, cwd=ROOT
        ) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == b"ready\n"
                yield f"{sys.executable} -SE {program}"
            finally:
                server.terminate()


def serve(address: str) -> None:
    """Run what is asked for at ``address``, each command in a fork of its own."""
    import datasets  # noqa: F401
    import matplotlib.pyplot  # noqa: F401

    import nmt.export.export
    import nmt.race
    import nmt.training.session  # noqa: F401
    from nmt_cli.main import main

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while True:
            caller, _ = listening.accept()
            if os.fork():
                caller.close()
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            size, streams, _, _ = socket.recv_fds(caller, 4, 3)
            call = b""
            while len(call) < int.from_bytes(size, "big"):
                call += caller.recv(1 << 16)
            arguments, folder, environment = json.loads(call)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            code = main(arguments)
            sys.stderr.flush()
            caller.sendall(bytes([code]))
            os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
