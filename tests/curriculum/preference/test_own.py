"""A preference outside PDPC: loaded when the user names it, recorded in the order, never loaded for an artifact."""

import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.artifact.create import write_manifest
from curriculum.audit.audit import audit
from curriculum.order.order import Order
from curriculum.preference import PREFERENCES, Shuffled, Tilt
from curriculum.preference.base import ScoreCut, middles
from curriculum.preference.own import GROUP, RECORD, load, record, with_own
from launch.cli import main

CODE = '''
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curriculum.preference.base import ScoreCut, middles

open("was_run", "a").write("x")


@dataclass(frozen=True)
class Ramp(ScoreCut):
    name: str = "ramp"
    slope: float = 2.0
    """How fast the wish rises."""

    def log_wish(self, progress, counts_K, names):
        return self.slope * np.outer(self.folded(progress), middles(counts_K))
'''
NAMED = "./my_preference.py:Ramp"
ARRANGE = ["arrange", "own_scores=scores.parquet", "preference.score=quality", "batch_size=64"]
VERIFY = ["inspect", "order", "--verify", "own_scores=scores.parquet"]


@dataclass(frozen=True)
class Here(ScoreCut):
    """A preference of the user's own program."""

    name: str = "here"

    def log_wish(self, progress, counts_K, names):
        return np.outer(self.folded(progress), middles(counts_K))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with scores and a file of code."""
    monkeypatch.chdir(tmp_path)
    quality = np.random.default_rng(0).normal(size=2000).astype(np.float32)
    pq.write_table(pa.table({"quality": quality}), "scores.parquet")
    Path("my_preference.py").write_text(CODE)
    return tmp_path


@pytest.fixture
def arranged(here):
    assert main([*ARRANGE, f"preference={NAMED}", "preference.slope=3", "output=order"]) == 0
    Path("was_run").unlink()
    return Order.open("order")


def test_a_file_that_the_command_line_names_arranges(arranged):
    assert arranged.manifest.config["preference"]["slope"] == 3.0
    code = arranged.manifest.config[RECORD]
    assert (code["class"], code["file"]) == ("Ramp", "my_preference.py")
    plan = arranged.plan[:]
    high = plan[:, 1] / plan.sum(axis=1)
    assert (np.diff(high) > 0).all()
    assert not Path("__pycache__").exists()


def test_the_same_code_reuses_its_order_and_other_code_does_not(arranged, capsys):
    words = [*ARRANGE, f"preference={NAMED}", "preference.slope=3", "output=order"]
    assert main(words) == 0
    Path("my_preference.py").write_text(CODE + "# a word more\n")
    assert main(words) == 2
    assert "order was written with other settings or inputs (preference_code.xxh3_128" in capsys.readouterr().err


def test_verify_asks_for_the_file_and_runs_nothing(arranged, capsys):
    assert main(VERIFY) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "add preference_code=my_preference.py:Ramp" in printed
    assert "ok samples 2,000 positions" in printed
    assert not Path("was_run").exists()


def test_verify_finds_the_buckets_again_by_the_file_that_is_named(arranged, capsys):
    assert main([*VERIFY, f"preference_code={NAMED}"]) == 0
    assert "each of 2,000 samples is in the bucket that its scores give" in capsys.readouterr().out
    assert main([*VERIFY, "--preference-code", NAMED]) == 0


def test_verify_rejects_another_file_before_it_runs(arranged, capsys):
    Path("my_preference.py").write_text(CODE.replace("2.0", "4.0"))
    assert main([*VERIFY, f"preference_code={NAMED}"]) == 2
    assert "is not what the order was arranged by: xxh3_128 " in capsys.readouterr().err
    assert not Path("was_run").exists()
    assert main([*VERIFY, "preference_code=./my_preference.py:Other"]) == 2
    assert "by: class Other, the order's manifest says Ramp" in capsys.readouterr().err
    assert not Path("was_run").exists()


def test_code_is_named_for_orders_that_were_arranged_by_code(here, capsys):
    assert main([*ARRANGE, "preference=tilt", "output=order"]) == 0
    assert RECORD not in Order.open("order").manifest.config
    assert main([*VERIFY, f"preference_code={NAMED}"]) == 2
    assert "order was arranged by PDPC's own preference tilt: leave preference_code out" in capsys.readouterr().err
    assert main(["inspect", "order", f"preference_code={NAMED}"]) == 2
    assert "needs verify=true: add it" in capsys.readouterr().err
    assert not Path("was_run").exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({RECORD: None, "preference": {"name": "unheard_of"}}, "this PDPC has no preference 'unheard_of'"),
        ({RECORD: "os:system"}, "preference_code='os:system' is not the record of a class"),
        ({RECORD: {"class": "system", "file": "os.py"}}, "add preference_code=os.py:system"),
        ({RECORD: None, "preference": {"name": "tilt", "no": 1}}, "has settings that Tilt does not accept"),
    ],
)
def test_whatever_a_manifest_says_nothing_is_loaded(arranged, capsys, changed, told):
    manifest = arranged.manifest
    config = {key: value for key, value in (manifest.config | changed).items() if value is not None}
    write_manifest(Path("order"), manifest.kind, config=config, inputs=manifest.inputs, facts=manifest.facts)
    before = set(sys.modules)
    assert main(VERIFY) == 0
    printed = capsys.readouterr()
    assert told in " ".join((printed.out + printed.err).split())
    assert not [name for name in set(sys.modules) - before if "pdpc_preference" in name]
    assert not Path("was_run").exists()


def test_a_file_inside_an_artifact_is_not_looked_at(arranged, tmp_path):
    shutil.move("my_preference.py", "order/my_preference.py")
    main(VERIFY)
    assert not Path("was_run").exists()


def test_replan_takes_one_too(arranged):
    words = [f"preference={NAMED}", "preference.score=quality", "preference.slope=-3", "output=child"]
    assert main(["replan", "order", "from_step=10", "own_scores=scores.parquet", *words]) == 0
    assert Order.open("child").manifest.config[RECORD] == arranged.manifest.config[RECORD]


def test_an_installed_entry_point_is_loaded_when_it_is_named(here, monkeypatch):
    loaded = []

    class Entry(EntryPoint):
        def load(self):
            loaded.append(self.name)
            return Here

    def installed(group, name):
        assert group == GROUP
        return [Entry(name, "package:Here", group)] if name in ("here", "tilt", "folded") else []

    monkeypatch.setattr("curriculum.preference.own.entry_points", installed)
    for preference in ("tilt", "folded"):
        assert main([*ARRANGE, f"preference={preference}", f"output={preference}"]) == 0
    assert loaded == []
    assert main([*ARRANGE, "preference=here", "output=order"]) == 0
    assert loaded == ["here"]
    assert Order.open("order").manifest.config[RECORD]["class"] == "Here"
    assert main(VERIFY) == 0
    assert loaded == ["here"]
    assert main([*VERIFY, "preference_code=here"]) == 0
    assert loaded == ["here", "here"]


def test_the_python_face_records_it_as_well(here):
    order = run(ArrangeSettings(output="order", own_scores="scores.parquet", preference=Here(score="quality")))
    code = order.manifest.config[RECORD]
    assert (code["class"], code["file"]) == ("Here", "test_own.py")
    result = audit(order, None, None, Here)
    assert result.sound
    assert load(f"{__file__}:Here", code).__name__ == "Here"
    assert record(Shuffled()) == record(Tilt()) == {}


@pytest.mark.parametrize(
    ("named", "code", "told"),
    [
        ("./nowhere.py:Ramp", CODE, "nowhere.py is not a file: give FILE.py:CLASS"),
        ("./my_preference.py", CODE, r"names no class: give \./my_preference\.py:CLASS"),
        ("./my_preference.py:Rump", CODE, "has no class Rump"),
        (NAMED, "class Ramp: pass", "must be a subclass of curriculum.preference.Preference"),
        (NAMED, CODE.replace("@dataclass(frozen=True)", ""), r"decorate Ramp with @dataclass\(frozen=True\)"),
        (NAMED, CODE.replace('"ramp"', '"tilt"'), "is called 'tilt', a name that PDPC uses: .* name: str = \"ramp\""),
        (
            NAMED,
            CODE + "\n1 / 0\n",
            "fails to load: ZeroDivisionError: .* \\(my_preference.py, line 22\\)",
        ),
        (NAMED, "class Ramp(:\n", "fails to load: SyntaxError: .*my_preference.py, line 1"),
        ("not_installed", CODE, "no installed package has this entry point in the group pdpc.preferences"),
    ],
)
def test_what_cannot_be_loaded_is_named(here, named, code, told):
    Path("my_preference.py").write_text(code)
    with pytest.raises(ValueError, match=told):
        load(named)


def test_words_that_name_no_code_stay_as_they_are():
    words = ["preference=tilt", "preference.steepness=3", "output=x.py:y", "+preference=./x.py:y", "preference=nothing"]
    assert with_own(words, PREFERENCES) == (words, PREFERENCES)


def test_a_class_with_the_name_of_a_preference_is_rejected(here):
    Path("my_preference.py").write_text(CODE.replace("class Ramp", "class folded"))
    with pytest.raises(ValueError, match="has the name of a preference of PDPC: rename the class"):
        with_own(["preference=./my_preference.py:folded"], PREFERENCES, ["folded"])


def test_a_path_in_quotes_is_the_same_path(here):
    folder = here / "it's mine"
    folder.mkdir()
    shutil.copy("my_preference.py", folder)
    assert main([*ARRANGE, f"preference='{folder}/my_preference.py:Ramp'".replace("it's", "it\\'s"), "output=o"]) == 0
    assert main([*ARRANGE, "--preference", f"{folder}/my_preference.py:Ramp", "output=o"]) == 0


def test_help_lists_the_keys_of_what_is_named(here, capsys):
    assert main(["arrange", f"preference={NAMED}", "--help"]) == 0
    assert "  preference.slope = 2.0\n      How fast the wish rises.\n" in capsys.readouterr().out
