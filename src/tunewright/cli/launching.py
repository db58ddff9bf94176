"""`launch`: a training in several processes, here or as a job of a cluster."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import typer

from tunewright.cli import STATUS_FILE, show
from tunewright.errors import SettingsError, listed, nearest

VERBS = ("train", "pretrain", "resume")
# Lets torchrun take a new meeting place for processes that it starts again.
ANEW = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
PORT = 29500  # where the processes of several machines meet; torchrun's own default


@dataclass(frozen=True)
class Launch:
    """What is started: `nproc` processes on each of `nnodes` machines.

    When one is lost, all are started again, `max_restarts` times at most.
    """

    words: Sequence[str]
    nproc: int = 2
    nnodes: int = 1
    max_restarts: int = 3

    @property
    def name(self) -> str:
        """A name as clusters allow it."""
        return f"tunewright-{self.words[0]}"

    def torchrun(self, *meeting: str) -> list[str]:
        """Returns the command after `python -m`; `meeting` are torchrun's words on where to meet.

        Its processes end by themselves with what they have to say.
        """
        return [
            "torch.distributed.run",
            f"--nproc-per-node={self.nproc}",
            f"--max-restarts={self.max_restarts}",
            *meeting,
            "-m",
            "tunewright",
            *self.words,
        ]


def launch_and_show(
    words: Sequence[str], nproc: int, nnodes: int, max_restarts: int, target: str, output: str
) -> None:
    """Starts the processes and hands on their exit status; or writes a job's file."""
    _check(words, target, nnodes)
    launch = Launch(words, nproc, nnodes, max_restarts)
    if target == "local":
        raise typer.Exit(start(launch))
    text = JOBS[target](launch)
    if output == "-":
        typer.echo(text, nl=False)
        return
    if Path(output).exists():
        raise SettingsError(output, "it exists already", "Nothing is overwritten.", "Name another.")
    Path(output).write_text(text, encoding="utf-8")
    show.say(f"Wrote {output}. Start it with: {STARTS[target]} {output}")


def _check(words: Sequence[str], target: str, nnodes: int) -> None:
    where = "tunewright launch"
    if not words or words[0] not in VERBS:
        found = f'"{words[0]}" cannot be launched' if words else "nothing is named"
        raise SettingsError(
            where,
            found,
            f"It starts {listed(VERBS)} in several processes.",
            "For example: tunewright launch --nproc 2 train reviews.csv",
        )
    if target not in STARTS:
        hint = nearest(target, STARTS)
        raise SettingsError(
            where,
            f'--target is "{target}"',
            f"It is one of {listed(STARTS)}.",
            f'Did you mean "{hint}"?' if hint else "",
        )
    if target == "local" and nnodes > 1:
        raise SettingsError(
            where,
            f"--nnodes is {nnodes}",
            "From one machine the processes of several cannot be started.",
            "Take --target slurm or kubernetes, or start torchrun on each.",
        )


def start(launch: Launch) -> int:
    """Runs the processes on this machine to their end; returns the exit status of the verb.

    SIGINT and SIGTERM reach each process once: they finish their update and save it.
    """
    with TemporaryDirectory(prefix="tunewright-") as folder:
        status = Path(folder) / "status"
        command = [sys.executable, "-m", *launch.torchrun("--standalone")]
        running = subprocess.Popen(
            command,
            env=os.environ | environment(launch.nproc) | {STATUS_FILE: str(status)},
            start_new_session=True,  # the terminal's own Ctrl-C would reach each process twice
        )

        def hand_on(number: int, _: FrameType | None) -> None:
            running.send_signal(number)

        before = {number: signal.signal(number, hand_on) for number in (2, signal.SIGTERM)}
        try:
            code = running.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return int(status.read_text()) if status.exists() else min(abs(code), 1)


def environment(nproc: int) -> dict[str, str]:
    """Returns what each process is told: its share of the cores, unless the user has said it."""
    from tunewright.devices import usable_cores  # torch, which is slow to import

    threads = max(1, usable_cores() // nproc)
    told: Mapping[str, str] = {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        ANEW: "1",
    }
    return {name: os.environ.get(name, value) for name, value in told.items()}


def slurm(launch: Launch) -> str:
    """Returns a batch script for Slurm; a job that is queued again goes on with its run."""
    meeting = (
        f"--nnodes={launch.nnodes}",
        '--rdzv-id="$SLURM_JOB_ID"',
        "--rdzv-backend=c10d",
        f'--rdzv-endpoint="$head:{PORT}"',
    )
    return f"""#!/bin/bash
#SBATCH --job-name={launch.name}
#SBATCH --nodes={launch.nnodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={launch.nproc}
#SBATCH --cpus-per-task={4 * launch.nproc}
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.log

# The run folder has to lie where all machines see it. Without GPUs, drop --gpus-per-node.
# Two minutes before the time is up the run is told to save; queued again, it goes on.
export {ANEW}=1
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun python -m {_line(launch.torchrun(*meeting))}
"""


def kubernetes(launch: Launch) -> str:
    """Returns a Job with one pod for each machine, and the service by which they meet."""
    meeting = (
        f"--nnodes={launch.nnodes}",
        f"--rdzv-id={launch.name}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={launch.name}-0.{launch.name}:{PORT}",
    )
    command = "".join(
        f"            - {_quoted(word)}\n" for word in ("python", "-m", *launch.torchrun(*meeting))
    )
    return f"""# Put in your image, and a volume claim for data and runs that all pods can write to.
apiVersion: v1
kind: Service
metadata:
  name: {launch.name}
spec:
  clusterIP: None
  selector:
    job-name: {launch.name}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {launch.name}
spec:
  completions: {launch.nnodes}
  parallelism: {launch.nnodes}
  completionMode: Indexed
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      subdomain: {launch.name}
      terminationGracePeriodSeconds: 120
      containers:
        - name: train
          image: YOUR-IMAGE
          workingDir: /work
          env:
            - name: {ANEW}
              value: "1"
          command:
{command.rstrip()}
          resources:
            limits:
              nvidia.com/gpu: {launch.nproc}
          volumeMounts:
            - name: work
              mountPath: /work
      volumes:
        - name: work
          persistentVolumeClaim:
            claimName: YOUR-CLAIM
"""


JOBS = {"slurm": slurm, "kubernetes": kubernetes}
STARTS = {"local": "", "slurm": "sbatch", "kubernetes": "kubectl apply -f"}


def _line(words: Sequence[str]) -> str:
    """Returns a shell's line; words that hold a variable of the script are quoted already."""
    return " ".join(word if "$" in word and word.startswith("--rdzv") else shlex.quote(word)
                    for word in words)  # fmt: skip


def _quoted(word: str) -> str:
    """Returns a word as YAML text."""
    return "'" + word.replace("'", "''") + "'"
