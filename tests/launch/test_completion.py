"""Shell completion: the script is complete, light, and completes in a real shell."""

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import VERBS, main

ROOT = Path(__file__).parents[2]
FIRST_WORDS = list(dict.fromkeys(verb.split()[0] for verb in VERBS))
LINES = [
    ("pdpc pre", ["prepare"]),
    ("pdpc train optimizer.l", ["optimizer.lr="]),
    ("pdpc train model=demo", ["demo", "demo_strong", "demo_weak"]),
    ("pdpc train seed=1 schedule=w", ["wsd"]),
    ("pdpc arrange preference.stra", ["preference.stratify_by="]),
    ("pdpc launch cluster=s", ["slurm"]),
    ("pdpc launch data.tok", ["data.tokens="]),
    ("pdpc inspect my", ["my file"]),
    ("pdpc score tokens=my", ["my file"]),
    ("pdpc pai", ["pairs"]),
    ("pdpc pairs s", ["score", "select"]),
    ("pdpc pairs select sha", ["share="]),
]
"""Command lines, and what a Tab at their end offers in a folder that has one file, `my file`."""
ZSHRC = r"""
PROMPT='READY>'
unsetopt prompt_sp beep
unset zle_bracketed_paste
autoload -Uz compinit && compinit -u -D
{load}
compadd() {{
    local -a found
    if [[ ${{@[1,(i)(-|--)]}} != *-(O|A|D)\ * ]]; then
        builtin compadd -A found "$@"
        offered+=($found)
    fi
    builtin compadd "$@"
}}
offer() {{
    typeset -ga offered=()
    zle complete-word
    print -rl -- "${{(@u)offered}}" "$BUFFER" > $OFFERED
    BUFFER=
    print -rn -- '<done>'
}}
zle -N offer
bindkey '^T' offer
"""
"""Ctrl-T completes like Tab, and writes what is offered, and the completed line, to the file $OFFERED."""


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


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_bash_completes(line, expected, bash, tmp_path):
    (tmp_path / "my file").touch()
    assert completed(bash, line, tmp_path) == expected


def test_bash_completes_every_verb(bash, tmp_path):
    assert completed(bash, "pdpc ", tmp_path) == FIRST_WORDS
    for verb in VERBS:
        assert completed(bash, f"pdpc {verb} ", tmp_path), verb


class Zsh:
    """An interactive zsh on a pseudo-terminal."""

    def __init__(self, folder, load):
        (folder / ".zshrc").write_text(ZSHRC.format(load=load))
        (folder / "here").mkdir()
        (folder / "here" / "my file").touch()
        self.offered, self.seen = folder / "offered", b""
        self.terminal, inside = pty.openpty()
        names = {"ZDOTDIR": str(folder), "HOME": str(folder), "OFFERED": str(self.offered), "TERM": "dumb"}
        self.process = subprocess.Popen(
            ["zsh", "-i"],
            cwd=folder / "here",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **names},
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)
        self.wait(b"READY>")

    def wait(self, mark):
        while mark not in self.seen:
            assert select.select([self.terminal], [], [], 60)[0], self.seen
            self.seen += os.read(self.terminal, 1 << 16)
        self.seen = self.seen.partition(mark)[2]

    def completed(self, line):
        os.write(self.terminal, line.encode() + b"\x14")
        self.wait(b"<done>")
        *found, whole = self.offered.read_text().splitlines()
        return [text.replace("\\ ", " ") for text in found], whole


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed: apt-get install zsh")
@pytest.mark.parametrize("load", ["source {0}/_pdpc", "fpath=({0} $fpath); compinit -u -D"])
def test_zsh_completes(load, tmp_path, capsys):
    assert main(["completion", "zsh"]) == 0
    (tmp_path / "_pdpc").write_text(capsys.readouterr().out)
    zsh = Zsh(tmp_path, load.format(tmp_path))
    try:
        for line, expected in LINES:
            found, whole = zsh.completed(line)
            assert found == expected
            assert whole.startswith(line)
        assert zsh.completed("pdpc train optimizer.l")[1] == "pdpc train optimizer.lr="  # no space: the value follows
        assert zsh.completed("pdpc launch cluster=s")[1] == "pdpc launch cluster=slurm "
        assert zsh.completed("pdpc ")[0] == FIRST_WORDS
        for verb in VERBS:
            assert zsh.completed(f"pdpc {verb} ")[0], verb
    finally:
        zsh.process.kill()
        zsh.process.wait()
        os.close(zsh.terminal)


def test_the_script_of_zsh_has_every_verb_and_choice(capsys):
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef pdpc\n")
    for verb in VERBS:
        assert f"    {shlex.quote(verb)}) keys='" in script
    assert "'train experiment') echo base_1.3b" in script


@pytest.mark.parametrize("words", [[], ["fish"]])
def test_another_shell_is_named(words, capsys):
    assert main(["completion", *words]) == 2
    assert "write pdpc completion bash or zsh" in capsys.readouterr().err
