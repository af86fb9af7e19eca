"""The files of docs/clusters say what the tool, Slurm and Kubernetes take."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # Ray brings it, without its types

from tests.support.documents import assert_accepted

FILES = Path(__file__).parents[1] / "docs" / "clusters"
SLURM = FILES / "slurm.sh"


@pytest.fixture
def slurm(tmp_path: Path) -> Any:
    """Runs the array job as one of its tasks would, with programs that only write down their arguments."""
    for name, does in {"srun": 'shift; exec "$@"', "search": 'exit "$CODE"', "scontrol": ""}.items():
        program = tmp_path / name
        program.write_text(f'#!/bin/bash\nprintf "%s\\n" "{name} $*" >>"$TOLD"\n{does}\n')
        program.chmod(0o755)

    def run(*arguments: str, code: int = 0, **variables: str) -> tuple[int, list[str]]:
        told = tmp_path / "told"
        told.write_text("")
        environment = {
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "17",
            "SLURM_ARRAY_JOB_ID": "17",  # as that of the last task is
            "SLURM_ARRAY_TASK_ID": "8",
            "SLURM_CPUS_PER_TASK": "4",
            "CODE": str(code),
            "TOLD": str(told),
            **variables,
        }
        ended = subprocess.run(["bash", SLURM, *arguments], env=environment, capture_output=True, check=False)
        return ended.returncode, told.read_text().splitlines()

    return run


def parts() -> dict[str, Any]:
    """What is in the file for Kubernetes, by kind."""
    return {part["kind"]: part for part in yaml.safe_load_all((FILES / "kubernetes.yaml").read_text(encoding="utf-8"))}


def test_bash_can_read_the_array_job() -> None:
    subprocess.run(["bash", "-n", SLURM], check=True)


def test_the_array_job_gives_a_command_that_the_command_line_takes(slurm: Any) -> None:
    code, told = slurm(SEARCH_STORAGE="an address")
    assert code == 0
    assert told == ["srun --cpus-per-task=4 search run cifar10 --trials 200", "search run cifar10 --trials 200"]
    assert_accepted(told[1].split())


def test_the_array_job_takes_study_trials_and_flags_from_outside(slurm: Any) -> None:
    _, told = slurm("--budget", "2M", SEARCH_STORAGE="an address", STUDY="cifar100", TRIALS="500")
    assert told[1] == "search run cifar100 --trials 500 --budget 2M"
    assert_accepted(told[1].split())


def test_the_array_job_wants_a_storage(slurm: Any) -> None:
    assert slurm() == (1, [])


@pytest.mark.parametrize(
    ("code", "restarts", "goes_on"), [(0, 0, False), (1, 0, False), (2, 0, False), (130, 3, True), (137, 100, False)]
)
def test_a_task_that_was_stopped_goes_back_into_the_queue(slurm: Any, code: int, restarts: int, goes_on: bool) -> None:
    ended, told = slurm(SEARCH_STORAGE="an address", SLURM_RESTART_COUNT=str(restarts), code=code)
    assert ended == code
    assert told[2:] == (["scontrol requeue 17_8"] if goes_on else [])


def test_the_pods_give_a_command_that_the_command_line_takes() -> None:
    (container,) = parts()["Job"]["spec"]["template"]["spec"]["containers"]
    assert all(isinstance(word, str) for word in container["command"])  # 5e6 without quotes is a number
    assert container["command"][0] == "search"
    assert_accepted(container["command"])


def test_the_pods_use_the_secret_and_the_claim_of_the_file() -> None:
    there = parts()
    pod = there["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (secret,) = [each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each]
    assert secret["name"] == there["Secret"]["metadata"]["name"]
    assert secret["key"] in there["Secret"]["stringData"]
    (volume,) = pod["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == there["PersistentVolumeClaim"]["metadata"]["name"]
    (mount,) = container["volumeMounts"]
    assert mount["name"] == volume["name"]
    folders = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert all(folders[name].startswith(mount["mountPath"] + "/") for name in ("SEARCH_RUNS", "SEARCH_CACHE"))


def test_no_file_holds_an_address_that_anybody_could_use() -> None:
    for file in FILES.iterdir():
        assert "://user:password@host/database" in file.read_text(encoding="utf-8"), file
