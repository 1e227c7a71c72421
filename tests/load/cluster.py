"""A cluster on this machine: its first node is lost and returns, another is lost under load, and replicas follow the load.

The engine is mostly the simulated one, whose steps take a set time and little of a core, so what is measured is everything
around it. Ray cannot tell the nodes from machines, but they share this one's cores, and new ones need no minutes to boot.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.hardware import CpuClass, Kind
from cluster.models import Placement
from deployments.errors import fail
from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out
from serve_app.bench.load import Connection, StreamRequest, StreamResult, listen, quantile, ready_report
from serve_app.bench.running_service import READY, RunningProgram, free_loopback_port, running_program
from serve_app.config import DEFAULT_MODELS
from tests.load.client_load import CLIENTS, MODEL, PATIENCE_S, POLL_S, ClientLoad, TriedRequest, until
from tests.load.local_cluster import LocalCluster, local_cluster, redis_store

CLASSES: tuple[Kind, ...] = ("cpu", "mlx", "cuda")
"""From the cheapest to the most expensive."""

SHORT_TEXT, LONG_TEXT = "Short.", "A long text. " * 12

VOICE = "hibari"
REPLICAS, LISTENERS = 2, 6
SENTENCE = "This goes on for a while, sentence after sentence. "
SENTENCE_S = 3.3
"""Approximate seconds of audio of `SENTENCE`."""
RESTART_S = 35.0
"""Longer than a node takes to start on a busy machine. Streams still end within the timeout of `listen`."""

FIRST_STREAMS = "first node lost: streams by way of another node that went on to their end"
FIRST_MEANWHILE = "first node lost: requests answered while it was gone, with one more try"
FIRST_AFTER = "first node back: requests answered while it took over, with one more try"
FIRST_KEPT = "first node back: replicas that outlived it"
FIRST_MENDED = "first node back: a model's replicas killed, until its next answer"
LOST_SHARE = "node lost under load: answered, with one more try"
LOST_FIRST = "node lost under load: answered at once"
LOST_RECOVERED = "node lost under load: until every request was answered at once again"
LOST_BACK = "node lost under load: a new one joined and its replica answers"
FROM_ZERO = "no replica, no node: until the first sound"
TO_ALL = "load begins: until replicas of all three classes answer"
SPILLED = "load begins: first sounds meanwhile, p95"
TO_ZERO = "load ends: until no replica is left"
TO_NO_NODE = "load ends: until no node is left"
ORDER = "load ends: classes that left before a dearer one"
BACK = "no replica, no node again: until the first sound"
FAILED = "requests that failed, of all while replicas came and went"


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """Seconds of load before and after the loss, seconds for which the first node is away (None: it is not lost), and whether a
    new node joins and replicas follow the load."""

    before_s: float
    after_s: float
    away_s: float | None
    elastic: bool


QUICK = ClusterPlan(before_s=3.0, after_s=8.0, away_s=None, elastic=False)
FULL = ClusterPlan(before_s=10.0, after_s=30.0, away_s=62.0, elastic=True)
"""The first node is away for longer than Ray's default timeout of a minute."""

FIRST_FIGURES = (
    Figure(FIRST_STREAMS, "%", at_least(100)),
    Figure(FIRST_MEANWHILE, "%", at_least(99.9)),
    Figure(FIRST_AFTER, "%", at_least(99.9)),
    Figure(FIRST_KEPT, "%", at_least(100)),
    Figure(FIRST_MENDED, "s", at_most(60)),
)
LOSS_FIGURES = (
    Figure(LOST_SHARE, "%", at_least(99.9)),
    Figure(LOST_FIRST, "%"),
    Figure(LOST_RECOVERED, "s", at_most(30)),
)
ELASTIC_FIGURES = (
    Figure(LOST_BACK, "s"),
    Figure(FROM_ZERO, "s"),
    Figure(TO_ALL, "s"),
    Figure(SPILLED, "ms"),
    Figure(TO_ZERO, "s"),
    Figure(TO_NO_NODE, "s"),
    Figure(ORDER, "classes", at_most(0)),
    Figure(BACK, "s"),
    Figure(FAILED, "requests", at_most(0)),
)


