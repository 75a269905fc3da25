"""docs/extending.md: every block is applied to a copy of the tree and run, and the table states the real counts."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "extending.md").read_text("utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in TEXT.split("\n## ")[1:]}
PACKAGES = ("models", "curriculum", "train", "launch", "configs", "docs")
OWN = "A preference of your own"


def new_files(section: str) -> dict[str, str]:
    """Return the new files of a section, by path."""
    blocks = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", SECTIONS[section], flags=re.DOTALL)
    return dict(blocks)


def changes(section: str) -> dict[str, str]:
    """Return the hunks that a section adds to existing files, by path."""
    return dict(re.findall(r"```diff\n--- (\S+)\n(.*?)```", SECTIONS[section], flags=re.DOTALL))


def changed(text: str, hunks: str) -> str:
    """Return a file with hunks applied: added lines follow their context, or go to the end if there is none."""
    for hunk in hunks.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line.startswith(" "))
        added = "".join(line[1:] for line in lines if line.startswith("+"))
        assert text.count(before) == 1 or not before, f"context missing or not unique:\n{before}"
        text = text.replace(before, before + added) if before else text + added
    return text


def apply(section: str, root: Path) -> None:
    """Apply the changes of a section to a copy of the tree."""
    for path, text in new_files(section).items():
        assert not (root / path).exists()
        (root / path).write_text(text)
    for path, hunks in changes(section).items():
        file = root / path
        file.write_text(changed(file.read_text("utf-8"), hunks))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the tree with every section applied except the one outside the tree."""
    root = tmp_path_factory.mktemp("tree")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, root / name)
    for section in SECTIONS:
        if section != OWN:
            apply(section, root)
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a user's scores and the preference file from the page."""
    monkeypatch.chdir(tmp_path)
    quality = np.random.default_rng(0).normal(size=8192).astype(np.float32)
    pq.write_table(pa.table({"quality": quality}), "scores.parquet")
    for path, text in new_files(OWN).items():
        Path(path).write_text(text)
    return tmp_path


