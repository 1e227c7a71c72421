"""The Helm chart: linted and rendered by Helm's own library, its manifests checked against Kubernetes' schemas."""

from __future__ import annotations

import tomllib
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from serve_app.config import AppConfig
from serve_app.edge.settings import OWN_PAGES, EdgeSettings, edge_of
from tests.manifests import CHART, KUBERAY, manifests, rendered
from tests.unit.test_launch import ROOT, mistakes_in

KUBERNETES = ("1.28", "1.37")
"""The oldest that the chart names, and the newest that the library knows."""
OF_OPERATORS = {"RayService", "PodMonitor", "PrometheusRule"}
WARNING = 2

EVERYTHING: dict[str, Any] = {
    "throughput": True,
    "image": {"repository": "registry.test/motet", "tag": "9", "pullSecrets": [{"name": "registry"}]},
    "secrets": {"keys": "motet-keys", "rayToken": "token", "redis": "password"},
    "settings": {"drain_s": 120, "security": {"strict_hosts": None}, "tracing": {"endpoint": "http://collector:4318"}},
    "classes": {"cpu": {"nodeSelector": {"pool": "cpu"}}, "cuda": {"maxReplicas": 2, "gpus": 2}},
    "voices": {"storageClass": "efs"},
    "ingress": {"enabled": True, "className": "nginx", "host": "motet.test", "tlsSecret": "certificate"},
    "monitoring": {"podMonitor": True, "rules": True, "dashboard": True, "labels": {"release": "prometheus"}},
}
LITTLE: dict[str, Any] = {
    "settings": {"gateway_replicas": 1},
    "classes": {"cuda": None},
    "voices": {"enabled": False},
    "redis": {"enabled": False, "address": "redis://redis.test:6379"},
    "networkPolicy": {"enabled": False},
}
del EVERYTHING["settings"]["security"]
VARIANTS = {"defaults": {}, "everything": EVERYTHING, "little": LITTLE}


def documents(values: dict[str, Any]) -> list[Any]:
    """The manifests with these values, without the notes for the terminal."""
    texts = [text for name, text in rendered(values).items() if name.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def of_kind(values: dict[str, Any], kind: str) -> list[Any]:
    return [document for document in documents(values) if document["kind"] == kind]


def settings_of(values: dict[str, Any]) -> AppConfig:
    """The service that the chart describes."""
    (service,) = of_kind(values, "RayService")
    return AppConfig.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"])


def pod_of(values: dict[str, Any], group: str = "cpu") -> Any:
    (service,) = of_kind(values, "RayService")
    groups = {each["groupName"]: each for each in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    return groups[group]["template"]["spec"]


def test_helm_finds_nothing_wrong() -> None:
    found = helm_python.lint(CHART, EVERYTHING, strict=True)
    assert found["errors"] == []
    assert [message for message in found["messages"] if message["severity"] >= WARNING] == []


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_accepts_the_manifests(name: str, version: str) -> None:
    checked = [document for document in documents(VARIANTS[name]) if document["kind"] not in OF_OPERATORS]
    assert checked
    for document in checked:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_of_kubernetes_find_a_misspelt_field() -> None:
    (budget, *_) = of_kind({}, "PodDisruptionBudget")
    budget["spec"]["maxUnavailabel"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="maxUnavailabel"):
        kubernetes_validate.validate(budget, KUBERNETES[0], strict=True)


@pytest.mark.parametrize("name", VARIANTS)
def test_kuberay_and_motet_accept_the_service(name: str) -> None:
    (service,) = of_kind(VARIANTS[name], "RayService")
    if name != "everything":  # the closed schema of the plain manifests has no pull secrets and no node selectors
        assert mistakes_in(service) == []
    assert settings_of(VARIANTS[name]).models


def test_the_plain_manifests_are_those_of_the_chart() -> None:
    assert {path.name: path.read_text() for path in KUBERAY.glob("*.yaml")} == dict(manifests())


@pytest.mark.parametrize(
    "wrong",
    [{"ingres": {"enabled": True}}, {"classes": {"cpu": {"minReplicas": -1}}}, {"redis": {"address": "redis.test"}}],
)
def test_a_wrong_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        rendered(wrong)


def test_the_chart_has_the_version_of_motet() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (project["version"], project["version"])


def test_settings_reach_the_service() -> None:
    found = settings_of(EVERYTHING)
    assert found.tracing.endpoint == "http://collector:4318"
    assert set(found.models) == {"hibari", "whisper-base", "deepfilternet"}
    assert found.speech.arrival.max_sessions_per_client is None
    assert pod_of(EVERYTHING)["terminationGracePeriodSeconds"] == 180


def profile_of(values: dict[str, Any]) -> dict[str, str]:
    """The variables of the pods."""
    (profile,) = [each for each in of_kind(values, "ConfigMap") if each["metadata"]["name"] == "motet-profile"]
    variables: dict[str, str] = profile["data"]
    return variables


@pytest.mark.parametrize(
    "edge",
    [
        {},
        {"max_connections": 100_000, "unread_s": 30, "header_s": 5},
        {"max_connections_per_address": 10, "metrics_host": "127.0.0.1"},
    ],
)
def test_the_http_servers_get_the_limits_of_the_settings(edge: dict[str, Any]) -> None:
    """They start before the service, and read the environment."""
    values = {"settings": {"edge": edge}}
    expected = EdgeSettings(**{"max_connections_per_address": None, "metrics_host": "0.0.0.0", **edge})
    variables = profile_of(values)
    assert edge_of(variables) == settings_of(values).edge == expected
    assert variables["RAY_SERVE_HAPROXY_MAXCONN"] == str(expected.max_connections + 2 * OWN_PAGES)
    assert variables["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == str(expected.unread_s)


def egress_of(values: dict[str, Any]) -> list[Any]:
    """Where the service's pods may connect to."""
    (policy,) = [each for each in of_kind(values, "NetworkPolicy") if each["metadata"]["name"] == "motet"]
    rules: list[Any] = policy["spec"]["egress"]
    return rules


@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("redis://redis.test:6380", 6380),
        ("rediss://user:1234@redis.test:6381/0", 6381),
        ("redis://10.0.0.1", 6379),
        ("redis://[fd00::12]:7000", 7000),
    ],
)
def test_the_policy_lets_pods_reach_a_managed_redis(address: str, port: int) -> None:
    rules = egress_of({"redis": {"enabled": False, "address": address}})
    assert rules[:-1] == egress_of({})
    assert rules[-1] == {"ports": [{"protocol": "TCP", "port": port}]}


def test_the_policy_has_the_rules_of_the_values() -> None:
    extra = [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}], "ports": [{"protocol": "TCP", "port": 4318}]}]
    values = {"networkPolicy": {"extraEgress": extra}}
    assert egress_of(values) == [*egress_of({}), *extra]
    for document in of_kind(values, "NetworkPolicy"):
        kubernetes_validate.validate(document, KUBERNETES[0], strict=True)
    with pytest.raises(helm_python.HelmError):
        rendered({"networkPolicy": {"extraEgress": ["4318"]}})


