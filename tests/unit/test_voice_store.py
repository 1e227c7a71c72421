"""The client's own voices: stored by content, for their owner only, within limits, and used for speech."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import wave
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.engines.protocols import SpeechRequest, SpeechTraits
from deployments.errors import MotetError
from deployments.replica.wire import PackedChunk
from serve_app.edge.settings import SecuritySettings
from serve_app.gateway.settings import LimitSettings, VoiceSettings
from serve_app.gateway.voice_store import EVERYONE, SAMPLE_RATE, VoiceStore
from tests.unit.fakes import ToneSynthesizer
from tests.unit.test_api import Bench

CONSENT = "I am the speaker and agree to this use of my voice."
KEYS = ("key-one", "key-two")


def clip(seconds: float = 2.0, pitch: float = 220.0, level: float = 0.3, rate: int = 16_000) -> bytes:
    times = np.arange(int(seconds * rate)) / rate
    samples = np.rint(level * 32767 * np.sin(2 * np.pi * pitch * times)).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(rate)
        wav.writeframes(samples.tobytes())
    return file.getvalue()


def floats(samples: NDArray[Any], rate: int = 16_000) -> bytes:
    """A WAV of floats, which can hold any number."""
    data = samples.astype("<f4").tobytes()
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE") + head + struct.pack("<4sI", b"data", len(data)) + data
    )


SINE = np.sin(np.arange(32_000) / 10)


# --- The store


@pytest.fixture
def store(tmp_path: Path) -> VoiceStore:
    settings = VoiceSettings(folder=str(tmp_path / "voices"), max_voices=3, max_voices_per_key=2, max_clip_s=5.0)
    return VoiceStore(settings, clock=lambda: 1000.0)


def test_a_clip_is_kept_by_its_content(store: VoiceStore) -> None:
    voice = store.add("me", clip(), "Ada", CONSENT, "Ah.")
    assert store.is_id(voice.id)
    assert store.get("me", voice.id).consent == CONSENT
    assert (voice.created_at, voice.seconds) == (1000, 2.0)
    reference = store.reference("me", voice.id)
    assert (reference.id, reference.sample_rate, reference.text) == (voice.id, SAMPLE_RATE, "Ah.")
    assert reference.samples.dtype == np.float32
    assert len(reference.samples) == 2 * SAMPLE_RATE
    assert np.abs(reference.samples).max() == pytest.approx(0.9, abs=1e-3)


def test_what_was_said_of_a_clip_first_stays(tmp_path: Path) -> None:
    times = iter((1000.0, 2000.0, 3000.0, 4000.0))
    store = VoiceStore(VoiceSettings(folder=str(tmp_path)), clock=lambda: next(times))
    first = store.add("me", clip(), "Ada", CONSENT, None)
    assert store.add("me", clip(), "Renamed", CONSENT, None) == first
    with pytest.raises(MotetError, match=f"another consent.*DELETE /v1/audio/voices/{first.id}") as caught:
        store.add("me", clip(), "Ada", "It is not my voice, but I like it.", None)
    assert (caught.value.failure.kind, caught.value.failure.code) == ("invalid", "voice_exists")
    assert store.listed("me") == [first]
    store.delete("me", first.id)
    assert store.add("me", clip(), "Renamed", CONSENT, None).created_at == 4000


def test_of_two_replicas_that_store_one_clip_at_once_one_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a store of its own, as each gateway replica has."""
    written, write = [], VoiceStore._write

    def counted(store: VoiceStore, path: Path, *voice: Any) -> None:
        written.append(path)
        write(store, path, *voice)

    monkeypatch.setattr(VoiceStore, "_write", counted)
    replicas = [VoiceStore(VoiceSettings(folder=str(tmp_path)), clock=lambda: 1000.0) for _ in range(8)]
    with ThreadPoolExecutor(len(replicas)) as pool:
        names = [f"Ada {number}" for number in range(len(replicas))]
        voices = list(pool.map(lambda store, name: store.add("me", clip(), name, CONSENT, None), replicas, names))
    assert len(written) == 1
    assert len(set(voices)) == 1
    assert replicas[0].listed("me") == voices[:1]


