"""The panels of the dashboard: what each shows, and its queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from deployments.replica import metric_table as replica
from deployments.replica.metric import Counter, Gauge, Histogram
from serve_app.gateway import metric_table as gateway
from serve_app.monitoring import metrics
from serve_app.monitoring.promql import PromQl

CHOSEN = PromQl("$__rate_interval", 'model=~"$model"')
"""Of the models that the reader of the dashboard chose."""
CHOSEN_AND_NONE = PromQl("$__rate_interval", 'model=~"$model|none"')
"""And of requests that name no known model."""
SERVER_ERROR, TOO_MANY = 'status=~"5.."', 'status="429"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph. `unit` is Grafana's name of it; `queries` maps a legend to its PromQL."""

    title: str
    meaning: str
    unit: str
    queries: Mapping[str, str]


def legend(*labels: str) -> str:
    """What Grafana writes beside a line: the values of its labels."""
    return " ".join(f"{{{{{label}}}}}" for label in labels)


def quantiles(histogram: Histogram, *shown: float) -> dict[str, str]:
    """The queries for quantiles of a histogram, by model."""
    return {f"{legend('model')} p{100 * each:g}": CHOSEN.quantile(each, histogram, "model") for each in shown}


def rates(counter: Counter, *by: str, of: PromQl = CHOSEN, where: str = "") -> dict[str, str]:
    """A line for each value of the labels: the growth of a counter."""
    return {legend(*by): of.rate(counter, *by, where=where)}


def values(gauge: Gauge, *by: str, fold: str = "sum") -> dict[str, str]:
    """A line for each value of the labels: a gauge."""
    return {legend(*by): CHOSEN.value(gauge, *by, fold=fold)}


def means(histogram: Histogram, by: str) -> dict[str, str]:
    """A line for each value of the label: the mean of a histogram."""
    return {legend(by): CHOSEN.mean(histogram, by)}


LISTENERS = (
    Panel(
        "First sound",
        "From a request to its first bytes of audio.",
        "ms",
        quantiles(gateway.FIRST_SOUND_MS, 0.5, 0.95)
        | {"alarm": CHOSEN.value(gateway.FIRST_SOUND_ALARM_MS, fold="max")},
    ),
    Panel(
        "Late first sounds",
        "Requests per second whose first audio was later than the alarm.",
        "reqps",
        rates(gateway.FIRST_SOUNDS_LATE, "model"),
    ),
    Panel(
        "Buffers of listeners",
        "The least audio that a client had ahead of playback, of each stream.",
        "ms",
        quantiles(gateway.LEAST_LEAD_MS, 0.05, 0.5),
    ),
    Panel(
        "Interruptions",
        "Per second: clients that ran out of audio, seconds of concealed audio, streams finished by the fallback voice.",
        "short",
        {
            "underruns {{model}}": CHOSEN.rate(gateway.UNDERRUNS, "model"),
            "concealed s {{model}}": CHOSEN.rate(gateway.CONCEALED_SECONDS, "model"),
            "fallbacks {{model}}": CHOSEN.rate(gateway.FALLBACKS, "model"),
        },
    ),
    Panel(
        "First text or stems of a recording",
        "From a request to the first text of a transcription or the first audio of a separation.",
        "ms",
        quantiles(gateway.FIRST_RESULT_MS, 0.5, 0.95),
    ),
    Panel(
        "Final texts of live sessions",
        "From the end of a turn of a live session to its whole text.",
        "ms",
        quantiles(gateway.FINAL_TEXT_MS, 0.5, 0.95),
    ),
    Panel("Live sessions", "Open live sessions.", "short", {"sessions": CHOSEN.value(gateway.LIVE_SESSIONS)}),
    Panel(
        "Where a speech request spends its time",
        "Mean of each stage.",
        "ms",
        means(gateway.REQUEST_STAGE_MS, "stage"),
    ),
)

REQUESTS = (
    Panel(
        "Requests",
        "Requests that ended, by route and status.",
        "reqps",
        rates(gateway.REQUESTS, "route", "status", of=CHOSEN_AND_NONE),
    ),
    Panel(
        "Errors",
        "Share of requests that the service failed (status 5xx).",
        "percentunit",
        {legend("model"): CHOSEN_AND_NONE.share(gateway.REQUESTS, gateway.REQUESTS, "model", where=SERVER_ERROR)},
    ),
    Panel(
        "Failures",
        "Requests that failed, by model and kind of failure.",
        "reqps",
        rates(gateway.FAILURES, "model", "kind", of=CHOSEN_AND_NONE),
    ),
    Panel(
        "Refused requests",
        "Requests that were refused because there is too much to do (status 429).",
        "reqps",
        rates(gateway.REQUESTS, "model", "route", where=TOO_MANY, of=CHOSEN_AND_NONE),
    ),
    Panel(
        "Requests in queues",
        "Open requests of each placement, also those that are being answered.",
        "short",
        values(gateway.QUEUED_REQUESTS, "placement"),
    ),
    Panel(
        "Audio in queues",
        "Audio that each placement has still to make.",
        "s",
        values(gateway.QUEUED_SECONDS_OF_AUDIO, "placement"),
    ),
)