def run(quick: bool) -> Report:
    """Measures the loss of a node and, unless `quick`, the loss of the first node, and replicas and nodes that follow the load."""
    plan = QUICK if quick else FULL
    wanted = LOSS_FIGURES if quick else (*FIRST_FIGURES, *LOSS_FIGURES, *ELASTIC_FIGURES)
    return carry_out("cluster", wanted, lambda sheet: _measure(sheet, plan), quick=quick)


def _measure(sheet: Sheet, plan: ClusterPlan) -> None:
    if plan.away_s is not None:
        with sheet.measuring("the first node is lost"), redis_store() as store, local_cluster(store) as cluster:
            asyncio.run(measure_first(sheet, cluster, plan.before_s, plan.away_s))
    with sheet.measuring("a node is lost under load"), local_cluster() as cluster:
        asyncio.run(_measure_loss(sheet, plan, cluster))
    if plan.elastic:
        with sheet.measuring("replicas and nodes follow the load"), local_cluster() as cluster:
            asyncio.run(_measure_elastic(sheet, cluster))


# The first node is lost


async def measure_first(sheet: Sheet, cluster: LocalCluster, before_s: float, away_s: float) -> None:
    """Measures `FIRST_FIGURES`: kills the first node `before_s` after streams begin, and starts it again after `away_s` more."""
    cluster.start()
    cluster.join("cpu")
    service = await asyncio.to_thread(deployed_on, cluster)
    await until(lambda: cluster.ways_in(service.port) == 2, "a way in on both nodes")
    load, replicas = ClientLoad(service, SHORT_TEXT, VOICE), cluster.replicas(f"{VOICE}@cpu")
    asks = [(ask, await _connected_elsewhere(cluster, service)) for ask in _long_asks(before_s + away_s)]
    streams = [asyncio.create_task(listen(service, ask, connection=connection)) for ask, connection in asks]
    await asyncio.sleep(before_s)
    gone = await asyncio.to_thread(cluster.kill_first)
    killed_s = time.monotonic()
    async with load.going_on(1):
        await asyncio.sleep(away_s)
        began_s = time.monotonic()
        await asyncio.to_thread(cluster.start)
        back_s = time.monotonic()
        heard = await asyncio.gather(*streams)
    sheet.put(FIRST_MEANWHILE, *load.answered(killed_s, began_s))
    sheet.put(FIRST_AFTER, *load.answered(began_s, math.inf))
    sheet.put(FIRST_STREAMS, *outlived(heard, back_s))
    kept = replicas & cluster.replicas(f"{VOICE}@cpu")
    sheet.put(
        FIRST_KEPT, 100 * len(kept) / len(replicas), f"{gone} processes killed; away for {back_s - killed_s:.0f} s"
    )
    sheet.put(FIRST_MENDED, await _seconds_until_mended(cluster, load))


def _long_asks(restart_after_s: float) -> list[StreamRequest]:
    """Paced streams that end after the first node is back."""
    sentences = math.ceil((restart_after_s + RESTART_S) / SENTENCE_S)
    return [StreamRequest(VOICE, SENTENCE * sentences, seed, "played") for seed in range(LISTENERS)]


async def _connected_elsewhere(cluster: LocalCluster, service: RunningProgram) -> Connection:
    """A connection to the other node. On one machine both listen on one port, and the kernel chooses."""
    while True:
        reader, writer = await asyncio.open_connection(service.host, service.port)
        client = writer.get_extra_info("sockname")[1]
        if not await asyncio.to_thread(cluster.taken_by_first, service.port, client):
            return reader, writer
        writer.transport.abort()


def outlived(streams: Sequence[StreamResult], back_s: float) -> tuple[float, str]:
    """The percentage of complete streams, and a note. Raises `MotetError` if a stream ended before the node was back, because it
    shows nothing then."""
    complete = [heard for heard in streams if heard.complete]
    if any(heard.ended_s < back_s for heard in complete):
        raise fail("unavailable", "A stream was over before the node was back.")
    gap_s = max((gap for heard in complete for gap in heard.gaps_s), default=0.0)
    troubles = Counter(heard.error or str(heard.status) for heard in streams if not heard.complete)
    note = f"of {len(streams)}; at most {gap_s:.1f} s between chunks; {_in_words(troubles)}"
    return 100 * len(complete) / len(streams), note


