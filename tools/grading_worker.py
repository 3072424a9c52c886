"""Runs answers that nobody should trust, each in a process of its own, and says what the probes found there.

`python -m tools.grading_worker` reads a request a line from stdin and writes an answer a line to stdout, both JSON. It imports
PyTorch once; each request is then served by a fork, which cannot harm the next. This process never sees what a probe should
find, so there is nothing in its memory to copy. A fork has limits on time, memory and output, and an audit hook reports what
it tries to reach: other files, other processes, the network. POSIX only.

A determined attacker with native code is another matter: grade strangers' submissions in a container.
"""

import contextlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import matplotlib.pyplot
import torch

from avb_core import coursework, evaluation, games, training  # noqa: F401 (loaded once for all forks)

ROOT = Path(__file__).parents[1]
OUTPUT_LIMIT = 2**20  # bytes that an answer may print, and that any file it writes may have

# What an answer may not do, by the name of the audit event.
SPAWNING = {
    "subprocess.Popen",
    "os.system",
    "os.fork",
    "os.forkpty",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "pty.spawn",
}
REACHING = {
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "os.kill",
    "os.killpg",
    "ctypes.dlopen",
    "ctypes.dlsym",
}
CHANGING = {
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.symlink",
}
LISTING = {"os.listdir", "os.scandir", "os.chdir"}


class Forbidden(PermissionError):
    """An answer tried to do what it may not."""


class Guarded(ModuleType):
    """A module that cannot be patched."""

    def __setattr__(self, name: str, value: Any) -> None:
        _report(f"to change the checker ({name})")


def serve() -> None:
    """Answer requests until stdin ends."""
    matplotlib.use("agg")
    torch.set_num_threads(1)
    # Forks get their own stdin and stdout; what they print must not get among the answers.
    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for line in requests:
        answers.write(json.dumps(run(json.loads(line))) + "\n")
        answers.flush()


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run the `cells` of an answer, then the `probes`, in a fork; what came of it.

    The result holds `found`, the findings of each probe (or what was raised), `errors` of cells, `forbidden`, what the answer
    tried and may not, and `ended`, why the fork stopped before its time (empty if it did not).
    """
    with tempfile.TemporaryDirectory(prefix="answer-") as folder:
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            _child(request, folder, write_end)
        os.close(write_end)
        text, in_time = _read_until(read_end, time.monotonic() + request["seconds"])
        os.close(read_end)
        for victim in (lambda: os.killpg(child, signal.SIGKILL), lambda: os.kill(child, signal.SIGKILL)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                victim()
        status = os.waitpid(child, 0)[1]
    result: dict[str, Any] = {"found": [], "errors": {}, "forbidden": [], "ended": ""}
    for line in text.splitlines():
        # The answer can write into the pipe as well: what is not as we write it is passed over.
        with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
            message = json.loads(line)
            if "forbidden" in message:
                result["forbidden"].append(str(message["forbidden"]))
            elif len(message["found"]) == len(request["probes"]):
                found = [each if isinstance(each, str) else _plain_findings(each) for each in message["found"]]
                result |= {"found": found, "errors": {str(k): str(v) for k, v in dict(message["errors"]).items()}}
    if not result["found"]:
        result["ended"] = _why(status, in_time, request["seconds"])
    return result


def _plain_findings(found: dict[str, Any]) -> dict[str, Any]:
    """Findings of numbers, truth values, strings and lists of them; what `run` passes over raises an error."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(each) for each in value]
        return value if isinstance(value, bool | str) else float(value)

    return {name: plain(value) for name, value in dict(found).items()}


def _why(status: int, in_time: bool, seconds: float) -> str:
    if not in_time:
        return f"It did not end within {seconds:g} seconds."
    # SIGKILL is our own, once nothing more can come through the pipe.
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
        return f"The process died ({signal.Signals(os.WTERMSIG(status)).name})."
    return "The process ended before the checks could run."


def _read_until(pipe: int, deadline: float) -> tuple[str, bool]:
    """All that comes through the pipe, and whether its other end was closed before the deadline."""
    received = b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left)[0]:
            break
        if not (part := os.read(pipe, 2**16)):
            return received.decode(errors="replace"), True
        received += part
        if len(received) > 64 * OUTPUT_LIMIT:
            break
    return received.decode(errors="replace"), False


_pipe = -1  # of the fork: where reports go at once, so that nothing that the answer does later takes them back


def _write(pipe: int, message: dict[str, Any]) -> None:
    """A line of its own, whatever was written before it."""
    line = ("\n" + json.dumps(message) + "\n").encode()
    while line:
        line = line[os.write(pipe, line) :]


def _report(what: str) -> None:
    _write(_pipe, {"forbidden": what})
    raise Forbidden(f"an answer may not try {what}")


def _child(request: dict[str, Any], folder: str, pipe: int) -> None:
    """Never returns."""
    global _pipe
    _pipe = pipe
    try:
        os.setsid()
        os.chdir(folder)
        # An answer must not reach this program's own channel to the grader, by which it could grade itself.
        os.closerange(3, pipe)
        os.closerange(pipe + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for name, text in request.get("files", {}).items():
            Path(name).write_text(text, encoding="utf-8")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if _has_proc() else 0
        resource.setrlimit(resource.RLIMIT_AS, (used + request["bytes"], used + request["bytes"]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (OUTPUT_LIMIT, OUTPUT_LIMIT))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        namespace: dict[str, Any] = {"__name__": "__main__"}
        errors: dict[str, str] = {}
        coursework.__class__ = Guarded
        sys.addaudithook(_hook(Path(folder).resolve(), [Path(each).resolve() for each in request["closed"]]))
        for name, code in request["cells"]:
            try:
                exec(compile(code, f"{coursework.ANSWER} {name}", "exec"), namespace)
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                errors[name] = coursework.describe(error)
        found = [coursework.findings_of(code, namespace) for code in request["probes"]]
        _write(pipe, {"found": found, "errors": errors})
    except BaseException as error:
        _write(pipe, {"found": [], "errors": {"": coursework.describe(error)}})
    finally:
        os._exit(0)


def _has_proc() -> bool:
    return Path("/proc/self/statm").exists()


def _hook(own: Path, closed: list[Path]) -> Any:
    """An audit hook: files may be written in `own` only, and none may be read that lies in a `closed` folder."""

    def inside(path: Any, folders: list[Path]) -> bool:
        try:
            place = Path(os.path.realpath(os.fsdecode(path)))
        except (TypeError, ValueError):
            return False
        return any(place.is_relative_to(folder) for folder in folders)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int):
                return
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
            if writes and not inside(path, [own, Path(os.devnull)]):
                _report(f"to write {path}")
            if inside(path, closed):
                _report(f"to read {path}")
        elif event in LISTING and arguments and isinstance(arguments[0], str | bytes | os.PathLike):
            if inside(arguments[0], closed):
                _report(f"to look into {os.fsdecode(arguments[0])}")
        elif event in CHANGING and not all(
            inside(each, [own]) for each in arguments if isinstance(each, str | bytes | os.PathLike)
        ):
            _report(f"{event.removeprefix('os.')} of {os.fsdecode(arguments[0])}")
        elif event in SPAWNING:
            _report("to start a process")
        elif event in REACHING:
            _report("to leave its process" if event != "os.kill" else "to signal a process")

    return hook


if __name__ == "__main__":
    serve()
