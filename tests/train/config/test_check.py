"""Which overrides and YAML files are rejected, and that ordinary ones pass."""

import time
from dataclasses import make_dataclass

import pytest

from train.config.check import check_files, check_settings, check_words, check_yaml
from train.config.compose import compose
from train.config.groups import CONFIGS


def no_kinds(key):
    return None


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    "word",
    [
        *(
            "seed=1",
            "+cluster.environment.NCCL_SOCKET_IFNAME=bond0",
            "~tracker",
            "tracker.tags=[a,b]",
            "experiment=demo",
        ),
        *("data.tokens=../tokens", "output=/runs/a..b", "input.paths=[/a/b,'../c d']", "preference={a: {b: [1, 2]}}"),
        *("cluster.setup=['module load cuda','echo $HOME']", "runs.a=[x,y]", "model=null", "hydrant=1"),
    ],
)
def test_ordinary_overrides_pass(word):
    check_words([word], CONFIGS)


@pytest.mark.parametrize("verb", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_shipped_file_passes(verb):
    words = [f"{path.parent.name}={path.stem}" for path in CONFIGS.glob("*/*.yaml")]
    check_files(verb, words, CONFIGS, no_kinds)


def test_a_file_that_a_chosen_file_chooses_is_checked_too(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "train.yaml").write_text("defaults: [{experiment: null}, _self_]\n")
    (tmp_path / "experiment" / "one.yaml").write_text("defaults: [two, _self_]\n")
    (tmp_path / "experiment" / "two.yaml").write_text("arm: ${oc.env:HOME}\n")
    (tmp_path / "experiment" / "other.yaml").write_text("arm: a\n")
    check_files("train", ["experiment=other"], tmp_path, no_kinds)
    with pytest.raises(ValueError, match=r"experiment/two\.yaml, line 1: \$\{"):
        check_files("train", ["experiment=one"], tmp_path, no_kinds)


def test_a_link_out_of_the_configurations_is_rejected(tmp_path):
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    (tmp_path / "configs" / "train.yaml").write_text("seed: 1\n")
    (tmp_path / "x.yaml").write_text("arm: a\n")
    (tmp_path / "configs" / "experiment" / "x.yaml").symlink_to(tmp_path / "x.yaml")
    with pytest.raises(ValueError, match="is a link to"):
        check_files("train", ["experiment=x"], tmp_path / "configs", no_kinds)


def test_aliases_are_counted_where_they_are_allowed(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("a: &a {x: 1, y: [2, 3]}\nb: [*a, *a]\nc: !function m.f\nd: &d 1\ne: *d\n")
    assert check_yaml(path, tags=["!function"], nodes=100)
    with pytest.raises(ValueError, match=r"task\.yaml, line 2: the alias 'a'"):
        check_yaml(path, tags=["!function"])
    with pytest.raises(ValueError, match="more than 20 values"):
        check_yaml(path, tags=["!function"], nodes=20)
    path.write_text("a: &a [*a]\n")
    with pytest.raises(ValueError, match="the alias 'a'"):
        check_yaml(path, nodes=100)


def test_a_yaml_bomb_is_rejected_at_once(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(LAUGHS)
    began = time.process_time()
    with pytest.raises(ValueError, match="aliases expand to more than"):
        check_yaml(path, nodes=100_000)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("train", ["arm=a", "data.tokens=t", "data.order=o"]),
        ("arrange", ["tokens=t", "batch_size=8", "preference=shuffled"]),
        *(("prepare", []), ("demo", [])),
    ],
)
@pytest.mark.parametrize("address", ["s3://bucket/run", "gs://b/r", "file:///runs/a"])
def test_no_verb_writes_to_an_address(verb, words, address):
    """A path of that name would be a folder here, and the output would be lost with the machine."""
    from launch.cli import VERBS

    schema, _, choices = VERBS[verb].load()
    with pytest.raises(ValueError, match=rf"output={address} is an address, and outputs are only written to folders"):
        compose(verb, schema, [*words, f"output={address}"], choices)


def test_a_path_with_a_colon_is_no_address():
    check_settings(make_dataclass("Written", [("output", str)])("runs/a:b"))