def _in_words(troubles: Counter[str]) -> str:
    return "; ".join(f"{count} times {what}" for what, count in troubles.items()) or "none failed"


async def _seconds_until_mended(cluster: LocalCluster, load: ClientLoad) -> float:
    for process in cluster.replicas(f"{VOICE}@cpu"):
        os.kill(process, signal.SIGKILL)
    killed_s = time.monotonic()
    while not (await load.ask()).complete:
        if time.monotonic() - killed_s > PATIENCE_S:
            raise fail("unavailable", f"The replica did not come back within {PATIENCE_S:.0f} s.")
        await asyncio.sleep(POLL_S)
    return time.monotonic() - killed_s


def deployed_on(cluster: LocalCluster) -> RunningProgram:
    """Runs `motet deploy` on the cluster: a service with a real voice and an entry on every node."""
    placement = Placement(hardware=CpuClass(cpus=0.25), replicas=REPLICAS)
    voice = DEFAULT_MODELS[VOICE].model_copy(update={"placements": (placement,)}).model_dump(mode="json")
    port = free_loopback_port()
    config = _config(
        cluster, {"defaults": False, "models": {VOICE: voice}, "gateway_on": "any"}, port, proxy_location="EveryNode"
    )
    started = time.perf_counter()
    command = [sys.executable, "-m", "serve_app.cli.main", "deploy", "--config", str(config)]
    done = subprocess.run(command, env=cluster.service_environment, capture_output=True, text=True, timeout=PATIENCE_S)
    if done.returncode != 0:
        raise fail("unavailable", f"The service did not start: {done.stderr[-1000:]}")
    return RunningProgram("127.0.0.1", port, time.perf_counter() - started)


# A node is lost


def _fixed() -> list[dict[str, Any]]:
    return [{"hardware": _hardware(kind)} for kind in CLASSES]


def _hardware(kind: Kind) -> dict[str, Any]:
    return {"kind": kind, "cpus": int(kind == "cpu")}


async def _measure_loss(sheet: Sheet, plan: ClusterPlan, cluster: LocalCluster) -> None:
    cluster.start()
    cluster.join(*CLASSES)
    with service_on(cluster, _fixed(), {"step_ms": 20}) as service:
        await _until_ready(service, CLASSES)
        load = ClientLoad(service, SHORT_TEXT)
        async with load.going_on():
            await asyncio.sleep(plan.before_s)
            killed_s = time.monotonic()
            gone = await asyncio.to_thread(cluster.kill, "mlx")
            await asyncio.sleep(plan.after_s)
            if plan.elastic:
                sheet.put(LOST_BACK, await _seconds_until_back(cluster, load), "from the command that joins it")
    first = [asked.first.complete for asked in load.asked]
    troubles = Counter(asked.first.error or str(asked.first.status) for asked in load.asked if not asked.first.complete)
    last_s = max((asked.at_s for asked in load.asked if not asked.first.complete), default=killed_s)
    answered = sum(asked.answered for asked in load.asked)
    note = ", ".join(f"{kind}: {count}" for kind, count in load.placements().items())
    sheet.put(LOST_SHARE, 100 * answered / len(first), f"{len(first)} requests of {CLIENTS} clients; {note}")
    sheet.put(LOST_FIRST, 100 * sum(first) / len(first), _in_words(troubles))
    sheet.put(LOST_RECOVERED, last_s - killed_s, f"{gone} processes killed at once")


async def _seconds_until_back(cluster: LocalCluster, load: ClientLoad) -> float:
    """Seconds until a node that replaces the lost one has a replica that answers."""
    joined_s = time.monotonic()
    await asyncio.to_thread(cluster.join, "mlx")
    await until(lambda: load.placements(joined_s)["mlx"] > 0, "the replica on the new node")
    return time.monotonic() - joined_s


# Replicas follow the load


