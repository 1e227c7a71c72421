"""`motet metrics`: what a service exports, and what watches it."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.errors import fail


def metrics(
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print them as docs/metrics.md.")] = False,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Print the Grafana dashboard.")] = False,
    alerts: Annotated[bool, typer.Option("--alerts", help="Print the alert rules of Prometheus.")] = False,
) -> None:
    """Print every metric that a service exports, or the dashboard and the alerts for them.

    Example: [bold]motet metrics --dashboard > grafana.json[/bold]

    Example: [bold]motet metrics --alerts > alerts.yaml[/bold]
    """
    if as_markdown + dashboard + alerts > 1:
        raise fail("invalid", "--markdown, --dashboard and --alerts print different things.", "Give one of them.")
    if dashboard:
        from serve_app.monitoring.dashboard import dashboard as text
    elif alerts:
        from serve_app.monitoring.alerts import alert_rules as text
    else:
        from serve_app.cli.metrics_reference import markdown, plain

        text = markdown if as_markdown else plain
    print(text(), end="")
