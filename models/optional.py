"""Optional packages: whether one can be used here, and why not."""

from __future__ import annotations

from functools import cache
from importlib import import_module


@cache
def import_problem(package: str, module: str, needed: str = "") -> str | None:
    """Return why `package` cannot be used, None if it can: only importing `module` shows that its build fits.

    `needed`: a module of ours to import instead, for the names it needs. Later calls return the same.
    """
    try:
        import_module(needed or module)
    except Exception as error:  # a build for another torch raises ImportError or OSError, and some raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            return f"needs the package {package}, which is not installed"
        reason = " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[:1]])
        return f"needs the package {package}, whose installed build cannot be imported ({reason})"
    return None
