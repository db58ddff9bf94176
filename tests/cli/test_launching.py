from __future__ import annotations

import subprocess

import pytest

from tunewright.cli.launching import Launch, environment, kubernetes, slurm
from tunewright.devices.cores import Cores

LAUNCH = Launch(("train", "my reviews.csv", "--label", "stars"), nproc=4, nnodes=2)


def test_a_user_s_mistake_ends_the_launch_with_its_status_at_once(command):
    ended = command("launch", "--nproc", "1", "train", "none.csv", "--json")
    assert ended.status == 2


def test_what_cannot_be_launched_is_said(command):
    assert command("launch", "predict", "runs/a").err == (
        'tunewright: tunewright launch: "predict" cannot be launched. It starts "train", '
        '"pretrain", "resume" in several processes. For example: tunewright launch --nproc 2 train '
        "reviews.csv\n"
    )
    assert command("launch").status == 2
    assert command("launch", "--target", "slrm", "train").err == (
        'tunewright: tunewright launch: --target is "slrm". It is one of "local", "slurm", '
        '"kubernetes". Did you mean "slurm"?\n'
    )
    assert command("launch", "--nnodes", "2", "train", "a.csv").status == 2


def test_a_job_is_printed_or_written_and_never_over_another(command, tmp_path):
    words = ("launch", "--target", "slurm", "--nnodes", "2")
    printed = command(*words, "train", "a.csv", "--label", "stars")
    written = command(*words, "-o", "job.sh", "train", "a.csv", "--label", "stars")
    assert (printed.status, written.status) == (0, 0)
    assert (tmp_path / "job.sh").read_text() == printed.out
    assert written.err == "Wrote job.sh. Start it with: sbatch job.sh\n"
    assert command(*words, "-o", "job.sh", "train", "b.csv").status == 2


def test_a_slurm_script_is_a_shell_script_that_meets_at_the_first_machine(tmp_path):
    text = slurm(LAUNCH)
    (tmp_path / "job.sh").write_text(text)
    assert subprocess.run(["bash", "-n", tmp_path / "job.sh"], check=False).returncode == 0
    assert "#SBATCH --nodes=2\n" in text
    assert text.splitlines()[-1] == (
        "srun python -m torch.distributed.run --nproc-per-node=4 --max-restarts=3 --nnodes=2 "
        '--rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$head:29500" -m tunewright '
        "train 'my reviews.csv' --label stars"
    )


def test_a_kubernetes_job_has_a_pod_for_each_machine():
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all(kubernetes(LAUNCH))
    assert service["spec"]["clusterIP"] == "None"
    assert job["spec"]["completions"] == 2
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][-4:] == ["train", "my reviews.csv", "--label", "stars"]
    assert "--rdzv-endpoint=tunewright-train-0.tunewright-train:29500" in container["command"]
    assert pod["subdomain"] == service["metadata"]["name"] == "tunewright-train"


def test_cores_are_shared_unless_the_user_has_said_it(monkeypatch):
    monkeypatch.setattr("tunewright.devices.cores.find_cores", lambda: Cores(32, 16, 8.0, 1))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environment(2)["OMP_NUM_THREADS"] == "4"
    assert environment(16)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment(2)["OMP_NUM_THREADS"] == "3"