def test_keys_of_a_secret_are_read_by_the_gateways() -> None:
    pod = pod_of(EVERYTHING)
    (volume,) = [each for each in pod["volumes"] if "secret" in each]
    assert volume["secret"]["secretName"] == "motet-keys"
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == volume["name"]]
    assert str(settings_of(EVERYTHING).security.keys_file) == f"{mount['mountPath']}/keys.yaml"
    assert settings_of({}).security.keys_file is None


def test_the_service_answers_to_the_name_of_its_ingress() -> None:
    (ingress,) = of_kind(EVERYTHING, "Ingress")
    (rule,) = ingress["spec"]["rules"]
    assert rule["host"] == "motet.test"
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == "motet-serve-svc"
    assert settings_of(EVERYTHING).security.allowed_hosts == ("*.svc", "*.svc.cluster.local", "motet.test")


def test_classes_are_groups_that_can_be_left_out() -> None:
    cuda = pod_of(EVERYTHING, "cuda")["containers"][0]
    assert cuda["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert cuda["image"] == "registry.test/motet:9-cuda"
    assert pod_of(EVERYTHING)["nodeSelector"] == {"pool": "cpu"}
    with pytest.raises(KeyError):
        pod_of(LITTLE, "cuda")


def test_what_is_off_is_not_there() -> None:
    kinds = {document["kind"] for document in documents(LITTLE)}
    assert kinds == {"ConfigMap", "RayService", "PodDisruptionBudget"}
    assert [each for each in pod_of(LITTLE)["volumes"] if each["name"] == "voices"] == [
        {"name": "voices", "emptyDir": {}}
    ]


def test_the_prometheus_operator_finds_pods_rules_and_dashboard() -> None:
    (monitor,) = of_kind(EVERYTHING, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in {
        port["name"] for port in pod_of(EVERYTHING)["containers"][0]["ports"]
    }
    (rules,) = of_kind(EVERYTHING, "PrometheusRule")
    assert all(rule["alert"] and rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"])
    (dashboard,) = [each for each in of_kind(EVERYTHING, "ConfigMap") if "motet.json" in each["data"]]
    assert yaml.safe_load(dashboard["data"]["motet.json"])["panels"]


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_processes_that_lost_their_parent_are_collected_in_every_pod_of_ray(values: dict[str, Any]) -> None:
    (service,) = of_kind(values, "RayService")
    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["shareProcessNamespace"]
