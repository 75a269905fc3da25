"""Descendant processes of a run."""

from pathlib import Path


def descendants(pid):
    """Return the pids of all descendants of `pid`, read from /proc."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            children += [child, *descendants(child)]
    return children
