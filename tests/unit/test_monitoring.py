"""The page of metrics, the dashboard and the alerts are those of the declared metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deployments.replica.metric import Histogram, Metric
from serve_app.cli.metrics import metrics
from serve_app.monitoring.alerts import ALERTS
from serve_app.monitoring.metrics import METRICS
from tests.structure import modules_of

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "cluster" / "launch"
TESTS_OF_ALERTS = Path(__file__).parent / "prometheus" / "alerts_test.yaml"
EVERY = [metric for declared in METRICS.values() for metric in declared]
SERIES = {series: metric for metric in EVERY for series in metric.series}
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (of Prometheus) is not installed"
)


def named_in(query: str) -> set[str]:
    """The series that a query asks for."""
    return set(re.findall(r"\bray_\w+", query))


@pytest.mark.parametrize(
    ("file", "option"),
    [
        ("docs/metrics.md", "as_markdown"),
        ("cluster/launch/grafana.json", "dashboard"),
        ("cluster/launch/alerts.yaml", "alerts"),
    ],
)
def test_a_file_is_what_the_command_prints(file: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    metrics(**{"as_markdown": False, "dashboard": False, "alerts": False, option: True})
    assert capsys.readouterr().out == (ROOT / file).read_text()


def test_metrics_are_made_from_declarations_only() -> None:
    of_ray = re.compile(r"ray\.(serve|util)(\.metrics| import metrics)")
    assert [module.path for module in modules_of(ROOT) if of_ray.search(module.text)] == [
        "deployments/replica/metric.py"
    ]


def test_every_declared_metric_is_exported_somewhere() -> None:
    used = "".join(module.text for module in modules_of(ROOT) if module.path.endswith("/metrics.py"))
    for process, table in (("gateway", "table."), ("replica", "")):
        for metric in METRICS[process]:
            assert f"{table}{metric.name.removeprefix('motet_').upper()}.export(" in used, metric.name


def test_names_are_those_of_motet_and_say_their_unit() -> None:
    names = [metric.name for metric in EVERY]
    assert len(set(names)) == len(names)
    units = {"ms": "_ms", "s": "_seconds", "s of audio": "_seconds", "bytes": "_bytes", "tokens/s": "_per_second"}
    for metric in (*METRICS["gateway"], *METRICS["replica"]):
        assert metric.name.startswith("motet_")
        assert not metric.unit or units[metric.unit] in metric.name
        assert not isinstance(metric, Histogram) or list(metric.bounds) == sorted(set(metric.bounds)) != []


def shown() -> list[tuple[str, str]]:
    """Title and query of every graph of the dashboard."""
    panels = json.loads((LAUNCH / "grafana.json").read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())]


def test_the_dashboard_asks_for_metrics_that_exist_and_shows_all_of_them() -> None:
    board = json.loads((LAUNCH / "grafana.json").read_text())
    (choice,) = [each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    asked = named_in(" ".join([choice, *(query for _, query in shown())]))
    assert asked <= set(SERIES)
    assert {SERIES[name].name for name in asked} == {metric.name for metric in EVERY}


def test_every_panel_has_a_place_of_its_own() -> None:
    panels = json.loads((LAUNCH / "grafana.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (place["x"] + right, place["y"] + down)
        for place in (panel["gridPos"] for panel in panels)
        for right in range(place["w"])
        for down in range(place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} == set(range(24))


def labels_of(query: str) -> set[str]:
    """The labels that a query groups by."""
    return {label for group in re.findall(r" by \(([^)]*)\)", query) for label in re.split(", ?", group)} - {"le"}


def metrics_of(query: str) -> list[Metric]:
    return [SERIES[name] for name in named_in(query)]


@pytest.mark.parametrize("query", [query for _, query in shown()] + [alert.condition for alert in ALERTS])
def test_queries_group_by_labels_that_their_metrics_have(query: str) -> None:
    assert set(named_in(query)) <= set(SERIES)
    known = {label for metric in metrics_of(query) for label in metric.labels}
    assert labels_of(query) <= known


def test_every_alert_is_tested() -> None:
    tested = TESTS_OF_ALERTS.read_text()
    assert [alert.name for alert in ALERTS if alert.name not in tested] == []


@needs_promtool
@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "--lint=all", "--lint-fatal", str(LAUNCH / "alerts.yaml")),
        ("test", "rules", str(TESTS_OF_ALERTS)),
    ],
    ids=lambda words: words[1] if words[0] == "check" else "tests",
)
def test_prometheus_accepts_the_files_and_alerts_as_it_should(words: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    """Without the discovery of pods, which Debian builds Prometheus without."""
    config = yaml.safe_load((LAUNCH / "prometheus.yaml").read_text())
    assert config["rule_files"] == ["alerts.yaml"]
    for job in config["scrape_configs"]:
        job.pop("kubernetes_sd_configs", None)
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "alerts.yaml").write_text((LAUNCH / "alerts.yaml").read_text())
    words = ["promtool", "check", "config", str(tmp_path / "prometheus.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


@needs_promtool
def test_an_alert_that_does_not_fire_is_found(tmp_path: Path) -> None:
    """The tests of the alerts would notice a wrong limit."""
    rules = yaml.safe_load((LAUNCH / "alerts.yaml").read_text())
    for rule in rules["groups"][0]["rules"]:
        rule["expr"] = rule["expr"].replace("> scalar(", "> 10 * scalar(")
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rules))
    tests = TESTS_OF_ALERTS.read_text().replace("../../../cluster/launch/alerts.yaml", str(tmp_path / "alerts.yaml"))
    (tmp_path / "alerts_test.yaml").write_text(tests)
    words = ["promtool", "test", "rules", str(tmp_path / "alerts_test.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "MotetFirstSoundLate" in done.stdout + done.stderr


@needs_promtool
def test_prometheus_reads_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    expressions = [query.replace("$__rate_interval", "5m").replace("$model", ".*") for _, query in shown()]
    rules = [{"record": f"motet:query:{number}", "expr": each} for number, each in enumerate(expressions)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout
