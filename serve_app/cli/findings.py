"""What `motet doctor` found: one line for each part of Motet, and what to run for what does not work."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "info", "absent", "broken"]
"""`info` describes the machine and is not a check; `absent` is something that this machine can do without; `broken` is
something that Motet needs."""

Area = Literal["hardware", "models", "libraries", "extras", "service", "doors"]

WORKS, BROKEN = "The models work.", "Something that Motet needs is broken; see above."

MARKS: Mapping[State, str] = {"ok": "green", "info": "dim", "absent": "yellow", "broken": "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` is what to run or do, where something can be done."""

    area: Area
    name: str
    state: State
    detail: str
    remedy: str = ""


def healthy(findings: list[Finding]) -> bool:
    """Whether every model works on some hardware of this machine, nothing of what `motet serve` needs is broken, and no port
    is open that should not be."""
    models = [finding for finding in findings if finding.area == "models"]
    working = {_model_of(finding) for finding in models if finding.state == "ok"}
    broken = any(finding.state == "broken" and finding.area in ("models", "service", "doors") for finding in findings)
    return not broken and all(_model_of(finding) in working for finding in models)


def _model_of(finding: Finding) -> str:
    return finding.name.rpartition("@")[0]


def show(findings: list[Finding], *, as_json: bool, good: str = WORKS, bad: str = BROKEN) -> None:
    """JSON, a table on a terminal, or plain lines. The last line is `good` or `bad`."""
    if as_json:
        report = {"ok": healthy(findings), "findings": [asdict(finding) for finding in findings]}
        _print(json.dumps(report, indent=2))
    elif sys.stdout.isatty():
        _show_table(findings)
    else:
        _print("\n".join(_line(finding) for finding in findings))
    if not as_json:
        _print(f"\n{good if healthy(findings) else bad}")


def _line(finding: Finding) -> str:
    remedy = f"\n        fix: {finding.remedy}" if finding.remedy and finding.state != "ok" else ""
    return f"{finding.state:<7} {finding.area}/{finding.name}: {finding.detail}{remedy}"


def _show_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "what", "found", box=None, pad_edge=False)
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            table.add_section()
            table.add_row("", Text(area, style="bold"))
        found = Text(finding.detail)
        if finding.remedy and finding.state != "ok":
            found.append(f"\n{finding.remedy}", style="cyan")
        table.add_row(Text(finding.state, style=MARKS[finding.state]), finding.name, found)
    Console().print(table)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
