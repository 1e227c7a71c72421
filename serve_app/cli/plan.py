"""`motet plan`: how many of which machines a service needs, what they cost, and what happens when some are lost."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.errors import fail

if TYPE_CHECKING:
    from serve_app.planning.settings import PlanSettings

AtOnce = Annotated[
    str | None,
    typer.Option(
        show_default=False, help="Find the cheapest fleet for each of these numbers of streams, such as 100,1000."
    ),
]
CellStreams = Annotated[
    int | None,
    typer.Option(
        min=1, show_default="500", help="With --at-once: the most streams of a cell. Small ones are planned sooner."
    ),
]


def plan(
    file: Annotated[
        str | None,
        typer.Argument(show_default=False, help="A YAML file, or a scenario; without one, scenarios are listed."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the result there as JSON: the curves, or the fleets."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw the curves (needs matplotlib).")
    ] = None,
    find: Annotated[
        bool, typer.Option("--find", help="Search for the cheapest fleet that keeps the promise at the busiest moment.")
    ] = False,
    at_once: AtOnce = None,
    streams_of_a_cell: CellStreams = None,
    seed: Annotated[int | None, typer.Option(min=0, show_default="the plan's", help="Of the random traffic.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the plan with all defaults, to begin your own.")] = False,
    cards: Annotated[
        bool, typer.Option("--cards", help="List usual machines of clouds, with their prices and sources.")
    ] = False,
) -> None:
    """Simulate a service with its own policies: first sound, refusals, replicas, machines and cost.

    Example: [bold]motet plan one-class[/bold]

    Example: [bold]motet plan one-class --show > mine.yaml; motet plan mine.yaml --find[/bold]
    """
    from serve_app.planning import plan_file

    if file is None and seed is not None:
        raise typer.BadParameter("It needs a plan; motet plan lists the scenarios.", param_hint="--seed")
    if cards:
        _print_cards(alone=not (file or find or at_once or show or json_file or picture))
        return
    other = {"--find": find, "--at-once": at_once is not None, "--show": show}
    written = {"--json": json_file is not None, "--picture": picture is not None}
    _check_options(
        file, [name for name, given in other.items() if given], [name for name, given in written.items() if given]
    )
    sizes = _sizes(at_once, streams_of_a_cell)
    if file is None:
        print("\n".join(plan_file.summaries()))
        return
    settings = plan_file.read(file)
    if seed is not None:
        settings = settings.model_copy(update={"seed": seed})
    if show:
        _print_settings(settings)
    elif sizes is not None:
        _print_sizes(settings, file, sizes, streams_of_a_cell, json_file)
    elif find:
        _print_found(settings, file, json_file)
    else:
        _simulate(settings, file, json_file, picture)


def _print_cards(*, alone: bool) -> None:
    from serve_app.planning import plan_file, report

    if not alone:
        raise typer.BadParameter(
            "It lists machines, and cannot be combined with a plan or its options.", param_hint="--cards"
        )
    print(report.cards_in_text(plan_file.cards()))


def _check_options(file: str | None, other: Sequence[str], written: Sequence[str]) -> None:
    """Refuses options that would do nothing: without a plan, or beside another one. `other` options replace the simulation,
    and `written` ones write a result. Only a simulation has a picture, and the settings are not a result."""
    if file is None and (other or written):
        raise typer.BadParameter(
            f"{[*other, *written][0]} needs a plan; motet plan lists the scenarios.", param_hint="FILE"
        )
    if len(other) > 1:
        raise typer.BadParameter(f"It cannot be combined with {other[1]}.", param_hint=other[0])
    useless = [name for name in written if name == "--picture" or "--show" in other]
    if other and useless:
        raise typer.BadParameter(f"{other[0]} makes no result that it could write.", param_hint=useless[0])


def _simulate(settings: PlanSettings, name: str, json_file: Path | None, picture: Path | None) -> None:
    from serve_app.planning import picture as pictures
    from serve_app.planning import report
    from serve_app.planning.simulation import simulate

    started = time.process_time()
    result = simulate(settings)
    took_s = time.process_time() - started
    print(report.in_text(result, settings))
    print(f"{settings.duration_s:,.0f} s were simulated in {took_s:.1f} s of one core. {_origin()}")
    if json_file is not None:
        _write(json_file, report.as_json(result, settings, {**_facts(name), "took_s": round(took_s, 3)}))
    if picture is not None:
        pictures.draw(result, picture, name)


def _write(file: Path, document: Mapping[str, object]) -> None:
    file.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")


def _print_settings(settings: PlanSettings) -> None:
    import yaml

    print(yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True), sort_keys=False), end="")


def _print_found(settings: PlanSettings, name: str, json_file: Path | None) -> None:
    from serve_app.planning.report import fleets_as_json, fleets_in_text
    from serve_app.planning.search import find
    from serve_app.planning.simulation import simulate

    found = find(settings, simulate, lambda line: print(line, file=sys.stderr, flush=True))
    if not found:
        raise fail("unavailable", "No fleet that was tried keeps the promise.", "Use faster machines, or promise less.")
    print(fleets_in_text(found, settings))
    print(_origin())
    if json_file is not None:
        _write(json_file, fleets_as_json(found, settings, _facts(name)))


def _print_sizes(
    settings: PlanSettings, name: str, sizes: tuple[int, ...], of_a_cell: int | None, json_file: Path | None
) -> None:
    from serve_app.planning.report import sizes_as_json, sizes_in_text
    from serve_app.planning.search import STREAMS_OF_A_CELL, find, for_streams
    from serve_app.planning.simulation import simulate

    most = of_a_cell or STREAMS_OF_A_CELL
    rows = [(size, find(for_streams(settings, size, most), simulate)) for size in sizes]
    print(sizes_in_text(rows, settings))
    print(_origin())
    if json_file is not None:
        _write(json_file, sizes_as_json(rows, settings, _facts(name)))


def _sizes(text: str | None, of_a_cell: int | None) -> tuple[int, ...] | None:
    """The numbers of streams in `text`; None without it, which refuses `of_a_cell`."""
    if text is None:
        if of_a_cell is not None:
            raise typer.BadParameter("It needs --at-once.", param_hint="--streams-of-a-cell")
        return None
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1 or max(sizes) > 1_000_000 or len(sizes) > 20:
        cause = f"{text!r} is not a list of numbers of streams from 1 to 1,000,000."
        raise typer.BadParameter(f"{cause} Write such as 100,1000,10000.", param_hint="--at-once")
    return sizes


def _facts(name: str) -> dict[str, object]:
    """What made a JSON file."""
    return {"plan": name, "origin": _origin()}


def _origin() -> str:
    """Which code on which machine."""
    from serve_app.bench.frame import this_machine

    machine = this_machine()
    return f"Commit {machine.commit}, {machine.cores} cores of {machine.cpu}."
