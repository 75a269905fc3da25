import json

import pytest

from curriculum.artifact.create import create, reusable
from curriculum.artifact.drafts import machine, remove_abandoned
from curriculum.artifact.files import ArtifactError, fingerprint_of, hash_file
from curriculum.artifact.manifest import OutsideFile, checksum_of, open_manifest, verify


@pytest.fixture
def artifact(tmp_path):
    folder = tmp_path / "thing"
    with create(folder, "thing", config={"seed": 1, "inner": {"k": 2}}, inputs={"text": "abc"}) as draft:
        (draft.path / "data.bin").write_bytes(b"0123456789" * 100)
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "more.txt").write_text("more")
        draft.facts["rows"] = 10
    return folder


def test_whole_artifact_opens_and_verifies(artifact):
    manifest = open_manifest(artifact, "thing")
    assert manifest.facts == {"rows": 10}
    assert set(manifest.files) == {"data.bin", "sub/more.txt"}
    verify(artifact)
    assert [path.name for path in artifact.parent.iterdir()] == ["thing"]


def test_every_flipped_bit_of_a_file_is_found(artifact):
    path = artifact / "data.bin"
    data = bytearray(path.read_bytes())
    for position in range(0, len(data), 97):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"data\.bin does not match its checksum"):
            verify(artifact)


def test_no_flipped_bit_of_a_manifest_changes_what_is_read(artifact):
    path = artifact / "manifest.json"
    data, whole = path.read_bytes(), open_manifest(artifact, "thing")
    bits = range(0, 8 * len(data), 5)
    found = 0
    for bit in bits:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert open_manifest(artifact, "thing") == whole
        except ArtifactError:
            found += 1
    assert found == len(bits)


def test_an_edited_manifest_is_found(artifact):
    path = artifact / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 10', '"rows": 11'))
    with pytest.raises(ArtifactError, match=r"manifest\.json does not match its own checksum: it is damaged; recreate"):
        open_manifest(artifact, "thing")


def test_a_manifest_without_its_checksum_is_damaged(artifact):
    path = artifact / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["checksum"]
    path.write_text(json.dumps(fields))
    with pytest.raises(ArtifactError, match=r"manifest\.json does not match its own checksum"):
        open_manifest(artifact, "thing")


def test_any_json_value_may_be_a_setting(tmp_path):
    config = {"shares": {10.0: 1, 2.0: {"a": float("inf")}}, "name": "\u00e9\ud83d\ude00", "list": (1, 2), "none": None}
    with create(tmp_path / "thing", "thing", config=config, inputs={}):
        pass
    assert open_manifest(tmp_path / "thing", "thing").config["shares"] == {"10.0": 1, "2.0": {"a": float("inf")}}
    assert reusable(tmp_path / "thing", "thing", config=config, inputs={})


def test_the_second_of_two_writers_is_told_and_changes_nothing(tmp_path):
    def write(text):
        with create(tmp_path / "thing", "thing", config={}, inputs={}) as draft:
            (draft.path / "file").write_text(text)
            if text == "slow":
                write("fast")

    with pytest.raises(ArtifactError, match="thing was created by another process: run again to use it"):
        write("slow")
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]
    assert (tmp_path / "thing" / "file").read_text() == "fast"
    verify(tmp_path / "thing")


def test_what_a_living_writer_has_is_left_alone(tmp_path):
    with create(tmp_path / "thing", "thing", config={}, inputs={}) as draft:
        with create(tmp_path / "other", "thing", config={}, inputs={}):
            pass
        remove_abandoned(tmp_path, "thing")
        assert draft.path.exists()


def test_an_exception_leaves_nothing_behind(tmp_path):
    def fail_half_way():
        with create(tmp_path / "thing", "thing", config={}, inputs={}) as draft:
            (draft.path / "half").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    left = tmp_path / f".thing.tmp-{machine()}-999999999-0123abcd"
    left.mkdir()
    with create(tmp_path / "thing", "thing", config={}, inputs={}):
        pass
    assert not left.exists()


