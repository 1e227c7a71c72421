"""Speed, memory and intelligibility of the service's speech on this machine.

Speed is compared round by round in one life of the service: the engine in this process, FastAPI around the same engine,
and the service over HTTP. Engines here run with the same thread settings as in the service.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deployments.errors import fail
from deployments.text.sample_sentences import LONG_TEXT, SENTENCES
from deployments.text.word_error_rate import ErrorCount, errors
from serve_app import profiles
from serve_app.bench.bare_server import running_bare_server
from serve_app.bench.cold_command import SHORT_SENTENCE, WAV_HEADER_BYTES, measure_command
from serve_app.bench.frame import (
    Figure,
    Report,
    Sheet,
    Target,
    at_least,
    at_most,
    carry_out,
    difference,
    interleaved,
    spread,
)
from serve_app.bench.http_client import connected
from serve_app.bench.local_engines import SEPARATION_MODEL, Engines, opening, wav_of
from serve_app.bench.running_service import RunningProgram, running_service
from serve_app.cli import footprint
from serve_app.config import AppConfig

SEAM_SECONDS = 25.0
STEMS = ("speech", "background")

HERE, HTTP = "in this process", "through HTTP"
MEMORY = "memory of {}"
WHOLE_MEMORY = "memory of the default service (PSS, all processes)"
IDLE_SHARE = "idle share of a core, default service"
SEAM = "separation seam, sum of the stems " + HTTP
PLAIN = " (plain profile)"


@dataclass(frozen=True, slots=True)
class FirstSoundPlan:
    """How much is measured: rounds, seconds of audio, and the texts of the round trip.

    The round trip takes every `sentence_step`th sentence, and the first paragraphs of the long text with `long_words` words.
    """

    cold_starts: int
    overhead_rounds: int
    speed_rounds: int
    transcription_seconds: float
    separation_seconds: float
    sentence_step: int
    long_words: int
    plain_profile: bool
    rest_seconds: float
    """Between the ready line of the service and the measurement of its idle processes."""
    idle_seconds: float


QUICK = FirstSoundPlan(
    cold_starts=1,
    overhead_rounds=30,
    speed_rounds=1,
    transcription_seconds=30.0,
    separation_seconds=30.0,
    sentence_step=7,
    long_words=150,  # more than one window of 30 s, because errors gather where windows meet
    plain_profile=False,
    rest_seconds=3.0,
    idle_seconds=8.0,
)
FULL = FirstSoundPlan(
    cold_starts=5,
    overhead_rounds=200,
    speed_rounds=7,
    transcription_seconds=30.0,
    separation_seconds=60.0,
    sentence_step=1,
    long_words=10_000,
    plain_profile=True,
    rest_seconds=10.0,
    idle_seconds=60.0,
)


def run(quick: bool) -> Report:
    """Measures everything; `quick` takes fewer rounds and leaves the plain profile out."""
    # Libraries of engines read these variables once, when they are imported.
    os.environ |= {name: value for name, value in _service_environment().items() if name.startswith("OMP_")}
    plan, config = (QUICK, AppConfig()) if quick else (FULL, AppConfig())

    def measure(sheet: Sheet) -> None:
        measure_command(sheet, plan.cold_starts)
        _measure_service(sheet, plan, Engines(config))

    return carry_out("first-sound", _wanted(plan, config), measure, quick=quick)


def _service_environment() -> dict[str, str]:
    return profiles.environment("plain", Path(), 8000, {})


def _wanted(plan: FirstSoundPlan, config: AppConfig) -> list[Figure]:
    return [
        Figure("word error rate of the round trip " + HERE, "%", at_most(5)),
        Figure("word error rate of the round trip " + HTTP, "%", at_most(5)),
        Figure("motet say, long text, one core", "x real time", at_least(40)),
        Figure("first sound of a cold motet say", "s", at_most(3)),
        *_wanted_of_overhead("", at_most(10)),
        Figure("overhead p50, bare FastAPI", "ms"),
        Figure("cold start of the service", "s"),
        Figure(WHOLE_MEMORY, "GB", at_most(1.6)),
        Figure(IDLE_SHARE, "%", at_most(5)),
        *(Figure(MEMORY.format(name), "MB") for name in config.models),
        Figure("heavy libraries in replicas", "", at_most(0)),
        *(
            Figure(f"{task} {where}", "s per s of audio")
            for task in ("transcription", "separation")
            for where in (HERE, HTTP)
        ),
        Figure(SEAM, "of 32768", at_most(1)),
        *(_wanted_of_overhead(PLAIN, None) if plan.plain_profile else ()),
    ]


def _wanted_of_overhead(profile: str, target: Target | None) -> list[Figure]:
    return [
        Figure("overhead p50 of HTTP" + profile, "ms", target),
        Figure("overhead p95 of HTTP" + profile, "ms"),
        Figure("short sentence p50, engine" + profile, "ms"),
        Figure("short sentence p50, HTTP" + profile, "ms"),
        Figure("short sentence p95, HTTP" + profile, "ms"),
        Figure("first byte p50, HTTP" + profile, "ms"),
    ]


# The service


def _measure_service(sheet: Sheet, plan: FirstSoundPlan, engines: Engines) -> None:
    with sheet.measuring("start of the service"), running_service("throughput") as service:
        sheet.put("cold start of the service", service.start_seconds, "from its start to its ready line")
        with sheet.measuring("what the idle service takes"):
            _measure_idle(sheet, plan, service)
        with sheet.measuring("replicas"):
            _measure_replicas(sheet, service)
        with sheet.measuring("overhead of HTTP"):
            _measure_overhead(sheet, plan, engines, service, "")
        _measure_fidelity(sheet, plan, engines, service)
        with sheet.measuring("speed of transcription and separation"):
            _measure_speed(sheet, plan, engines, service)
    if plan.plain_profile:
        with sheet.measuring("the plain profile"), running_service("plain") as service:
            _measure_overhead(sheet, plan, engines, service, PLAIN)


def _measure_idle(sheet: Sheet, plan: FirstSoundPlan, service: RunningProgram) -> None:
    pid = footprint.service_at(service.port)
    if pid is None:
        raise fail("engine", f"Found no service process that listens on port {service.port}.")
    time.sleep(plan.rest_seconds)
    takes = footprint.measure(footprint.processes_of(pid), plan.idle_seconds)
    sheet.put(
        WHOLE_MEMORY, takes.memory_bytes / 1e9, f"{takes.processes} processes, Ray's included; before any request"
    )
    when = f"{plan.idle_seconds:g} s, from {plan.rest_seconds:g} s after it was ready"
    sheet.put(IDLE_SHARE, takes.core_share * 100, when)


def _measure_replicas(sheet: Sheet, service: RunningProgram) -> None:
    with connected(service) as client:
        models = client.readiness()
    for name, report in models.items():
        sheet.put(MEMORY.format(name), report["memory_bytes"] / 1e6, "resident")
    heavy = {name: report["heavy_libraries"] for name, report in models.items() if report["heavy_libraries"]}
    note = ", ".join(f"{name}: {' '.join(libraries)}" for name, libraries in heavy.items())
    sheet.put("heavy libraries in replicas", sum(map(len, heavy.values())), note)


def _measure_overhead(
    sheet: Sheet, plan: FirstSoundPlan, engines: Engines, service: RunningProgram, profile: str
) -> None:
    engines.say(SHORT_SENTENCE)  # load the voice now: a connection that waits for it would be closed
    with running_bare_server() as bare, connected(bare) as bare_client, connected(service) as client:
        first_bytes: list[float] = []

        def engine() -> float:
            return _milliseconds(lambda: engines.say(SHORT_SENTENCE))

        def through_service() -> float:
            answer = client.speak(SHORT_SENTENCE, "pcm")
            first_bytes.append(answer.first_byte_seconds * 1000)
            return answer.seconds * 1000

        def through_bare() -> float:
            return bare_client.speak(SHORT_SENTENCE, "pcm").seconds * 1000

        variants = {"engine": engine, "HTTP": through_service, "bare": through_bare}
        interleaved(variants, 3)  # warms all of them up
        first_bytes.clear()
        times = interleaved(variants, plan.overhead_rounds)
    _put_overhead(sheet, times, first_bytes, profile)


def _put_overhead(
    sheet: Sheet, times: Mapping[str, Sequence[float]], first_bytes: Sequence[float], profile: str
) -> None:
    overhead, bare = (difference(times[name], times["engine"]) for name in ("HTTP", "bare"))
    rounds = f"{len(first_bytes)} rounds"
    sheet.put("overhead p50 of HTTP" + profile, overhead.p50, f"paired with the engine, {rounds}; {overhead}")
    sheet.put("overhead p95 of HTTP" + profile, overhead.p95, rounds)
    for name in ("engine", "HTTP"):
        sheet.put(f"short sentence p50, {name}{profile}", spread(times[name]).p50, str(spread(times[name])))
    sheet.put("short sentence p95, HTTP" + profile, spread(times["HTTP"]).p95, rounds)
    sheet.put("first byte p50, HTTP" + profile, spread(first_bytes).p50, str(spread(first_bytes)))
    if not profile:
        sheet.put("overhead p50, bare FastAPI", bare.p50, f"one process, {rounds}; {bare}")


def _milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


# What does not depend on time


def _measure_fidelity(sheet: Sheet, plan: FirstSoundPlan, engines: Engines, service: RunningProgram) -> None:
    """Measures everything at once, because these results do not depend on speed."""
    texts = [*SENTENCES[:: plan.sentence_step], opening(LONG_TEXT, plan.long_words)]
    with ThreadPoolExecutor(3) as pool:
        here = pool.submit(lambda: errors(texts, [engines.transcribe(engines.wav(text)) for text in texts]))
        there = pool.submit(lambda: errors(texts, _trips_through(service, texts)))
        seam = pool.submit(_worst_seam, service)
        for where, trip in ((HERE, here), (HTTP, there)):
            with sheet.measuring("round trip " + where):
                count = trip.result()
                sheet.put("word error rate of the round trip " + where, count.rate * 100, _of_words(count, texts))
        with sheet.measuring("the seam of separation"):
            note = f"largest difference from {SEAM_SECONDS:.0f} s of 16-bit stereo noise"
            sheet.put(SEAM, seam.result(), note)


def _trips_through(service: RunningProgram, texts: Sequence[str]) -> list[str]:
    with connected(service) as client:
        return [client.transcribe(client.speak(text, "wav").body).body.decode() for text in texts]


def _of_words(count: ErrorCount, texts: Sequence[str]) -> str:
    return f"{count.errors} errors in {count.words} words of {len(texts)} texts"


def _worst_seam(service: RunningProgram) -> int:
    """The largest difference between 16-bit noise over several chunks and the sum of its stems.

    Each stem is rounded to 16 bits, which makes a difference of 1. The noise is quiet enough that no stem is clipped.
    """
    rate = 48_000  # a rate of the model, so nothing is resampled
    noise: NDArray[np.int16] = np.random.default_rng(0).integers(-8192, 8192, (2, int(SEAM_SECONDS * rate)), np.int16)
    recording = wav_of((noise / 32768).astype(np.float32), rate)
    with connected(service) as client:
        answers = [client.separate(recording, SEPARATION_MODEL, stem).body for stem in STEMS]
    back = sum(np.frombuffer(body[WAV_HEADER_BYTES:], "<i2").reshape(-1, 2).T.astype(np.int32) for body in answers)
    assert isinstance(back, np.ndarray)
    if back.shape != noise.shape:
        raise fail("engine", f"{noise.shape} samples went in and {back.shape} came back.")
    return int(np.abs(back - noise).max())


# Recordings


def _measure_speed(sheet: Sheet, plan: FirstSoundPlan, engines: Engines, service: RunningProgram) -> None:
    heard, mixed = engines.recording(plan.transcription_seconds), engines.recording(plan.separation_seconds)
    stem = engines.separation.traits.stems[0]

    def transcribe_there() -> None:
        with connected(service) as client:
            client.transcribe(heard)

    def separate_there() -> None:
        with connected(service) as client:
            client.separate(mixed, SEPARATION_MODEL, stem)

    heard_here, mixed_here = partial(engines.transcribe, heard), partial(engines.separate, mixed)
    rounds = plan.speed_rounds
    _compare(sheet, "transcription", rounds, plan.transcription_seconds, heard_here, transcribe_there)
    _compare(sheet, "separation", rounds, plan.separation_seconds, mixed_here, separate_there)


def _compare(
    sheet: Sheet, task: str, rounds: int, audio_seconds: float, here: Callable[[], object], http: Callable[[], object]
) -> None:
    times = interleaved({HERE: lambda: _milliseconds(here), HTTP: lambda: _milliseconds(http)}, rounds)
    for where, milliseconds in times.items():
        each = spread([value / 1000 / audio_seconds for value in milliseconds])
        note = f"{audio_seconds:.0f} s of audio, median of {rounds}; {1 / each.p50:.1f} x real time"
        sheet.put(f"{task} {where}", each.p50, note)
