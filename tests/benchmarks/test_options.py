"""The command lines refuse invalid sizes before any data is written."""

import importlib
from pathlib import Path

import pytest

from benchmarks.options import size, work_folder

BENCHMARKS = ["arrange_scale", "arrange_memory", "reading", "deepspeed_curriculum"]


@pytest.mark.parametrize(("text", "number"), [("1e9", 10**9), ("1_000", 1000), ("7", 7), ("2.5e3", 2500)])
def test_sizes(text: str, number: int) -> None:
    assert size(text) == number


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("text", ["0", "-5", "1.5", "many", "1e-3", "1e400", "nan", "1e99"])
def test_bad_sizes_are_refused(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"benchmarks.{name}").main([f"--samples={text}"])
    assert "--samples" in capsys.readouterr().err


@pytest.mark.parametrize("name", BENCHMARKS)
def test_fewer_samples_than_a_batch_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"benchmarks.{name}").main(["--samples", "10", "--batch-size", "64"])
    assert "--samples 10" in capsys.readouterr().err


@pytest.mark.parametrize("name", BENCHMARKS)
def test_docstring_opens_with_the_command(name: str) -> None:
    first = (importlib.import_module(f"benchmarks.{name}").__doc__ or "").splitlines()[0]
    assert first.startswith(f"python -m benchmarks.{name} --samples ")


def test_a_temporary_folder_is_removed_and_a_given_one_stays(tmp_path: Path) -> None:
    with work_folder(None) as temporary:
        assert temporary.is_dir()
    assert not temporary.exists()
    with work_folder(tmp_path / "data") as chosen:
        (chosen / "file").write_text("x")
    assert (tmp_path / "data" / "file").exists()
