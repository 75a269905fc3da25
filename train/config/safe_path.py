"""Where a program of ours imports from: never from the current folder, unless that is our own checkout.

Python puts the current folder first on its path for `python -m`, and for an empty or relative entry of PYTHONPATH. Any
file there that has the name of a module would be run in its place. This module imports only what the interpreter has
already loaded.
"""

from __future__ import annotations

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
"""The folder of our packages: the checkout, or site-packages."""
SAFE = "PYTHONSAFEPATH"
"""With this variable Python leaves the current folder out of its path; every process that we start inherits it."""
PATH = "PYTHONPATH"
OTHERS = ("PATH", "LD_LIBRARY_PATH")
REFUSED = 2
"""The exit code, as in train/distributed/exit_codes.py."""


def leave_current_folder() -> None:
    """Remove the current folder from the path of this program, and of those it starts, unless the user named it.

    It stays if it is our checkout, or an absolute entry of PYTHONPATH. If a module was already imported from it, the
    program exits with code 2 and a message. Programs call this before they import anything else; importing our packages
    does not call it.
    """
    named = [os.path.realpath(one) for one in _absolute(PATH)]
    os.environ.update(safe_variables())
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # the folder was removed
        return
    if here == HOME or here in named or here.startswith(os.path.realpath(sys.prefix) + os.sep):
        return
    sys.path[:] = [one for one in sys.path if one and os.path.realpath(one) != here]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name != "__main__" and "." not in name and file and _root(file) == here:
            sys.stderr.write(
                f"pdpc: the module {name!r} was imported from the current folder ({file}), not from PDPC or a library: "
                "rename that file, or start the command in another folder\n"
            )
            raise SystemExit(REFUSED)


def safe_variables() -> dict[str, str]:
    """Return the variables with which a Python program imports our packages from here, and nothing from its folder.

    The same for programs and libraries, where PATH or LD_LIBRARY_PATH has entries that are not absolute.
    """
    entries = _absolute(PATH)
    if not HOME.startswith(os.path.realpath(sys.prefix) + os.sep):  # a checkout; site-packages is on the path already
        entries = [HOME, *(one for one in entries if os.path.realpath(one) != HOME)]
    found = {SAFE: "1", PATH: os.pathsep.join(entries)}
    for name in OTHERS:
        safe = os.pathsep.join(_absolute(name))
        if safe != os.environ.get(name, ""):
            found[name] = safe
    return found


def _absolute(name: str) -> list[str]:
    """Return the absolute entries of a variable: any other, also an empty one, means the current folder."""
    return [one for one in os.environ.get(name, "").split(os.pathsep) if os.path.isabs(one)]


def _root(file: str) -> str:
    """Return the folder on the path from which a module was imported."""
    folder, name = os.path.split(os.path.realpath(file))
    return os.path.dirname(folder) if name.startswith("__init__.") else folder