def run(tree: Path, program: str, *words: str) -> str:
    """Run Python in the copy of the tree; return its output."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tree)!r})\n{program}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PDPC = "from launch.cli import main; sys.exit(main(sys.argv[1:]))"


def test_the_table_counts_what_the_sections_take():
    rows = re.findall(r"^\| \[([^]]+)\]\(#([\w-]+)\) \| (\d+) \| (\d+) \|", TEXT, flags=re.MULTILINE)
    assert [name.casefold() for name, *_ in rows] == [section.casefold() for section in SECTIONS]
    for (_, anchor, files, lines), section in zip(rows, SECTIONS, strict=True):
        assert anchor == section.casefold().replace(" ", "-")
        written, touched = ({}, {}) if section == OWN else (new_files(section), changes(section))
        added = [line for hunks in touched.values() for line in hunks.splitlines() if line.startswith("+")]
        total = len(added) + sum(line.strip() != "" for text in written.values() for line in text.splitlines())
        assert (len(written) + len(touched), total) == (int(files), int(lines)), section


def test_the_examples_pass_the_linter(tree, tmp_path):
    files = [str(tree / path) for section in SECTIONS if section != OWN for path in new_files(section)]
    files = [file for file in files if Path(file).exists()]
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    command[3:4] = ["format", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_preference(tree):
    program = (
        "import numpy as np; from launch.cli import VERBS; from train.config.compose import compose\n"
        "schema, _, choices = VERBS['arrange'].load()\n"
        "def composed(*words): return compose('arrange', schema, ['output=o', *words], choices).preference\n"
        "wave = composed('preference=wave', 'preference.height=3')\n"
        "assert type(wave).__name__ == 'Wave' and wave == choices['preference']['wave'](height=3.0)\n"
        "wish_SK = wave.log_wish(np.linspace(0, 1, 5), np.array([4, 4]), ['low', 'high'])\n"
        "assert (np.sign(wish_SK[:, 1] - wish_SK[:, 0]) == [1, 1, -1, -1]).all()\n"
        "try: composed('preference=waves')\n"
        "except ValueError as error: assert 'two_stage, wave' in str(error)\n"
        "else: raise AssertionError\n"
    )
    run(tree, program)


def commands(section: str) -> list[list[str]]:
    """Return the arguments of the commands in a section."""
    return [shlex.split(line) for line in re.findall(r"^    pdpc (.*)$", SECTIONS[section], flags=re.MULTILINE)]


def test_a_preference_of_your_own(here, capsys):
    from launch.cli import main

    without_code, with_code = (words for words in commands(OWN) if words[0] == "inspect")
    for words in commands(OWN):
        assert main(words) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert ("add preference_code=my_preference.py:Ramp" in printed) == (words == without_code)
        assert ("is in the bucket that its scores give" in printed) == (words == with_code)


def test_a_preference_in_a_package(here, monkeypatch, capsys):
    from launch.cli import main

    (entry,) = re.findall(r"```toml\n(.*?)```", SECTIONS[OWN], flags=re.DOTALL)
    group, name, value = re.fullmatch(r'\[project\.entry-points\."(.+)"\]\n(\w+) = "(.+)"\n', entry).groups()
    package, info = here / "site" / "my_package", here / "site" / "my_package-1.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    shutil.move("my_preference.py", package / "my_preference.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(here / "site")
    words = ["own_scores=scores.parquet", "preference.score=quality", "output=order"]
    try:
        assert main(["arrange", "preference=tilt", *words[:-1], "output=tilted"]) == 0
        assert "my_package" not in sys.modules
        assert main(["arrange", f"preference={name}", *words]) == 0
        assert main(["inspect", "order", "--verify", words[0], f"preference_code={name}"]) == 0
    finally:
        for module in ("my_package", "my_package.my_preference"):
            sys.modules.pop(module, None)
    assert "is in the bucket that its scores give" in " ".join(capsys.readouterr().out.split())


def test_a_score_of_your_own(here):
    from launch.cli import main

    for words in commands("A score"):
        assert main(words) == 0


def test_a_derived_score(tree, scores_folder):
    program = (
        "from curriculum.scores.scores import Scores; import numpy as np\n"
        "scores = Scores.open(sys.argv[1])\n"
        "assert np.array_equal(scores.column('gap'), scores.column('loss_weak') - scores.column('loss_strong'))\n"
        "print(*scores.names)\n"
    )
    assert "gap" in run(tree, program, str(scores_folder)).split()


def test_an_attention_backend(tree):
    program = (
        "import torch; from models.attention import BACKENDS, Documents; from models.config import DecoderConfig\n"
        "DecoderConfig(vocab_size=8, layers=1, width=8, heads=2, kv_heads=1, ffn=8, max_seq_len=8, attention='loop')\n"
        "documents, cpu = Documents((3, 1, 4)), torch.device('cpu')\n"
        "q, k, v = (torch.randn(8, heads, 4, requires_grad=True) for heads in (4, 2, 2))\n"
        "found = []\n"
        "for name in ('loop', 'reference'):\n"
        "    out = BACKENDS[name].attend(q, k, v, BACKENDS[name].layout(documents, cpu))\n"
        "    found.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])\n"
        "for one, other in zip(*found): torch.testing.assert_close(one, other)\n"
    )
    run(tree, program)


def test_a_metric(tree):
    program = (
        "import torch; from types import SimpleNamespace as Some; from train.config.compose import compose\n"
        "from train.hooks.choice import hooks_of; from train.settings import TrainSettings\n"
        "words = ['output=o', 'arm=a', 'data.tokens=t', 'data.order=o']\n"
        "(hook,) = (hook for hook in hooks_of(compose('train', TrainSettings, words)) if hook.name == 'worst')\n"
        "world = Some(size=1, rank=0, device=torch.device('cpu'), all_sum=lambda values: values)\n"
        "for losses in ([1.0, 5.0], [2.0], []):\n"
        "    hook.post_step(Some(world=world, losses_N=torch.tensor(losses)), None)\n"
        "assert hook.metrics(Some(world=world)) == {'train/worst_sample': 5.0}\n"
        "assert hook.metrics(Some(world=world)) == {'train/worst_sample': 0.0}\n"
    )
    run(tree, program)


def test_a_tracker(tree, tmp_path):
    program = (
        "from pathlib import Path; from train.tracking import TrackerSettings, start_tracker\n"
        "tracker = start_tracker(TrackerSettings(name='csv'), Path(sys.argv[1]), 'arm', {})\n"
        "tracker.log({'step': 3, 'tokens': 7, 'train/loss': 2.5})\n"
        "tracker.finish()\n"
    )
    run(tree, program, str(tmp_path))
    assert (tmp_path / "metrics.csv").read_text() == "3,train/loss,2.5\n"


def test_an_objective(tree):
    program = (
        "import torch; from types import SimpleNamespace as Some; from models.attention import Documents\n"
        "from models.config import DecoderConfig; from models.decoder import build\n"
        "from train.config.compose import compose\n"
        "from train.objectives import objective_of; from train.settings import TrainSettings\n"
        "from train.objectives.language_model import LanguageModel, MicroBatch\n"
        "words = ['output=o', 'arm=a', 'data.tokens=t', 'data.order=o', 'objective=late']\n"
        "late = objective_of(compose('train', TrainSettings, words), None)\n"
        "shape = dict(vocab_size=50, layers=1, width=16, heads=2, kv_heads=1, ffn=24, max_seq_len=8)\n"
        "decoder = build(DecoderConfig(**shape), 0)\n"
        "class Engine:\n"
        "    world = Some(device=torch.device('cpu'))\n"
        "    def __call__(self, *parts, **named): return decoder(*parts, **named)\n"
        "ids_BS = torch.randint(1, 50, (3, 9))\n"
        "micro_batch = MicroBatch(ids_BS, Documents.of(ids_BS[:, :-1], None))\n"
        "plain, found = (kind.losses(Engine(), micro_batch) for kind in (LanguageModel(None), late))\n"
        "torch.testing.assert_close(found.losses_BT, plain.losses_BT * torch.linspace(0, 2, 8))\n"
        "torch.testing.assert_close(found.total, found.losses_BT.sum())\n"
    )
    run(tree, program)


def test_a_setting(tree):
    program = (
        "from train.config.compose import compose; from train.settings import OptimizerSettings, TrainSettings\n"
        "words = ['output=o', 'arm=a', 'data.tokens=t', 'data.order=o', 'optimizer.amsgrad=true']\n"
        "assert compose('train', TrainSettings, words).optimizer.amsgrad is True\n"
        "assert OptimizerSettings.__dataclass_fields__['amsgrad'].metadata['binds'] is True\n"
    )
    run(tree, program)
