"""What one client does to everybody else: nothing. During each attack the service lives, and others are served."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from .conftest import Float, Service, config_of, encoded
from .health_watch import HealthWatch

pytestmark = pytest.mark.alone

SPEECH = "/v1/audio/speech"
VOICES = "/v1/audio/voices"
JSON = {"content-type": "application/json"}
NUMBERS = itertools.count(1)
"""Equal texts are answered from what was made before, so each is another one."""
LEAST_ATTACKS = 5
PAUSE_S = 0.05
"""Between two attacks: one request was enough, and a flood would measure how fast this machine's clients are."""


def fresh_text() -> str:
    return f"Line {next(NUMBERS)} of process {os.getpid()} goes on."


def check_others_are_served(service: Service) -> None:
    body = {"model": "tts-1", "input": fresh_text(), "voice": "alloy", "response_format": "pcm"}
    answer = httpx.post(f"{service.url}{SPEECH}", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    assert np.abs(np.frombuffer(answer.content, "<i2")).max() > 1000


@contextmanager
def others_are_served_during(service: Service, attack: Callable[[], None]) -> Iterator[None]:
    """Runs an attack again and again; what stands inside happens meanwhile. The service lives all the time, and whatever is
    asked of it then is answered."""
    over, enough = threading.Event(), threading.Event()
    troubles: list[BaseException] = []

    def attacking() -> None:
        attacks = 0
        try:
            while not over.wait(PAUSE_S):
                attack()
                attacks += 1
                if attacks == LEAST_ATTACKS:
                    enough.set()
        except BaseException as trouble:
            troubles.append(trouble)
        finally:
            enough.set()

    thread = threading.Thread(target=attacking)
    with HealthWatch("127.0.0.1", service.port) as watch:
        thread.start()
        try:
            yield
            enough.wait()
        finally:
            over.set()
            thread.join()
    assert not troubles, troubles[0]
    watch.check()


def refused(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, answer.text[:500]
    assert answer.status_code == status, answer.text[:500]
    assert code is None or error["code"] == code
    assert len(answer.content) < 2_000
    return error


def keys(count: int) -> bytes:
    return b"{" + b",".join(b'"k%d":1' % number for number in range(count)) + b"}"


BODIES = {
    "a thousand keys": keys(1_000),
    "60,000 keys": keys(60_000),
    "a hundred keys": keys(100),
    "long keys": b'{"' + b"k" * 500_000 + b'":1}',
    "nested lists": b'{"x":[' + (b"[" * 150 + b"]" * 150 + b",") * 3_000 + b"1]}",
    "a list": b'{"input":[' + b"1," * 400_000 + b"1]}",
    "quotes": b'{"input":"' + b'\\"' * 400_000 + b'"}',
}


class TestManyUnknownKeys:
    """60,000 unknown keys held the gateway's event loop for 105 s: each mistake was compared with all others."""

    @pytest.mark.parametrize("name", BODIES)
    def test_others_are_served_meanwhile(self, name: str, service: Service) -> None:
        with httpx.Client(base_url=service.url, timeout=30) as client:

            def attack() -> None:
                refused(client.post(SPEECH, content=BODIES[name], headers=JSON), 400)

            with others_are_served_during(service, attack):
                check_others_are_served(service)

    def test_the_answer_says_what_is_wrong_and_counts_the_rest(self, http: httpx.Client) -> None:
        answer = http.post(SPEECH, content=keys(100), headers=JSON)
        assert "model: Field required" in refused(answer, 400)["message"]
        assert answer.headers["x-motet-ignored"].startswith("k0, k1, ")
        assert answer.headers["x-motet-ignored"].endswith("and 84 more")
        refused(http.post(SPEECH, content=keys(60_000), headers=JSON), 400, "json_too_complex")

    def test_sessions_are_no_way_round(self, service: Service) -> None:
        url = f"ws://127.0.0.1:{service.port}{SPEECH}/stream"
        config = json.dumps({"type": "session.config", **{f"k{number}": 1 for number in range(9_000)}})

        def attack() -> None:
            with connect(url) as socket:
                socket.send(config)
                assert json.loads(socket.recv())["error"]["code"] == "json_too_complex"

        with others_are_served_during(service, attack):
            check_others_are_served(service)

    def test_forms_are_no_way_round(self, service: Service) -> None:
        """Many fields, long names, and what looks like the border between parts in each place."""
        forms = [
            b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\na\r\n' * 20_000 + b"--b--\r\n",
            b'--b\r\ncontent-disposition: form-data; name="' + b"a" * 10**6 + b'"\r\n\r\na\r\n--b--\r\n',
            b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
            + b"\r\n--bx" * 200_000
            + b"\r\n--b--\r\n",
        ]
        turn = itertools.cycle(forms)

        def attack() -> None:
            answer = httpx.post(
                f"{service.url}/v1/audio/transcriptions",
                content=next(turn),
                headers={"content-type": "multipart/form-data; boundary=b"},
                timeout=30,
            )
            refused(answer, 400)

        with others_are_served_during(service, attack):
            check_others_are_served(service)

    def test_texts_that_are_slow_to_cut_and_to_read_are_no_way_round(self, service: Service) -> None:
        """hibari took three seconds for 250 characters such as `1-1-1-`, in which it spoke for nobody else."""

        def attack() -> None:
            text = f"{next(NUMBERS)} " + ("1-" * 60 + ' a." ( a. ) A. A. A. ') * 3
            body = {"model": "tts-1", "input": text, "voice": "alloy", "response_format": "pcm"}
            answer = httpx.post(f"{service.url}{SPEECH}", json=body, timeout=60)
            assert answer.status_code in (200, 429), answer.text

        with others_are_served_during(service, attack):
            check_others_are_served(service)


ROOM_BYTES = 256 * 1024
"""Of the disk: a voice of two seconds takes about 100 KB."""


@pytest.fixture(scope="class")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk with room for two voices."""
    folder = tmp_path_factory.mktemp("voices")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="class")
def cramped(small_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that keeps voices on the small disk."""
    folder = tmp_path_factory.mktemp("cramped")
    settings = {
        "models": {"hibari": {"engine": "hibari", "source": "wheel:hibari-tts", "aliases": ["tts-1"], "voice_aliases": {"alloy": "heart"}}},
        "voices": {"folder": str(small_disk)},
    }  # fmt: skip
    config = config_of(folder, settings)
    running = Service.start(config, folder)
    yield running
    running.kill()


def voice_form(pitch: float) -> dict[str, Any]:
    times = np.arange(2 * 24_000) / 24_000
    samples: Float = (0.3 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)
    data = {"name": "Ada", "consent": "I am the speaker and agree to this use of my voice."}
    return {"data": data, "files": {"audio_sample": ("a.wav", encoded(samples, 24_000, "WAV"))}}


class TestFullDisk:
    """A full disk was an unknown failure (500)."""

    def test_a_voice_that_finds_no_room_is_a_507_and_leaves_nothing(self, cramped: Service, small_disk: Path) -> None:
        pitches = itertools.count(200)
        with httpx.Client(base_url=cramped.url, timeout=30) as client:
            answers = [client.post(VOICES, **voice_form(next(pitches))) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 507, 507]
            error = refused(answers[-1], 507, "storage_full")
            assert "Delete voices" in error["message"]

            def attack() -> None:
                refused(client.post(VOICES, **voice_form(next(pitches))), 507, "storage_full")

            with others_are_served_during(cramped, attack):
                check_others_are_served(cramped)
            kept = {answer.json()["id"] for answer in answers[:2]}
            assert {path.stem for path in small_disk.rglob("*") if path.is_file()} == kept
            client.delete(f"{VOICES}/{kept.pop()}").raise_for_status()
            assert client.post(VOICES, **voice_form(next(pitches))).status_code == 200


EVIL = {"origin": "http://evil.example"}


class TestForeignPages:
    """Any page that a user visits could speak, upload voices, and read what a local service without keys answers."""

    def test_no_page_speaks_or_uploads(self, service: Service, http: httpx.Client) -> None:
        body = json.dumps({"model": "tts-1", "input": fresh_text(), "voice": "alloy"}).encode()
        refused(
            http.post(SPEECH, content=body, headers={"content-type": "text/plain"}), 415, "unsupported_content_type"
        )
        refused(http.post(SPEECH, content=body, headers={**JSON, **EVIL}), 403, "origin_not_allowed")
        refused(http.post(VOICES, headers=EVIL, **voice_form(300.0)), 403, "origin_not_allowed")
        refused(http.request("OPTIONS", SPEECH, headers=EVIL), 403, "origin_not_allowed")

    @pytest.mark.parametrize("path", ["/v1/models", "/v1/audio/voices", "/readyz", "/"])
    def test_no_page_reads_by_a_name_that_points_here(self, path: str, http: httpx.Client) -> None:
        refused(http.get(path, headers={"host": "evil.example"}), 403, "host_not_allowed")

    def test_no_page_opens_a_session(self, service: Service) -> None:
        url = f"ws://127.0.0.1:{service.port}{SPEECH}/stream"
        with pytest.raises(Exception, match="403"), connect(url, origin=Origin("http://evil.example")):
            pass

    def test_curl_is_told_which_header_is_missing(self, service: Service) -> None:
        said = subprocess.run(
            ["curl", "--silent", "-d", "{}", f"{service.url}{SPEECH}"], capture_output=True, check=True
        )
        assert "-H 'Content-Type: application/json'" in json.loads(said.stdout)["error"]["message"]

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    def test_the_services_own_page_goes_on(self, host: str, service: Service) -> None:
        address = f"http://{host}:{service.port}"
        body = {"model": "tts-1", "input": fresh_text(), "voice": "alloy", "response_format": "pcm"}
        answer = httpx.post(f"{address}{SPEECH}", json=body, headers={"origin": address}, timeout=30)
        assert answer.status_code == 200, answer.text

    def test_others_are_served_meanwhile(self, service: Service) -> None:
        with httpx.Client(base_url=service.url, timeout=30) as client:

            def attack() -> None:
                refused(client.post(VOICES, headers=EVIL, **voice_form(300.0)), 403, "origin_not_allowed")

            with others_are_served_during(service, attack):
                check_others_are_served(service)