def test_same_content_has_the_same_fingerprint_and_other_content_another(tmp_path):
    prints = []
    for name, content in (("a", "x"), ("b", "x"), ("c", "y")):
        with create(tmp_path / name, "thing", config={"name": name}, inputs={}) as draft:
            (draft.path / "file").write_text(content)
        prints.append(open_manifest(tmp_path / name, "thing").fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_reuse_names_what_differs(artifact):
    config = {"seed": 1, "inner": {"k": 2}}
    assert reusable(artifact, "thing", config=config, inputs={"text": "abc"})
    assert not reusable(artifact.parent / "none", "thing", config=config, inputs={})
    with pytest.raises(ArtifactError, match=r"inner\.k: found 2, requested 3.*text: found 'abc', requested 'abd'"):
        reusable(artifact, "thing", config={"seed": 1, "inner": {"k": 3}}, inputs={"text": "abd"})


def _edit(artifact, **changes):
    """Change a manifest deliberately: its checksum is updated too."""
    path = artifact / "manifest.json"
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({**fields, "checksum": checksum_of(fields)}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: (a / "data.bin").write_bytes(b"short"), "has 5 bytes instead of 1000"),
        (lambda a: (a / "data.bin").unlink(), r"data\.bin is missing"),
        (lambda a: (a / "manifest.json").unlink(), "has no manifest"),
        (lambda a: (a / "manifest.json").write_text("{"), r"manifest\.json cannot be read"),
        (lambda a: (a / "manifest.json").write_text("[]"), r"manifest\.json cannot be read"),
        (lambda a: _edit(a, kind="other"), "is a 'other' artifact, not 'thing'"),
        (lambda a: _edit(a, format_version=99), "format version 99"),
        (lambda a: _edit(a, files={"../x": {"bytes": 1, "xxh3_128": ""}}), "outside its folder"),
    ],
)
def test_torn_and_foreign_artifacts_are_named(artifact, damage, message):
    damage(artifact)
    with pytest.raises(ArtifactError, match=message):
        open_manifest(artifact, "thing")


def test_an_existing_folder_is_not_overwritten(artifact):
    with pytest.raises(ArtifactError, match="already exists"), create(artifact, "thing", config={}, inputs={}):
        pass
    verify(artifact)


def test_fingerprint_does_not_depend_on_key_order():
    assert (
        fingerprint_of({"a": 1, "b": [1, 2]})
        == fingerprint_of({"b": [1, 2], "a": 1})
        != fingerprint_of({"a": 1, "b": [2, 1]})
    )


def test_files_outside_are_named_checked_and_free_of_their_place(tmp_path):
    prints = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "data.bin"
        path.write_bytes(b"0123456789")
        with create(tmp_path / name / "thing", "tokens", config={}, inputs={}) as draft:
            entry = hash_file(path)
            draft.outside["data"] = OutsideFile(str(path), entry.bytes, entry.xxh3_128)
        prints.append(open_manifest(tmp_path / name / "thing", "tokens").fingerprint)
    assert prints[0] == prints[1]
    verify(tmp_path / "there" / "thing")
    path.write_bytes(b"0123456780")
    with pytest.raises(ArtifactError, match=r"data\.bin does not match its checksum: it changed after"):
        verify(tmp_path / "there" / "thing")
    path.write_bytes(b"012345678")
    with pytest.raises(
        ArtifactError, match=r"data\.bin has 9 bytes instead of 10: it changed after .* was written; restore it"
    ):
        open_manifest(tmp_path / "there" / "thing", "tokens")
    path.unlink()
    with pytest.raises(ArtifactError, match=r"data\.bin is missing, but .*thing reads it in place: restore it"):
        open_manifest(tmp_path / "there" / "thing", "tokens")


def test_an_empty_folder_is_written_to_and_one_with_other_files_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    assert not reusable(tmp_path / "a", "thing", config={}, inputs={})
    with create(tmp_path / "a", "thing", config={}) as draft:
        (draft.path / "x").write_text("1")
    assert reusable(tmp_path / "a", "thing", config={}, inputs={})
    (tmp_path / "b").mkdir()
    for number in range(7):
        (tmp_path / "b" / f"{number}.jsonl").touch()
    with pytest.raises(
        ArtifactError, match=r"b contains other files \(0.jsonl, .*4.jsonl and 2 more\).*another output"
    ):
        reusable(tmp_path / "b", "thing", config={}, inputs={})
    (tmp_path / "c").touch()
    with pytest.raises(ArtifactError, match="c is a file"):
        reusable(tmp_path / "c", "thing", config={}, inputs={})
