"""`make demo`: the real service says a sentence, hears it, and takes a noisy version of it apart."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from deployments.audio.decode import decode_all
from deployments.audio.encode import open_encoder
from deployments.engines.protocols import Samples
from deployments.text.word_error_rate import word_error_rate
from serve_app.bench.running_service import running_service
from serve_app.profiles import default_profile

OUT = Path("out")
SENTENCE = "Hello! This is Motet: many streams, one performance. It is seven thirty, and all is well."
NOISE_DB = -5.0
RATE = 48_000
"""NSNet2's better rate, in Hz."""


@dataclass
class Demo:
    """A client of the running service, and the table of what was measured."""

    client: httpx.Client
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def speak(self) -> bytes:
        """The sentence as a WAV file."""
        body = {"model": "hibari", "input": SENTENCE, "response_format": "wav", "seed": 1}
        answer, seconds = timed(lambda: self.client.post("/v1/audio/speech", json=body).raise_for_status())
        audio = decode_all(answer.content, None, True, 60.0)
        length = audio.shape[1] / int(answer.headers["x-sample-rate"])
        self.rows.append(
            ("speech", f"{length:.2f} s of sound in {seconds:.3f} s", f"{length / seconds:.0f}x real time")
        )
        (OUT / "speech.wav").write_bytes(answer.content)
        return answer.content

    def transcribe(self, wav: bytes) -> str:
        """What the service hears."""
        form = {"model": "whisper-base", "language": "en"}
        files = {"file": ("speech.wav", io.BytesIO(wav))}
        answer, seconds = timed(lambda: self.client.post("/v1/audio/transcriptions", data=form, files=files))
        text = str(answer.raise_for_status().json()["text"])
        wrong = word_error_rate(SENTENCE, text)
        self.rows.append(("transcription", f"{text!r} in {seconds:.2f} s", f"{wrong:.1%} of words wrong"))
        (OUT / "transcript.txt").write_text(text + "\n")
        return text

    def separate(self, clean: Samples) -> None:
        """Adds noise to the speech, and has the service take it away."""
        mixture = with_noise(clean)
        wav = wav_of(mixture)
        files, form = {"file": ("mixture.wav", io.BytesIO(wav))}, {"model": "deepfilternet", "stems": "speech"}
        answer, seconds = timed(lambda: self.client.post("/v1/audio/separations", data=form, files=files))
        stem = decode_all(answer.raise_for_status().content, RATE, True, 60.0)[0][: len(clean)]
        before, after = si_sdr(mixture, clean), si_sdr(stem, clean)
        self.rows.append(
            ("separation", f"{len(clean) / RATE:.2f} s in {seconds:.2f} s", f"{after - before:+.1f} dB SI-SDR")
        )
        (OUT / "mixture.wav").write_bytes(wav)
        (OUT / "speech_stem.wav").write_bytes(answer.content)


def timed(call: Callable[[], httpx.Response]) -> tuple[httpx.Response, float]:
    """The answer and the seconds it took."""
    started = time.perf_counter()
    return call(), time.perf_counter() - started


def with_noise(clean: Samples) -> Samples:
    """White noise, `NOISE_DB` relative to the speech's power."""
    noise = np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
    power = np.sqrt(np.mean(clean**2) / np.mean(noise**2))
    mixture: Samples = (clean + noise * power * 10 ** (NOISE_DB / 20)).astype(np.float32)
    return mixture


def wav_of(samples: Samples) -> bytes:
    """A whole WAV file."""
    encoder = open_encoder("wav", RATE, total_samples=len(samples))
    return encoder.encode(samples) + encoder.finish()


def si_sdr(estimate: Samples, truth: Samples) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., 2019)."""
    target = truth * np.dot(estimate, truth) / np.dot(truth, truth)
    return float(10 * np.log10(np.sum(target**2) / np.sum((estimate - target) ** 2)))


def main() -> int:
    """Runs the demo; returns the exit status."""
    console = Console()
    OUT.mkdir(exist_ok=True)
    console.print("Starting the service ...")
    started = time.perf_counter()
    with (
        running_service(default_profile()) as service,
        httpx.Client(base_url=f"http://{service.host}:{service.port}", timeout=60.0, trust_env=False) as client,
    ):
        demo = Demo(client)
        demo.rows.append(("start", f"{time.perf_counter() - started:.1f} s to ready", ""))
        wav = demo.speak()
        demo.transcribe(wav)
        demo.separate(decode_all(wav, RATE, True, 60.0)[0])
    table = Table("part", "measured", "result", title="Motet, measured just now")
    for row in demo.rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"The audio is in {OUT}/: " + ", ".join(sorted(file.name for file in OUT.iterdir())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
