"""Compiled code is only loaded from a folder that no other user can write to."""

import shutil
import tempfile

import pytest

from models.compiled_code import VARIABLE, check_cache


def test_the_cache_of_compiled_code_is_this_users(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    check_cache()
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o022 == 0
    check_cache()
    monkeypatch.setenv(VARIABLE, str(folder))  # as torch does
    for mode in (0o777, 0o770):
        folder.chmod(mode)
        with pytest.raises(ValueError, match=rf"{folder}, from which torch.compile would run code, .*mode {mode:o}"):
            check_cache()
    shutil.rmtree(folder)
    folder.symlink_to("/")
    with pytest.raises(ValueError, match=f"set {VARIABLE} to one of yours"):
        check_cache()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "own"))
    check_cache()
