"""The steps of a study: commands, outputs, and what needs what."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from curriculum.work.cpus import usable_cpus
from launch.cluster import supervisor
from launch.cluster.machines import Local
from launch.study.file import read_study
from launch.study.steps import steps_of
from launch.study.study import composed, register, room, width, with_code, without_code
from tests.launch.study.example import STUDY, written


def anything(verb: str, words: list[str]) -> SimpleNamespace:
    return SimpleNamespace()


def test_every_arm_seed_and_schedule(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, seeds=[0, 7], schedules={"gentle": {"schedule": "gentle"}, "wsd": {}},
                               primary={"measure": "val/loss", "arm": "late", "schedule": "wsd"}))  # fmt: skip
    steps = steps_of(study, Path("out"), anything, lambda settings: 1)
    names = [step.name for step in steps.all]
    assert names[:5] == ["tokens", "order_weak", "weak", "order_shuffled_0", "order_late_0"]
    assert len(steps.runs) == 8
    run = next(one for one in steps.runs if (one.arm, one.schedule, one.seed) == ("late", "gentle", 7)).step
    assert run.needs == ["tokens", "order_late_7"]
    assert run.output == Path("out/runs/late_gentle_7")
    assert {"seed=7", "arm=late", "data.order=out/orders/late_7", "schedule=gentle"} <= set(run.words)
    assert all(names.index(need) < names.index(step.name) for step in steps.all for need in step.needs)


def test_an_arm_made_from_the_order_of_another(tmp_path: Path) -> None:
    arms = {"shuffled": {"preference": "shuffled"}, "late": {"stages_of": "$shuffled"}}
    steps = steps_of(read_study(written(tmp_path, arms=arms)), Path("out"), anything, lambda settings: 1)
    order = next(step for step in steps.all if step.name == "order_late_2")
    assert order.needs == ["tokens", "order_shuffled_2"]
    assert "stages_of=out/orders/shuffled_2" in order.words


def test_a_twin_takes_everything_from_its_parent(tmp_path: Path) -> None:
    arms = {"shuffled": {}, "late": {}, "early": {"twin": "mirrored", "twin_of": "$late"}}
    steps = steps_of(read_study(written(tmp_path, arms=arms)), Path("out"), anything, lambda settings: 1)
    order = next(step for step in steps.all if step.name == "order_early_1")
    assert order.words == ["twin=mirrored", "twin_of=out/orders/late_1", "seed=1", "output=out/orders/early_1"]
    assert order.needs == ["order_late_1"]


def test_an_arm_that_branches_from_the_runs_of_another(tmp_path: Path) -> None:
    late = {"order": "$shuffled", "from_stage": 1, "preference": "sorted", "preference.score": "pd"}
    study = read_study(written(tmp_path, arms={"shuffled": {"preference": "shuffled"}, "late": late}))
    steps = steps_of(study, Path("out"), composed, width)
    order = next(step for step in steps.all if step.name == "order_late_1")
    assert order.verb == "replan"
    assert order.needs == ["tokens", "order_shuffled_1"]
    assert {"order=out/orders/shuffled_1", "tokens=out/tokens", "from_stage=1"} <= set(order.words)
    assert not any(word.startswith(("batch_size=", "stages=")) for word in order.words)  # those of the parent
    run = next(one for one in steps.runs if (one.arm, one.seed) == ("late", 1)).step
    assert "branch_of=out/runs/shuffled_default_1" in run.words
    assert run.needs == ["tokens", "order_late_1", "run_shuffled_default_1"]
    with pytest.raises(ValueError, match=r"arms\.late\.order: '\$tokens' must be an earlier arm, .* one of \$shuffled"):
        read_study(written(tmp_path, arms={"shuffled": {}, "late": {**late, "order": "$tokens"}}))


def test_a_schedule_of_some_arms_only(tmp_path: Path) -> None:
    late = {"order": "$shuffled", "from_stage": 1, "preference": "shuffled"}
    changes = {
        "arms": {"shuffled": {}, "late": late},
        "primary": {"measure": "val/loss", "arm": "late", "schedule": "a"},
    }
    schedules = {"a": {"schedule": "gentle"}, "b": {"schedule": "cosine", "arms": ["shuffled"]}}
    steps = steps_of(read_study(written(tmp_path, **changes, schedules=schedules)), Path("out"), anything, lambda _: 1)
    runs = [(run.arm, run.schedule) for run in steps.runs if run.seed == 0]
    assert runs == [("shuffled", "a"), ("late", "a"), ("shuffled", "b")]
    for a, b, said in (
        (["shuffled"], ["late", "shuffled"], "primary.arm: 'late' is not among the arms of schedules.a"),
        (["late"], ["shuffled"], "schedules.a.arms: late branches from the runs of shuffled: add shuffled"),
        (["late", "early"], ["shuffled"], "schedules.a.arms: .* must be a list of arms: shuffled, late"),
    ):
        with pytest.raises(ValueError, match=said):
            read_study(written(tmp_path, **changes, schedules={"a": {"arms": a}, "b": {"arms": b}}))


def test_settings_are_checked_before_anything_starts(tmp_path: Path) -> None:
    study = read_study(written(tmp_path))
    assert steps_of(study, Path("out"), composed, width).runs
    wrong = read_study(written(tmp_path, order={"tokens": "$tokens", "batch": 16}))
    with pytest.raises(ValueError, match=r"step order_shuffled_0: arrange: unknown key 'batch'"):
        steps_of(wrong, Path("out"), composed, width)


def test_the_gpus_that_a_study_shares_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "gpus", lambda: 3)
    monkeypatch.setenv(supervisor.DEVICES, "2,5,6")
    assert room(Local()) == ["2", "5", "6"]
    assert room(Local(gpus_per_node=2)) == ["2", "5"]
    with pytest.raises(ValueError, match=r"cluster\.gpus_per_node=4, but this machine has 3: lower it"):
        room(Local(gpus_per_node=4))
    monkeypatch.setenv(supervisor.DEVICES, "GPU-1,GPU-2,GPU-3")
    with pytest.raises(ValueError, match=r"CUDA_VISIBLE_DEVICES=GPU-1,GPU-2,GPU-3: .* give their numbers"):
        room(Local())
    monkeypatch.setattr(supervisor, "gpus", lambda: 0)
    assert room(Local()) == usable_cpus()


def test_steps_that_would_share_a_place_are_refused(tmp_path: Path) -> None:
    """Otherwise the later one takes the place of the other: a run of `a` would count as one of `a_b`."""

    def refused(words: str, **changes: object) -> None:
        study = read_study(written(tmp_path, **changes))
        with pytest.raises(ValueError, match=f"{words} write to .*: rename the step, arm or schedule"):
            steps_of(study, Path("out"), anything, lambda settings: 1)

    arms, schedules = {"shuffled": {}, "a": {}, "a_b": {}}, {"c": {}, "b_c": {}}
    primary = {"measure": "val/loss", "arm": "a", "schedule": "c"}
    refused("the steps run_a_b_c_0 and run_a_b_c_0 would both", arms=arms, schedules=schedules, primary=primary)
    refused("the steps order_Late_0 and order_late_0 would both", arms={"shuffled": {}, "Late": {}, "late": {}})
    refused("order_late_0 and order_late_0 would both", steps={**STUDY["steps"], "order_late_0": {"verb": "demo"}})


def test_code_of_task_files_needs_the_users_word(tmp_path: Path) -> None:
    train = {**STUDY["train"], "benchmarks.tasks": ["mine"], "benchmarks.task_paths": ["tasks"]}
    named = read_study(written(tmp_path, train=train))
    with pytest.raises(ValueError, match=r"step run_.*benchmarks\.task_paths=\['tasks'\] may refer to Python code"):
        steps_of(named, Path("out"), without_code, width)
    assert steps_of(named, Path("out"), composed, width).runs
    plain = read_study(written(tmp_path, train={**train, "benchmarks.task_code": False}))
    assert steps_of(plain, Path("out"), without_code, width).runs


def test_a_preference_of_the_users_own_needs_the_users_word(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "from dataclasses import dataclass\nfrom curriculum.preference import Tilt\n"
        "@dataclass(frozen=True)\nclass Ramp(Tilt):\n    name: str = 'ramp'\n"
    )
    study = read_study(written(tmp_path, arms={"shuffled": {}, "late": {"preference": f"{code}:Ramp"}}))
    with pytest.raises(ValueError, match=r"order_late_0: .*mine\.py:Ramp.* is Python code: add own_code=true"):
        steps_of(study, Path("out"), without_code, width)
    assert steps_of(study, Path("out"), with_code, width).runs


def test_seeds_may_be_added_but_not_dropped_once_registered(tmp_path: Path) -> None:
    register(read_study(written(tmp_path, seeds=[0, 1, 2])), tmp_path)
    register(read_study(written(tmp_path, seeds=[2, 1, 0, 5])), tmp_path)
    with pytest.raises(ValueError, match=r"with the seeds \[2, 1, 0, 5\], of which \[5\] are left out now"):
        register(read_study(written(tmp_path, seeds=3)), tmp_path)
    with pytest.raises(ValueError, match="with another question"):
        register(read_study(written(tmp_path, seeds=[0, 1, 2, 5], question="Another one?")), tmp_path)