MODELS = (
    Panel(
        "Speed",
        "Seconds of audio made per second, over all replicas.",
        "short",
        rates(replica.AUDIO_MADE_SECONDS, "model"),
    ),
    Panel(
        "Audio made for clients that left",
        "Seconds of audio per second.",
        "short",
        rates(replica.AUDIO_WASTED_SECONDS, "model"),
    ),
    Panel(
        "Real-time factor",
        "Seconds of steps for a second of audio, of each stream.",
        "short",
        quantiles(gateway.REAL_TIME_FACTOR, 0.5, 0.95),
    ),
    Panel(
        "Speed of a stream",
        "Tokens per second of autoregressive models.",
        "short",
        quantiles(replica.STREAM_TOKENS_PER_SECOND, 0.05, 0.5),
    ),
    Panel(
        "First sound at the replica",
        "From a request at the replica to its first audio.",
        "ms",
        quantiles(replica.REPLICA_FIRST_SOUND_MS, 0.5, 0.95),
    ),
    Panel(
        "Open streams",
        "Streams of speech in progress.",
        "short",
        values(replica.OPEN_STREAMS, "model"),
    ),
    Panel(
        "Faults of speech",
        "Shares of the checked pieces: with a fault when first made, made again, and sent with a fault.",
        "percentunit",
        {
            "{{of}} {{fault}} {{model}}": f"{CHOSEN.rate(gateway.PIECE_FAULTS, 'model', 'fault', 'of')} "
            f"/ ignoring(fault, of) group_left {CHOSEN.rate(gateway.SPEECH_PIECES, 'model')}",
            "made again {{model}}": CHOSEN.share(gateway.PIECES_MADE_AGAIN, gateway.SPEECH_PIECES, "model"),
        },
    ),
    Panel(
        "Pieces without an end",
        "Pieces of text per second at which the model was stopped, by reason.",
        "short",
        rates(replica.RUNAWAY_PIECES, "model", "reason"),
    ),
)

STEPS = (
    Panel(
        "Items in a step",
        "How well streams share the engine.",
        "short",
        {"{{model}} mean": CHOSEN.mean(replica.STEP_BATCH_SIZE, "model")} | quantiles(replica.STEP_BATCH_SIZE, 0.95),
    ),
    Panel("Time of a step", "One call of the engine.", "ms", quantiles(replica.STEP_MS, 0.5, 0.95)),
    Panel("Wait for a step", "Of an item, before its step begins.", "ms", quantiles(replica.STEP_WAIT_MS, 0.5, 0.95)),
    Panel(
        "Padding",
        "Share of padded batches that is padding.",
        "percentunit",
        means(replica.STEP_PADDING_SHARE, "model"),
    ),
    Panel(
        "Replayed steps",
        "Share of all steps that replayed a captured graph.",
        "percentunit",
        values(replica.STEP_REPLAYED_SHARE, "model", fold="min"),
    ),
    Panel(
        "Captures",
        "Time spent on capturing graphs.",
        "s",
        values(replica.STEP_CAPTURE_SECONDS, "model"),
    ),
)

MACHINES = (
    Panel(
        "CPU",
        "Use of all cores of each machine.",
        "percent",
        values(metrics.CPU_PERCENT, "ip", fold="max"),
    ),
    Panel(
        "Memory",
        "Share of each machine's memory that is in use. On a machine with unified memory, GPU included.",
        "percentunit",
        {legend("ip"): CHOSEN.share(metrics.MEMORY_USED, metrics.MEMORY_TOTAL, "ip", fold="max")},
    ),
    Panel(
        "Memory of engines",
        "Device memory that the libraries of engines hold.",
        "bytes",
        values(replica.ENGINE_MEMORY_BYTES, "model", "kind"),
    ),
)

ROWS: Mapping[str, Sequence[Panel]] = MappingProxyType(
    {
        "What listeners hear": LISTENERS,
        "Requests and queues": REQUESTS,
        "Models": MODELS,
        "Steps": STEPS,
        "Machines": MACHINES,
    }
)
"""The rows of the dashboard by their titles."""
