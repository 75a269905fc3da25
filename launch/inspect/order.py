"""`pdpc inspect` for an ORDER or a RUN: the checks if requested, then a summary with the plan, or one step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from curriculum.order.order import Order
from curriculum.work.console import cell
from launch.inspect.settings import RUN, InspectSettings
from launch.inspect.subject import Subject, open_order, open_run

if TYPE_CHECKING:
    from curriculum.preference import Preference


def inspect_order(settings: InspectSettings, console: Any) -> int:
    """Print the requested checks, and a summary or a step; return 1 if a check fails."""
    folder = Path(settings.folder)
    opening = open_run if (folder / RUN).is_file() else open_order
    subject = opening(folder, settings.tokens, settings.scores, settings.own_scores)
    for note in subject.notes:
        console.print(cell(f"! {note}", "yellow"))
    sound = True
    if settings.verify:
        sound = _checked(subject, settings, console)
    if not sound:
        return 1
    if settings.hindsight is not None:
        from launch.inspect.hindsight import show_hindsight

        return show_hindsight(subject, settings, console)
    if settings.step is not None:
        from launch.inspect.step import show_step

        sound = show_step(subject, settings, console)
    else:
        _summarise(subject, settings, console)
    return 0 if sound else 1


def _summarise(subject: Subject, settings: InspectSettings, console: Any) -> None:
    from curriculum.audit.overview import overview
    from launch.inspect import summary

    view = overview(subject.order, subject.columns)
    summary.show(subject, view, console)
    if settings.picture is not None:
        from launch.inspect.picture import draw

        draw(view, Path(settings.picture))
        console.print(f"picture: {settings.picture}", markup=False)
    if not settings.verify:
        console.print("sizes match; verify=true checks every byte, step and position", markup=False)


def _checked(subject: Subject, settings: InspectSettings, console: Any) -> bool:
    """Print one line per check; return whether none failed."""
    from curriculum.audit.audit import audit

    parent = Order.open(settings.parent) if settings.parent else None
    result = audit(subject.order, subject.columns, parent, _own_preference(subject.order, settings.preference_code))
    console.print(f"CHECKS of {subject.order.folder}", style="bold", markup=False)
    for check in result.checks:
        mark, style = {True: ("ok", "green"), False: ("WRONG", "bold red"), None: ("--", "dim")}[check.sound]
        console.print(cell(f"  {mark:<6}{check.name:<13}{check.said}", style))
    console.print()
    return result.sound


def _own_preference(order: Order, named: str | None) -> type[Preference] | None:
    """Load the user's preference code. Raises ValueError if the order was arranged by other code or by PDPC's own."""
    from curriculum.preference.own import load, recorded

    if named is None:
        return None
    code = recorded(order.manifest.config)
    if code is None:
        raise ValueError(
            f"preference_code={named}: {order.folder} was arranged by PDPC's own preference "
            f"{order.manifest.config['preference']['name']}: leave preference_code out"
        )
    return load(named, code)
