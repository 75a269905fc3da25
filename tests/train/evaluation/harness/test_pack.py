"""A pack holds tasks with data and code and can be moved; tasks that cannot be packed are rejected by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import open_manifest
from launch.cli import main
from tests.train.evaluation.harness.material import CHOICE, SINGLE, make_decoder, settings_of, write_task, write_tasks
from train.evaluation.harness.benchmarks import evaluate_benchmarks
from train.evaluation.harness.pack import KIND, write_pack
from train.evaluation.harness.tasks import BenchmarkSettings, check_tasks, task_files_fingerprint

pytestmark = pytest.mark.usefixtures("no_defaults")

CODE = """
import datasets


def longer(dataset):
    return dataset.filter(lambda row: len(row["context"]) > 20)


def question(doc):
    return "Q: " + doc["context"]
"""


@pytest.fixture
def packed(assets: Path, tmp_path: Path) -> Path:
    """A pack with a group, a task with code and an include, and a generation; the original task files are deleted."""
    source = tmp_path / "assets" / "tasks"
    write_tasks(source)
    (source / "code.py").write_text(CODE)
    (source / "_base").write_text("process_docs: !function code.longer\ndoc_to_text: !function code.question\n")
    plain = yaml.safe_load((source / "choice.yaml").read_text())
    own = {"task": "coded", "include": "_base", "tag": ["half", "whole"], "fewshot_split": "test"}
    base = {key: value for key, value in plain.items() if key not in ("task", "doc_to_text")}
    (source / "coded.yaml").write_text(yaml.safe_dump(base | own))
    (source / "other.yaml").write_text(yaml.safe_dump(plain | {"task": "other", "tag": "half"}))
    both = {"group": "both", "task": ["choice", "whole"], "aggregate_metric_list": [{"metric": "acc"}]}
    (source / "both.yaml").write_text(yaml.safe_dump(both))
    names = ("both", "writing")
    before = values_of(assets, settings_of(tmp_path / "assets", *names))
    assert len(before) > 8
    write_pack(tmp_path / "made", settings_of(tmp_path / "assets", *names))
    shutil.rmtree(source)
    (tmp_path / "made").rename(tmp_path / "moved")
    after = values_of(assets, BenchmarkSettings(list(names), [str(tmp_path / "moved")], batch_size=4))
    assert after == before
    return tmp_path / "moved"


def values_of(assets: Path, settings: BenchmarkSettings) -> dict[str, float | str]:
    return evaluate_benchmarks(make_decoder(), assets / "tokenizer", settings, SINGLE).values


def test_a_pack_gives_the_same_results_and_is_complete(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = open_manifest(packed, KIND)
    assert manifest.facts["documents"].keys() == {"choice", "coded", "writing"}
    assert manifest.facts["groups"] == ["both"]
    assert {"tasks/both/both.yaml", "tasks/coded/coded.yaml", "tasks/coded/code.py"} <= manifest.files.keys()
    assert {Path(name).suffix for name in manifest.files} == {".yaml", ".py", ".parquet"}
    assert "half" not in (packed / "tasks" / "coded" / "coded.yaml").read_text()  # the pack has only part of this tag
    settings = BenchmarkSettings(["both"], [str(packed)])
    check_tasks(settings)
    fingerprint = task_files_fingerprint(settings)
    monkeypatch.chdir(packed.parent)
    assert task_files_fingerprint(BenchmarkSettings(["both"], ["moved"])) == fingerprint


def test_a_damaged_pack_is_rejected_before_training_and_by_the_doctor(
    packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["doctor", "only=[benchmarks]", "benchmarks.tasks=[both,writing]", f"benchmarks.task_paths=[{packed}]"]
    assert main(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"ok      {packed}: every file matches its checksum"
    assert out[1].startswith("ok      both: ")
    assert out[1].endswith("in 2 tasks, multiple_choice")
    assert out[2] == "ok      writing: 5 questions, generate_until"
    code = packed / "tasks" / "coded" / "code.py"
    code.write_text(code.read_text().replace("Q: ", "q: "))
    with pytest.raises(ArtifactError, match=r"code\.py does not match its checksum"):
        check_tasks(BenchmarkSettings(["both"], [str(packed)]))
    assert main(words) == 1
    assert f"FAILED  {packed}: {code} does not match its checksum" in capsys.readouterr().out


def test_tasks_that_cannot_be_packed_are_rejected_by_name(assets: Path, tmp_path: Path) -> None:
    source = tmp_path / "assets" / "tasks"
    write_tasks(source)
    (source / "needy.py").write_text(
        "from pathlib import Path\nTEXT = Path(__file__).with_name('beside.txt').read_text()\n"
        "def question(doc):\n    return TEXT\n"
    )
    (source / "beside.txt").write_text("x")
    write_task(source, "needy", [{"context": "a", "choices": ["b", "c"], "answer": 0}], **CHOICE)
    with open(source / "needy.yaml", "a") as file:
        file.write("doc_to_text: !function needy.question\n")
    changed: dict[str, Any] = {"group": "changed", "task": [{"task": "choice", "num_fewshot": 2}]}
    (source / "changed.yaml").write_text(yaml.safe_dump(changed))
    for name, message in (
        ("needy", r"needy cannot be packed: it cannot be loaded .*beside\.txt"),
        ("changed", "group changed cannot be packed: it defines or changes members inline"),
        ("no_data", r"no_data cannot be packed: it cannot be loaded .*no_data\.jsonl"),
        ("nothing", "'nothing' is neither in benchmarks.task_paths nor in the harness"),
    ):
        with pytest.raises(ValueError, match=message):
            write_pack(tmp_path / "pack", settings_of(tmp_path / "assets", name))
    assert not list(tmp_path.glob("*pack*"))


def test_the_command_packs(assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--pack", str(tmp_path / "pack"), f"benchmarks.task_paths=[{assets / 'tasks'}]"]
    assert main([*words, "benchmarks.tasks=[rolling]"]) == 0
    assert open_manifest(tmp_path / "pack", KIND).facts["documents"] == {"rolling": 5}
    assert main([*words, "benchmarks.tasks=[rolling]"]) == 2
    assert "already exists" in capsys.readouterr().err


def test_the_doctor_names_every_task_that_would_fail(assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = "[choice,broken_field,no_data,chioce]"
    paths = f"benchmarks.task_paths=[{assets / 'tasks'}]"
    assert main(["doctor", "only=[benchmarks]", f"benchmarks.tasks={tasks}", paths]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ok      choice: 15 questions, multiple_choice"
    assert [line[:8] for line in lines[1:4]] == ["FAILED  "] * 3
    assert "missing" in lines[1]
    assert "no_data.jsonl" in lines[2]
    assert "did you mean choice" in lines[3]
