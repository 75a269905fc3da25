"""A fork server: it imports torch, DeepSpeed and our packages once and forks ranks, so that a restart takes 0.1 s.

    with served() as forks:
        ranks = forks.start("tests.torture.forks:train", {"words": [...]}, world_size=2, log=Path("log"))
        ranks.kill()
        codes = ranks.wait(30)

The server computes nothing and starts no threads, so that its children behave like new processes.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HARNESS = ("lm_eval.evaluator", "lm_eval.models.utils", "lm_eval.tasks", "evaluate")
"""Modules that ranks with benchmarks import: `Forks.load` them before such ranks are started several times."""


@dataclass
class Ranks:
    """The processes of one launch of a run."""

    forks: Forks
    pids: list[int]
    log: Path

    def kill(self, number: int = signal.SIGKILL, pids: Sequence[int] | None = None) -> None:
        """Send a signal to all ranks, or to some."""
        for pid in self.pids if pids is None else pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def wait(self, timeout_s: float) -> list[int | None]:
        """Wait until all have ended; return exit codes by rank, negative for a signal, None for a running rank."""
        return [
            None if code is None else int(code) for code in self.forks.ask("wait", pids=self.pids, timeout_s=timeout_s)
        ]

    def alive(self) -> bool:
        """Return whether a rank is still running."""
        return None in self.wait(0)

    def wait_for(self, words: str, timeout_s: float = 120.0) -> str:
        """Wait until the ranks have written `words`; return all that they have. Raises RuntimeError if they do not."""
        deadline = time.monotonic() + timeout_s
        while words not in (told := self.told()):
            if not self.alive() or time.monotonic() > deadline:
                raise RuntimeError(f"{words!r} was not written, but {self.told()}")
            time.sleep(0.01)
        return told

    def told(self) -> str:
        """Return the output of the ranks."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""


class Forks:
    """Client of the server."""

    def __init__(self) -> None:
        words = [sys.executable, "-m", "tests.torture.forks"]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
            "DEEPSPEED_LOG_LEVEL": "warning",
            "TOKENIZERS_PARALLELISM": "false",
        }
        environment.pop("PDPC_FAULT", None)
        self._server = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()  # the server then kills and reaps its children, and exits
        try:
            self._server.wait(20)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server.stdout.close()

    def start(
        self,
        target: str,
        arguments: Mapping[str, Any],
        world_size: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Ranks:
        """Fork ranks that call `target` ("module:function") with the arguments and write to `log`."""
        pids = self.ask(
            "start",
            target=target,
            arguments=dict(arguments),
            world_size=world_size,
            log=str(log),
            environment=dict(environment or {}),
        )
        return Ranks(self, pids, log)

    def load(self, *modules: str) -> None:
        """Import modules in the server, so that ranks that need them do not have to; they may not start threads."""
        self.ask("load", modules=list(modules))

    def ask(self, what: str, **words: Any) -> Any:
        """Send a request to the server and return its answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps({"what": what, **words}) + "\n")
        self._server.stdin.flush()
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError(f"the fork server is gone (code {self._server.poll()})")
        return json.loads(line)


_shared: list[Forks] = []


@contextmanager
def served() -> Iterator[Forks]:
    """Yield the enclosing block's server, or start one for this block: starting one takes seconds."""
    if _shared:
        yield _shared[-1]
        return
    with Forks() as forks:
        _shared.append(forks)
        try:
            yield forks
        finally:
            _shared.pop()


def train(words: Sequence[str], output: str) -> int:
    """Run a rank of `python -m train` with these overrides and `output`; the settings are composed by the server."""
    from train import __main__
    from train.distributed import entry

    settings = replace(_composed(tuple(words)), output=output)
    entry.compose = lambda *_: settings  # type: ignore[assignment]
    return __main__.main([])


def work(words: Sequence[str]) -> int:
    """Run a rank of `python -m launch.rank`."""
    from launch.rank import main

    return main(list(words))


@lru_cache(maxsize=64)
def _composed(words: tuple[str, ...]) -> Any:
    from train.config.compose import compose
    from train.settings import TrainSettings

    return compose("train", TrainSettings, [*words, "output=unnamed"])


class _Server:
    """Implementation of the server."""

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self.alive: set[int] = set()
        self.loaded = Path(f"/dev/shm/pdpc_torture_{os.getpid()}") if Path("/dev/shm").is_dir() else None
        self.warm = False

    def start(
        self, target: str, arguments: dict[str, Any], world_size: int, log: str, environment: dict[str, str]
    ) -> list[int]:
        from tests.ports import free_port

        self._warm_up()
        module, _, name = target.partition(":")
        function = getattr(importlib.import_module(module), name)
        if function is train:
            _composed(tuple(arguments["words"]))
        port = free_port()
        sys.stdout.flush()  # or every rank would print what imports have left in the buffer
        gc.freeze()
        pids = []
        for rank in range(world_size):
            pid = os.fork()
            if pid == 0:
                place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_SIZE": world_size}
                place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PDPC_SUPERVISOR_PID": os.getppid()}
                os.environ.update({key: str(value) for key, value in place.items()}, **environment)
                self._run_rank(function, arguments, log)
            pids.append(pid)
        self.alive.update(pids)
        return pids

    def load(self, modules: list[str]) -> None:
        for name in modules:
            importlib.import_module(name)

    def wait(self, pids: list[int], timeout_s: float) -> list[int | None]:
        deadline = time.monotonic() + timeout_s
        while self.alive.intersection(pids):
            for pid in sorted(self.alive):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.alive.discard(pid)
                    self.codes[pid] = os.waitstatus_to_exitcode(status)
            if time.monotonic() >= deadline:
                break
            time.sleep(0.002)
        return [self.codes.get(pid) if pid not in self.alive else None for pid in pids]

    def close(self) -> None:
        for pid in self.alive:
            os.kill(pid, signal.SIGKILL)
        self.wait(list(self.alive), 10)
        if self.loaded:
            self.loaded.unlink(missing_ok=True)

    def _run_rank(self, function: Any, arguments: dict[str, Any], log: str) -> None:
        """Run a rank in this process and exit."""
        code = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.dup2(null, 0)
            os.closerange(3, 256)
            code = int(function(**arguments) or 0)
            if os.environ.get("RANK") == "0" and self.loaded and not self.warm:
                names = [name for name, module in sys.modules.items() if getattr(module, "__spec__", None)]
                self.loaded.write_text(json.dumps(names))
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _warm_up(self) -> None:
        """Import the modules that the first ranks imported, so that later ones do not have to."""
        if self.warm or self.loaded is None or not self.loaded.exists():
            return
        self.warm = True
        names = json.loads(self.loaded.read_text())
        self.loaded.unlink()
        for name in names:
            if name not in sys.modules and not name.startswith(("__", "wandb")):
                try:
                    importlib.import_module(name)
                except Exception:  # some modules cannot be imported directly
                    continue


def serve() -> None:
    """Answer requests from standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import deepspeed
    import torch
    import torch._dynamo  # imported by the first step of an optimizer, with some hundred modules
    import torch.onnx

    import train.config.compose
    import train.export.export
    import train.run  # noqa: F401

    torch.set_num_threads(1)
    _ = deepspeed.ops.__compatible_ops__  # calls a compiler, once for all ranks
    server = _Server()
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(server, request.pop("what"))(**request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    server.close()


if __name__ == "__main__":
    from tests.torture import forks  # not as __main__, so that `train` is the same function

    forks.serve()
