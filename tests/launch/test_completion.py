"""Shell completion: the script is complete, light, and completes in a real shell."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import VERBS, main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    program = (
        "import sys, launch.cli\n"
        "code = launch.cli.main(['completion', 'bash'])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    path = tmp_path_factory.mktemp("shell") / "pdpc.bash"
    path.write_text(done.stdout)
    return path


def completed(bash, line, folder):
    call = "COMP_LINE=$1; COMP_POINT=${#1}; _pdpc; printf '%s\\n' \"${COMPREPLY[@]}\""
    program = f"source {bash}; compopt() {{ :; }}; {call}"
    done = subprocess.run(["bash", "-c", program, "bash", line], cwd=folder, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pdpc pre", ["prepare"]),
        ("pdpc train optimizer.l", ["optimizer.lr="]),
        ("pdpc train model=demo", ["demo", "demo_strong", "demo_weak"]),
        ("pdpc train seed=1 schedule=w", ["wsd"]),
        ("pdpc arrange preference.stra", ["preference.stratify_by="]),
        ("pdpc launch cluster=s", ["slurm"]),
        ("pdpc launch data.tok", ["data.tokens="]),
        ("pdpc inspect my", ["my file"]),
        ("pdpc score tokens=my", ["my file"]),
    ],
)
def test_bash_completes(line, expected, bash, tmp_path):
    (tmp_path / "my file").touch()
    assert completed(bash, line, tmp_path) == expected


def test_bash_completes_every_verb(bash, tmp_path):
    assert completed(bash, "pdpc ", tmp_path) == list(VERBS)
    for verb in VERBS:
        assert completed(bash, f"pdpc {verb} ", tmp_path), verb


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_reads_its_script(tmp_path, capsys):
    assert main(["completion", "zsh"]) == 0
    (tmp_path / "_pdpc").write_text(capsys.readouterr().out)
    done = subprocess.run(["zsh", "-n", tmp_path / "_pdpc"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_of_zsh_has_every_verb_and_choice(capsys):
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef pdpc\n")
    for verb in VERBS:
        assert f"    {verb}) keys='" in script
    assert "'train experiment') echo base_1.3b" in script


@pytest.mark.parametrize("words", [[], ["fish"]])
def test_another_shell_is_named(words, capsys):
    assert main(["completion", *words]) == 2
    assert "write pdpc completion bash or zsh" in capsys.readouterr().err
