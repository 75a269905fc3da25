"""The current folder is not on the path of our programs."""

import os
import sys
from types import ModuleType

import pytest

from train.config import safe_path
from train.config.safe_path import HOME, leave_current_folder, safe_variables


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder, which is first on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "path", [str(tmp_path), "", *(one for one in sys.path if one)])
    return tmp_path


def test_the_current_folder_leaves_the_path(here):
    libraries = sys.path[2:]
    leave_current_folder()
    assert sys.path == libraries
    assert os.environ["PYTHONSAFEPATH"] == "1"


def test_programs_and_libraries_are_not_looked_up_in_the_current_folder(here, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", ":/cuda/lib:.")
    monkeypatch.setenv("PATH", "/bin:lib:/usr/bin")
    leave_current_folder()
    assert (os.environ["LD_LIBRARY_PATH"], os.environ["PATH"]) == ("/cuda/lib", "/bin:/usr/bin")
    assert set(safe_variables()) == {"PYTHONSAFEPATH", "PYTHONPATH"}


@pytest.mark.parametrize("path", ["", ":", ".:lib", f".:{HOME}"])
def test_relative_entries_of_the_path_are_the_current_folder(here, monkeypatch, path):
    monkeypatch.setenv("PYTHONPATH", path)
    leave_current_folder()
    assert str(here) not in sys.path
    assert safe_variables() == {"PYTHONSAFEPATH": "1", "PYTHONPATH": HOME}


def test_a_folder_that_the_user_named_stays(here, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{here}:/other")
    leave_current_folder()
    assert sys.path[0] == str(here)
    assert safe_variables()["PYTHONPATH"] == f"{HOME}:{here}:/other"


def test_our_checkout_stays(monkeypatch):
    monkeypatch.chdir(HOME)
    monkeypatch.setattr(sys, "path", [HOME, *sys.path])
    before = list(sys.path)
    leave_current_folder()
    assert sys.path == before


def test_a_removed_folder_is_no_problem(here):
    here.rmdir()
    leave_current_folder()


@pytest.mark.parametrize("file", ["psutil.py", "psutil/__init__.py"])
def test_a_module_from_the_current_folder_is_named(here, monkeypatch, capsys, file):
    module = ModuleType("psutil")
    module.__file__ = str(here / file)
    monkeypatch.setitem(sys.modules, "psutil", module)
    with pytest.raises(SystemExit) as caught:
        leave_current_folder()
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"pdpc: the module 'psutil' was imported from the current folder ({here / file})")


def test_an_installed_package_is_found_without_a_variable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/own")
    monkeypatch.setattr(safe_path, "HOME", os.path.join(os.path.realpath(sys.prefix), "lib", "site-packages"))
    assert safe_variables()["PYTHONPATH"] == "/own"
