"""Does a run that is killed again and again end with the same bits? Tried, not believed.

    verdict = verify_resume(config, num_kills=20)
    verdict.is_equal

The run is trained once undisturbed, in a process of its own, and once with SIGKILL at random
moments: while it reads, between two updates, in an evaluation, within a save, while the model is
saved or measured. Then everything that is left is compared: the files of the model by SHA-256, its
figures, and the lines of the log but for what the clock says.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tunewright.devices import usable_cores
from tunewright.errors import RunError
from tunewright.models.files.manifest import read_manifest
from tunewright.run.config import RunConfig, to_toml
from tunewright.run.record import RunFolder, new_folder
from tunewright.run.resuming import killable
from tunewright.training.checkpoint import PARTIAL

CLOCKED = ("tokens_per_second", "mfu")  # what a line of the log has from the clock
SAVES_OF_A_RUN = 30  # so many saves make it likely that a kill comes within one
# How often a kill is aimed at what a run does, and how far behind its beginning at most, as a
# multiple of how long it takes.
AIMS = {"start": (0.1, 1.0), "update": (0.4, 3.0), "save": (0.45, 1.2), "end": (0.05, 1.1)}
ENDING = ("saving the model", "measuring")
# Of several processes one is killed, and the others have to notice; or all are, as by a power cut.
ALL_ARE_KILLED = 0.25
PATIENCE_SECONDS = 60.0  # for the others to notice
PRELOADED = ["tunewright.run.resuming.resume", "tunewright.run.train"]


@dataclass(frozen=True)
class Kill:
    """Where a kill hit: what was begun last, and after which update.

    `within_save` says that a half-written checkpoint was left behind, `ranks` which of several
    processes were killed.
    """

    doing: str
    step: int
    within_save: bool
    ranks: tuple[int, ...] = (0,)


@dataclass
class Verdict:
    """What the kills hit, and what ended up different from the undisturbed run.

    A run that finishes before all kills are done is compared, and another one is begun. `repeated`
    counts, for each process that went on, the updates that it did again; none does more than
    `save_steps`, the updates between two saves.
    """

    total_steps: int = 0
    save_steps: int = 0
    num_runs: int = 0
    kills: list[Kill] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        return not self.different

    def to_json(self) -> dict[str, Any]:
        return {"is_equal": self.is_equal, **asdict(self)}


def verify_resume(
    config: RunConfig,
    num_kills: int = 20,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
    num_processes: int = 1,
) -> Verdict:
    """Trains undisturbed and under kills, and compares; equal runs leave nothing behind.

    Raises RunError when a process fails by itself, or does not end when another one was killed.
    """
    folder = new_folder(Path(config.output.folder), "verify-resume")
    rng = np.random.default_rng(seed)
    verdict = _Trial(config, folder, rng, tell, num_processes).run(num_kills)
    if verdict.is_equal:
        shutil.rmtree(folder)
    return verdict


class _Trial:
    """One verification in its folder. `seconds` are those of each aim, from the undisturbed run."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        rng: np.random.Generator,
        tell: Callable[[str], None],
        num_processes: int,
    ) -> None:
        self.config, self.folder, self.rng, self.tell = config, folder, rng, tell
        self.num_processes = num_processes
        self.verdict = Verdict()
        self.seconds: dict[str, float] = {}

    def run(self, num_kills: int) -> Verdict:
        self.tell("training undisturbed")
        expected = self._undisturbed()
        verdict = self.verdict
        while verdict.num_runs == 0 or len(verdict.kills) < num_kills:
            verdict.num_runs += 1
            name = f"killed-{verdict.num_runs}"
            self._under_kills(name, num_kills)
            found = _left_behind(RunFolder(self.folder / name))
            different = [
                key for key in {**expected, **found} if expected.get(key) != found.get(key)
            ]
            verdict.different += [f"{name}/{key}" for key in different]
            self.tell(f"{name} ended {'differently' if different else 'the same'}")
        return verdict

    def _undisturbed(self) -> dict[str, Any]:
        with _child(self.num_processes, "train", self._config("undisturbed", {})) as child:
            lines = list(child.lines())
        ends = [line.at for line in lines[1:]] + [lines[-1].at]
        lasted = {line.doing: end - line.at for line, end in zip(lines, ends, strict=True)}
        begun = {line.doing: line.at for line in lines}
        steps = [line.step for line in lines if line.doing == "updated"]
        self.seconds = {
            "start": begun["started"],
            "update": (begun["updated"] - begun["started"]) / len(steps),
            "save": lasted["saving"],
            "end": sum(lasted[name] for name in ENDING),
        }
        self.verdict.total_steps = steps[-1]
        self.verdict.save_steps = max(1, steps[-1] // SAVES_OF_A_RUN)
        return _left_behind(RunFolder(self.folder / "undisturbed"))

    def _config(self, name: str, saving: dict[str, Any]) -> Path:
        """Writes the configuration of a run in this folder."""
        training = {"track": (), "save_total_limit": 2, **saving}
        config = self.config.model_copy(
            update={
                "output": self.config.output.model_copy(
                    update={"folder": str(self.folder), "name": name}
                ),
                "training": self.config.training.model_copy(update=training),
            }
        )
        file = self.folder / f"{name}.toml"
        file.write_text(to_toml(config), encoding="utf-8")
        return file

    def _under_kills(self, name: str, num_kills: int) -> None:
        """Trains one run to its end, killing it as long as kills are left."""
        run = self.folder / name
        begin = self._config(name, {"save_steps": self.verdict.save_steps, "save_minutes": 0.0})
        done, is_finished = 0, False
        while not is_finished:
            is_begun = (run / "run.toml").is_file()
            if not is_begun:  # or another one of that name is made beside it
                shutil.rmtree(run, ignore_errors=True)
            words = ("resume", run) if is_begun else ("train", begin)
            with _child(self.num_processes, *words) as child:
                if len(self.verdict.kills) < num_kills:
                    self._kill(child, run)
                said = list(child.lines())
            # Of several processes one may be killed when all is written and only the end is left.
            is_finished = said[-1].doing == "finished" or RunFolder(run).is_finished
            done = self._take(said, done)

    def _take(self, said: list[_Line], done: int) -> int:
        """Notes how many of the `done` updates a process did again; returns those now done."""
        for line in said:
            if line.doing == "started":
                if done:
                    self.verdict.repeated.append(done - line.step)
                done = line.step
            elif line.doing == "updated":
                done = line.step
        return done

    def _kill(self, child: _Child, run: Path) -> None:
        """Kills a process at a random moment, unless it ends before that."""
        aim = str(self.rng.choice(list(AIMS), p=[share for share, _ in AIMS.values()]))
        beginnings = {"start": "reading", "update": "updated", "save": "saving", "end": ENDING[0]}
        most = {"update": 2 * self.verdict.save_steps, "save": 2}.get(aim, 1)
        if child.wait_for(beginnings[aim], int(self.rng.integers(1, most + 1))):
            ranks = self._victims()
            time.sleep(float(self.rng.random()) * AIMS[aim][1] * self.seconds[aim])
            if child.kill(ranks):
                last = list(child.lines())[-1]
                within = any((run / "checkpoints").glob(f".*{PARTIAL}"))
                self.verdict.kills.append(Kill(last.doing, last.step, within, ranks))
                whom = f" (processes {ranks} of {self.num_processes})"
                self.tell(
                    f"kill {len(self.verdict.kills)}: {last.doing}, after update {last.step}"
                    f"{', within a save' if within else ''}{whom if self.num_processes > 1 else ''}"
                )

    def _victims(self) -> tuple[int, ...]:
        if self.num_processes == 1 or self.rng.random() < ALL_ARE_KILLED:
            return tuple(range(self.num_processes))
        return (int(self.rng.integers(self.num_processes)),)


@dataclass(frozen=True)
class _Line:
    """What a process said: the update, what is done after it, and when, in its own seconds."""

    step: int
    doing: str
    at: float


@contextmanager
def _child(num_processes: int, verb: str, path: Path) -> Iterator[_Child]:
    """Starts a training in processes of its own, which end with the block."""
    with TemporaryDirectory(prefix="tunewright-") as folder:
        child = _Child(num_processes, verb, path, Path(folder) / "errors")
        try:
            yield child
        finally:
            child.end()


class _Child:
    """A training in one process or several of its own; the one that leads says what they do.

    They are forked from one process that has imported everything and done nothing: a kill then
    costs what it interrupts, and not some seconds of imports too.
    """

    def __init__(self, num_processes: int, verb: str, path: Path, errors: Path) -> None:
        self._begun, self._said, self._was_killed = time.monotonic(), list[_Line](), False
        self._errors = errors
        server = get_context("forkserver")
        server.set_forkserver_preload(PRELOADED)
        self._heard, says = server.Pipe(duplex=False)
        self._processes = [
            server.Process(target=killable.main, args=(verb, str(path), place, says, str(errors)))
            for place in environments(num_processes)
        ]
        for process in self._processes:
            process.start()
        says.close()  # so that nobody holds it when the last of them has ended

    def end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
            process.close()
        self._heard.close()

    def wait_for(self, doing: str, count: int) -> bool:
        """Waits until something was begun so many times; returns whether it ever was."""
        found = (line for line in self._read() if line.doing == doing)
        return any(number == count for number, _ in enumerate(found, 1))

    def lines(self) -> Iterator[_Line]:
        """Yields all that the processes say until they end.

        Raises RunError when one fails by itself, or does not notice that another was killed.
        """
        yield from [*self._said, *self._read()]
        for process in self._processes:
            process.join(PATIENCE_SECONDS)
        if any(process.exitcode is None for process in self._processes):
            raise RunError("verify-resume", "a process went on alone when another had ended")
        if any(process.exitcode for process in self._processes) and not self._was_killed:
            said = self._errors.read_text(encoding="utf-8") if self._errors.exists() else ""
            why = said.strip().splitlines() or ["It said nothing."]
            raise RunError("verify-resume", "a training failed by itself", why[-1])

    def _read(self) -> Iterator[_Line]:
        with suppress(EOFError, ConnectionError):
            while True:
                step, _, doing = self._heard.recv_bytes().decode().partition(" ")
                self._said.append(_Line(int(step), doing, time.monotonic() - self._begun))
                yield self._said[-1]

    def kill(self, ranks: Sequence[int]) -> bool:
        """Kills processes with SIGKILL; returns False when one had ended by itself."""
        self._was_killed = all(process.is_alive() for process in self._processes)
        if self._was_killed:
            for rank in ranks:
                self._processes[rank].kill()
        return self._was_killed


def environments(num_processes: int) -> list[dict[str, str]]:
    """Returns what torchrun tells each of several processes on this machine; nothing to one."""
    if num_processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "OMP_NUM_THREADS": str(max(1, usable_cores() // num_processes)),
        "TUNEWRIGHT_TIMEOUT": os.environ.get("TUNEWRIGHT_TIMEOUT", str(PATIENCE_SECONDS)),
    }
    return [shared | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(num_processes)]


def _left_behind(run: RunFolder) -> dict[str, Any]:
    """Returns what a finished run is compared by."""
    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    log = [{k: v for k, v in line.items() if k not in CLOCKED} for line in lines]
    figures = run.evaluation / "metrics.json"
    return {
        **read_manifest(run.model)["files"],
        "metrics.jsonl": log,
        "evaluation": figures.read_text(encoding="utf-8") if figures.is_file() else "",
    }