def _elastic() -> list[dict[str, Any]]:
    """Placements with small targets and short delays, so that a few clients load every class."""
    scaling = {"max_replicas": 1, "target_queued_seconds_of_audio": 15, "look_back_s": 3, "up_after_s": 1}
    return [
        {
            "hardware": _hardware(kind),
            "autoscaling": {**scaling, "cost": cost, "down_after_s": 2, "zero_after_s": 2 + 3 * (len(CLASSES) - cost)},
        }
        for cost, kind in enumerate(CLASSES, start=1)
    ]


async def _measure_elastic(sheet: Sheet, cluster: LocalCluster) -> None:
    cluster.start(dict.fromkeys(CLASSES, 1))
    with service_on(cluster, _elastic(), {"step_ms": 200, "character_ms": 30}) as service:
        load = ClientLoad(service, LONG_TEXT)
        sheet.put(FROM_ZERO, await _first_sound(load), "the cheapest class; its node starts, and then its replica")
        began_s = time.monotonic()
        async with load.going_on():
            await until(lambda: set(load.placements(began_s)) >= set(CLASSES), "all three classes")
            sheet.put(TO_ALL, time.monotonic() - began_s, f"{CLIENTS} clients")
        firsts = [asked.first.first_s * 1000 for asked in load.asked if asked.first.first_s is not None]
        sheet.put(SPILLED, quantile(firsts, 0.95), f"{len(firsts)} requests")
        await _measure_leaving(sheet, cluster, service)
        sheet.put(BACK, await _first_sound(load))
        sheet.put(FAILED, sum(not asked.first.complete for asked in load.asked), f"of {len(load.asked)}")


async def _first_sound(load: ClientLoad) -> float:
    heard = await load.ask()
    load.asked.append(TriedRequest(time.monotonic(), heard))
    if heard.first_s is None:
        raise fail("unavailable", f"No sound came: {heard.status} {heard.error}")
    return heard.first_s


async def _measure_leaving(sheet: Sheet, cluster: LocalCluster, service: RunningProgram) -> None:
    began_s = time.monotonic()
    left: list[Kind] = []
    while len(left) < len(CLASSES):
        if time.monotonic() - began_s > PATIENCE_S:
            raise fail("unavailable", f"Only {left} left after {PATIENCE_S:.0f} s.")
        placements = (await ready_report(service))["models"][MODEL]["placements"]
        left += [kind for kind in reversed(CLASSES) if not placements[kind] and kind not in left]
        await asyncio.sleep(POLL_S)
    sheet.put(TO_ZERO, time.monotonic() - began_s, f"in the order {', '.join(left)}")
    sheet.put(ORDER, too_early(left))
    await until(lambda: not cluster.nodes(), "the last node to leave")
    sheet.put(TO_NO_NODE, time.monotonic() - began_s)


def too_early(left: Sequence[Kind]) -> int:
    """The number of classes that ended before a more expensive one."""
    costs = [CLASSES.index(kind) for kind in left]
    return sum(cost < max(costs[place:]) for place, cost in enumerate(costs))


@contextmanager
def service_on(
    cluster: LocalCluster, placements: Sequence[dict[str, Any]], options: dict[str, Any]
) -> Iterator[RunningProgram]:
    """Runs `motet serve` on the cluster with one simulated model, for as long as the context."""
    model = {"engine": "simulated", "options": options, "placements": list(placements)}
    port = free_loopback_port()
    config = _config(cluster, {"defaults": False, "models": {MODEL: model}}, port)
    command = [sys.executable, "-m", "serve_app.cli.main", "serve", "--config", str(config)]
    with running_program(command, READY, cluster.service_environment) as (_, seconds):
        yield RunningProgram("127.0.0.1", port, seconds)


def _config(cluster: LocalCluster, arguments: dict[str, Any], port: int, **more: str) -> Path:
    application = {"name": "motet", "import_path": "serve_app.app:build", "args": arguments}
    document = {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [application], **more}
    config = cluster.folder / "serve_config.yaml"
    config.write_text(json.dumps(document))
    return config


async def _until_ready(service: RunningProgram, kinds: Sequence[Kind]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        placements = (await ready_report(service))["models"][MODEL]["placements"]
        if all(placements[kind] for kind in kinds):
            return
        await asyncio.sleep(POLL_S)
    raise fail("unavailable", f"Not every placement is ready after {PATIENCE_S:.0f} s.")
