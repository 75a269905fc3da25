"""Ranks that srun or mpirun started: their place, from the variables that real ones set (Slurm 22.05, Open MPI 4.1)."""

import pytest

from train.distributed.tasks import become_rank, check_alone, task_of

SRUN = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "4,2",
    "SLURM_STEP_NODELIST": "gpu[03,07-08]-ib",
}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "1234567",
}
MPIEXEC = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def started(monkeypatch):
    """Return a function that makes this process one that was started with some variables."""

    def start(variables):
        for name in (*RANK, *SRUN, *MPIRUN, *MPIEXEC, "LOCAL_WORLD_SIZE", "SLURM_RESTART_COUNT"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.setenv(name, "")  # so that what the test sets is removed
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return start


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (SRUN, ["5", "6", "1", "2", "gpu03-ib", "12031"]),
        ({**SRUN, "SLURM_RESTART_COUNT": "1"}, ["5", "6", "1", "2", "gpu03-ib", "12132"]),
        (
            {**SRUN, "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "6"},
            ["5", "6", "1", "6", "127.0.0.1", "12031"],
        ),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2(x3)", "MASTER_ADDR": "n9"}, ["5", "6", "1", "2", "n9", "12031"]),
        (MPIRUN, ["1", "2", "1", "2", "127.0.0.1", "14567"]),
        ({**MPIEXEC, "MASTER_ADDR": "n1", "MASTER_PORT": "3000"}, ["3", "4", "1", "2", "n1", "3000"]),
        ({**SRUN, **MPIRUN}, ["1", "2", "1", "2", "127.0.0.1", "12017"]),  # mpirun starts its daemons with srun
    ],
)
def test_a_task_becomes_a_rank(variables, expected, started):
    import os

    started(variables)
    become_rank()
    assert [os.environ[name] for name in RANK] == expected
    assert task_of(os.environ) is None  # now it is a rank


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {**SRUN, "RANK": "0", "WORLD_SIZE": "8"},  # a launcher's rank
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1"},  # srun --pty bash
        {"SLURM_JOB_ID": "17", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"},  # a batch script
    ],
)
def test_a_process_without_siblings_stays_alone(variables, started):
    import os

    started(variables)
    become_rank()
    check_alone("pdpc train")
    assert os.environ.get("MASTER_ADDR") is None


def test_mpirun_on_several_nodes_says_what_to_type(started):
    started({**MPIRUN, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    with pytest.raises(ValueError, match=r"mpirun started 2 ranks .* type mpirun -x MASTER_ADDR=\$\(hostname\) -x"):
        become_rank()


def test_a_command_that_starts_ranks_is_not_started_twice(started):
    started(SRUN)
    with pytest.raises(ValueError, match=r"srun started 6 tasks of pdpc score, .* type srun \.\.\. python -m train"):
        check_alone("pdpc score")