def test_other_words_make_another_voice(store: VoiceStore) -> None:
    assert store.add("me", clip(), "Ada", CONSENT, None).id != store.add("me", clip(), "Ada", CONSENT, "Ah.").id


def test_voices_belong_to_their_owner(store: VoiceStore) -> None:
    voice = store.add("me", clip(), "Ada", CONSENT, None)
    assert [found.id for found in store.listed("me")] == [voice.id]
    assert store.listed("you") == []
    for ask in (store.get, store.reference, store.delete):
        with pytest.raises(MotetError, match="no voice"):
            ask("you", voice.id)
    store.delete("me", voice.id)
    assert store.listed("me") == []
    with pytest.raises(MotetError, match="no voice"):
        store.delete("me", voice.id)


@pytest.mark.parametrize("name", ["../me/voice_" + "0" * 32, "voice_../../x", "/etc/passwd", "", "voice_" + "G" * 32])
def test_a_name_is_never_a_path(store: VoiceStore, name: str, tmp_path: Path) -> None:
    store.add("me", clip(), "Ada", CONSENT, None)
    with pytest.raises(MotetError, match="no voice"):
        store.get("you", name)


@pytest.mark.parametrize(
    ("recording", "code"),
    [
        pytest.param(clip(0.5), "audio_too_short", id="short"),
        pytest.param(clip(6.0), "audio_too_long", id="long"),
        pytest.param(clip(level=0.0), "silent_audio", id="silent"),
        pytest.param(floats(np.full(32_000, 0.3)), "silent_audio", id="constant"),
        pytest.param(floats(np.full(8_000, -0.9), rate=8_000), "silent_audio", id="loud-constant"),
        pytest.param(floats(np.full(32_000, np.nan)), "silent_audio", id="no-numbers"),
        pytest.param(floats(np.full(32_000, np.inf)), "overloud_audio", id="infinite"),
        pytest.param(floats(SINE * 32767), "overloud_audio", id="not-scaled"),
        pytest.param(b"", "empty_audio", id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\0" * 200, "unsupported_audio", id="picture"),
    ],
)
def test_a_clip_that_is_no_voice_is_refused(store: VoiceStore, recording: bytes, code: str, tmp_path: Path) -> None:
    with pytest.raises(MotetError) as caught:
        store.add("me", recording, "Ada", CONSENT, None)
    assert (caught.value.failure.code, caught.value.failure.param) == (code, "audio_sample")
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize(
    "samples", [1.5 * SINE, 0.002 * SINE, 0.2 + 0.1 * SINE], ids=["overshoots", "quiet", "shifted"]
)
def test_a_clip_that_was_recorded_badly_is_a_voice(store: VoiceStore, samples: NDArray[Any]) -> None:
    assert store.add("me", floats(samples), "Ada", CONSENT, None).seconds == 2.0


def test_there_is_room_for_so_many(store: VoiceStore) -> None:
    first = store.add("me", clip(pitch=200), "1", CONSENT, None)
    store.add("me", clip(pitch=201), "2", CONSENT, None)
    with pytest.raises(MotetError, match="no room"):
        store.add("me", clip(pitch=202), "3", CONSENT, None)
    store.add("me", clip(pitch=200), "1 again", CONSENT, None)
    store.add("you", clip(pitch=200), "1", CONSENT, None)
    with pytest.raises(MotetError, match="no room"):
        store.add("she", clip(pitch=200), "1", CONSENT, None)
    store.delete("me", first.id)
    store.add("she", clip(pitch=200), "1", CONSENT, None)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garble(file: Path) -> None:
    """The sound is damaged, and what is known of it is not."""
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = b"\xff" * 8
    file.write_bytes(data)


def describe(file: Path, **fields: Any) -> None:
    with np.load(file) as stored:
        about, samples = json.loads(stored["about"].tobytes()), stored["samples"]
    with file.open("wb") as out:
        np.savez(out, about=np.frombuffer(json.dumps(about | fields).encode(), np.uint8), samples=samples)


def add_a_field(file: Path) -> None:
    describe(file, expires_at=5)


def change_a_type(file: Path) -> None:
    describe(file, created_at="yesterday")


def change_the_id(file: Path) -> None:
    describe(file, id="voice_" + "1" * 32)


def forget_the_samples(file: Path) -> None:
    with np.load(file) as stored:
        about = stored["about"]
    with file.open("wb") as out:
        np.savez(out, about=about)


@pytest.mark.parametrize("damage", [truncate, empty, add_a_field, change_a_type, change_the_id])
def test_a_damaged_voice_is_left_out_and_can_be_deleted(
    store: VoiceStore, damage: Callable[[Path], None], tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    whole, hurt = (store.add("me", clip(pitch=pitch), "Ada", CONSENT, None) for pitch in (200, 201))
    file = tmp_path / "voices" / "me" / f"{hurt.id}.npz"
    damage(file)
    damaged = file.read_bytes()
    assert store.listed("me") == [whole]
    assert hurt.id in logged.text
    for ask in (store.get, store.reference):
        with pytest.raises(MotetError, match="no voice"):
            ask("me", hurt.id)
    with pytest.raises(MotetError, match=f"cannot be read.*DELETE /v1/audio/voices/{hurt.id}"):
        store.add("me", clip(pitch=201), "Ada", CONSENT, None)
    assert file.read_bytes() == damaged
    store.delete("me", hurt.id)
    assert store.add("me", clip(pitch=201), "Ada", CONSENT, None) == hurt


@pytest.mark.parametrize("damage", [garble, forget_the_samples])
def test_a_voice_whose_sound_is_damaged_is_not_found(
    store: VoiceStore, damage: Callable[[Path], None], tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    voice = store.add("me", clip(), "Ada", CONSENT, None)
    damage(tmp_path / "voices" / "me" / f"{voice.id}.npz")
    with pytest.raises(MotetError, match="no voice"):
        store.reference("me", voice.id)
    assert voice.id in logged.text


def test_a_write_that_fails_leaves_nothing(store: VoiceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        store.add("me", clip(), "Ada", CONSENT, None)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# --- The routes


class Cloner(ToneSynthesizer):
    """Speaks like a clip: a constant at its level."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[SpeechRequest] = []

    async def traits(self) -> SpeechTraits:
        return replace(self.engine.traits, clones=True)

    async def speak(self, request: SpeechRequest) -> AsyncIterator[PackedChunk]:
        self.heard.append(request)
        async for chunk in super().speak(request):
            yield chunk


def bench(tmp_path: Path, synthesizer: ToneSynthesizer | None = None, **settings: Any) -> Bench:
    return Bench(synthesizer, voices=VoiceSettings(folder=str(tmp_path), max_clip_s=5.0), **settings)


async def upload(client: httpx.AsyncClient, key: str = "", sound: bytes | None = None, **fields: Any) -> httpx.Response:
    form = {"name": "Ada", "consent": CONSENT, **fields}
    headers = {"authorization": f"Bearer {key}"} if key else {}
    files = {"audio_sample": ("ada.wav", clip() if sound is None else sound)}
    return await client.post("/v1/audio/voices", data=form, files=files, headers=headers)


async def test_a_voice_is_kept_listed_shown_spoken_like_and_forgotten(tmp_path: Path) -> None:
    cloner = Cloner()
    service = bench(tmp_path, cloner)
    created = (await upload(service.client, text="Ah.")).json()
    assert (created["object"], created["type"], created["name"]) == ("audio.voice", "audio_sample", "Ada")
    assert (created["seconds"], created["models"]) == (2.0, ["tone"])
    listed = (await service.client.get("/v1/audio/voices", params={"model": "tone"})).json()["data"]
    assert [voice["id"] for voice in listed] == ["ada", "bo", created["id"]]
    shown = (await service.client.get(f"/v1/audio/voices/{created['id']}")).json()
    assert (shown["consent"], shown["text"]) == (CONSENT, "Ah.")

    answer = await service.speak(voice={"id": created["id"]})
    assert answer.status_code == 200
    assert answer.headers["x-motet-voice"] == created["id"]
    (request,) = cloner.heard
    assert request.reference is not None
    assert (request.voice, request.reference.id, request.reference.text) == (created["id"], created["id"], "Ah.")
    assert len(request.reference.samples) == 2 * request.reference.sample_rate

    gone = await service.client.delete(f"/v1/audio/voices/{created['id']}")
    assert gone.json() == {"id": created["id"], "object": "audio.voice.deleted", "deleted": True}
    assert (await service.client.delete(f"/v1/audio/voices/{created['id']}")).status_code == 404
    assert (await service.speak(voice={"id": created["id"]}, input="Anything else.")).status_code == 404


async def test_a_model_that_cannot_clone_says_so(tmp_path: Path) -> None:
    service = bench(tmp_path)
    created = (await upload(service.client)).json()
    assert created["models"] == []
    answer = await service.speak(voice=created["id"])
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("voice", "voice_not_supported")
    assert "No model of this service can" in error["message"]
    models_own = (await service.client.get("/v1/audio/voices", params={"model": "tone"})).json()["data"]
    assert [voice["id"] for voice in models_own] == ["ada", "bo"]
    everything = (await service.client.get("/v1/audio/voices")).json()["data"]
    assert [voice["id"] for voice in everything] == ["ada", "bo", created["id"]]


async def test_a_key_sees_and_uses_its_own_voices_only(tmp_path: Path) -> None:
    digests = tuple(hashlib.sha256(key.encode()).hexdigest() for key in KEYS)
    service = bench(tmp_path, Cloner(), security=SecuritySettings(api_key_sha256=digests))
    mine, yours = ({"authorization": f"Bearer {key}"} for key in KEYS)
    voice = (await upload(service.client, KEYS[0])).json()["id"]
    for headers, status in ((mine, 200), (yours, 404)):
        assert (await service.client.get(f"/v1/audio/voices/{voice}", headers=headers)).status_code == status
        body = {"model": "tone", "input": f"Hello, {status}.", "voice": {"id": voice}, "response_format": "pcm"}
        assert (await service.client.post("/v1/audio/speech", json=body, headers=headers)).status_code == status
        listed = (await service.client.get("/v1/audio/voices", headers=headers)).json()["data"]
        assert (voice in [entry["id"] for entry in listed]) is (status == 200)
    assert (await service.client.delete(f"/v1/audio/voices/{voice}", headers=yours)).status_code == 404
    assert (await service.client.delete(f"/v1/audio/voices/{voice}", headers=mine)).status_code == 200
    assert (await service.client.get("/v1/audio/voices")).status_code == 401


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"name": " "}, "name", id="no-name"),
        pytest.param({"name": "a" * 101}, "name", id="long-name"),
        pytest.param({"consent": ""}, "consent", id="no-consent"),
        pytest.param({"consent": "ok"}, "consent", id="short-consent"),
        pytest.param({"consent": "\u200b" * 12}, "consent", id="unseen-consent"),
        pytest.param({"consent": "\u200d" * 12}, "consent", id="consent-of-joiners"),
        pytest.param({"consent": "\u3164" * 12}, "consent", id="consent-of-fillers"),
        pytest.param({"consent": "I agree." + "\u200d" * 12}, "consent", id="padded-consent"),
        pytest.param({"consent": "1234567890."}, "consent", id="consent-without-words"),
        pytest.param({"consent": CONSENT + "\x1b[2K."}, "consent", id="consent-that-erases-itself"),
        pytest.param({"consent": CONSENT + "\x1f."}, "consent", id="consent-with-a-separator"),
        pytest.param({"name": "Ada\u202eadA."}, "name", id="turned-name"),
        pytest.param({"name": "Ada\nBo"}, "name", id="name-of-two-lines"),
        pytest.param({"name": "\u200d"}, "name", id="unseen-name"),
        pytest.param({"type": "prompt"}, "type", id="prompt"),
        pytest.param({"sound": clip(0.2)}, "audio_sample", id="short-clip"),
    ],
)
async def test_a_wrong_form_is_told_what_to_do(tmp_path: Path, fields: dict[str, Any], param: str) -> None:
    client = bench(tmp_path).client
    answer = await upload(client, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert [voice["object"] for voice in (await client.get("/v1/audio/voices")).json()["data"]] == ["voice", "voice"]


async def test_a_path_in_a_form_is_ignored_and_named(tmp_path: Path) -> None:
    answer = await upload(bench(tmp_path).client, path="/etc/passwd")
    assert answer.status_code == 200
    assert answer.headers["x-motet-ignored"] == "path"


@pytest.mark.parametrize(
    ("name", "consent"),
    [
        pytest.param(
            "\u0646\u06cc\u200c\u0645\u0627",
            "\u0645\u0646 \u0645\u0648\u0627\u0641\u0642\u0645 \u0648 \u0645\u06cc\u200c\u062f\u0627\u0646\u0645.",
            id="joiners",
        ),
        pytest.param("声", "我同意使用我的声音录音。", id="no-spaces"),
        pytest.param("Ada", "I am the speaker.\r\n\tI agree.", id="lines"),
    ],
)
async def test_names_and_consents_of_any_script_are_kept(tmp_path: Path, name: str, consent: str) -> None:
    client = bench(tmp_path).client
    created = (await upload(client, name=name, consent=consent)).json()
    shown = (await client.get(f"/v1/audio/voices/{created['id']}")).json()
    assert (shown["name"], shown["consent"]) == (name, consent)


async def test_a_clip_that_is_there_is_answered_with_its_voice(tmp_path: Path) -> None:
    client = bench(tmp_path).client
    first = await upload(client)
    again = await upload(client, name="Renamed")
    assert (again.status_code, again.json()) == (200, first.json())
    other = await upload(client, consent="It is not my voice, but I like it.")
    assert (other.status_code, other.json()["error"]["code"]) == (400, "voice_exists")


async def test_a_damaged_voice_is_not_found_and_hides_no_other(tmp_path: Path) -> None:
    service = bench(tmp_path, Cloner())
    whole, hurt = [(await upload(service.client, sound=clip(pitch=pitch))).json()["id"] for pitch in (200, 201)]
    truncate(tmp_path / EVERYONE / f"{hurt}.npz")
    listed = (await service.client.get("/v1/audio/voices")).json()["data"]
    assert [voice["id"] for voice in listed] == ["ada", "bo", whole]
    assert (await service.client.get(f"/v1/audio/voices/{hurt}")).status_code == 404
    assert (await service.speak(voice=hurt)).status_code == 404
    assert (await service.client.delete(f"/v1/audio/voices/{hurt}")).status_code == 200
    assert (await service.client.delete(f"/v1/audio/voices/{hurt}")).status_code == 404


async def test_a_form_without_a_clip_or_consent_is_refused(tmp_path: Path) -> None:
    client = bench(tmp_path).client
    missing = await client.post("/v1/audio/voices", data={"name": "Ada", "consent": CONSENT}, files={"file": clip()})
    assert missing.status_code == 400
    assert "audio_sample" in missing.json()["error"]["message"]
    silent = await client.post("/v1/audio/voices", data={"name": "Ada"}, files={"audio_sample": clip()})
    assert silent.json()["error"]["param"] == "consent"


async def test_an_upload_over_the_limit_is_stopped(tmp_path: Path) -> None:
    answer = await upload(bench(tmp_path, limits=LimitSettings(max_voice_bytes=10_000)).client)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


async def test_an_id_that_nobody_has_is_not_found(tmp_path: Path) -> None:
    answer = await bench(tmp_path, Cloner()).speak(voice="voice_" + "0" * 32)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "voice_not_found"
