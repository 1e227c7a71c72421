"""The Grafana dashboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from string import ascii_uppercase
from typing import Any

from serve_app.gateway.metric_table import REQUESTS
from serve_app.monitoring.panels import ROWS, Panel

SCHEMA_VERSION = 39
WIDTH, HEIGHT, COLUMNS = 12, 8, 2
"""Of a panel, in Grafana's grid of 24 columns."""
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> str:
    """The text of `cluster/launch/grafana.json`."""
    board = {
        "title": "Motet",
        "uid": "motet",
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "tags": ["motet"],
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_choice_of_source(), _choice_of_models()]},
        "annotations": {"list": []},
        "panels": [{"id": number, **panel} for number, panel in enumerate(_panels(), 1)],
    }
    return json.dumps(board, indent=2) + "\n"


def _choice_of_source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _choice_of_models() -> dict[str, Any]:
    return {
        "name": "model",
        "type": "query",
        "label": "Model",
        "datasource": DATA_SOURCE,
        "query": {"query": f"label_values({REQUESTS.series[0]}, model)", "refId": "model"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[dict[str, Any]]:
    top = 0
    for title, panels in ROWS.items():
        yield {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _place(top, 0, 24, 1)}
        top += 1
        for at, panel in enumerate(panels):
            down, right = divmod(at, COLUMNS)
            yield _graph(panel, _place(top + down * HEIGHT, right * WIDTH, WIDTH, HEIGHT))
        top += -(-len(panels) // COLUMNS) * HEIGHT


def _place(top: int, left: int, width: int, height: int) -> dict[str, int]:
    return {"h": height, "w": width, "x": left, "y": top}


def _graph(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": DATA_SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"datasource": DATA_SOURCE, "expr": query, "legendFormat": legend, "refId": letter}
            for letter, (legend, query) in zip(ascii_uppercase, panel.queries.items(), strict=False)
        ],
    }
