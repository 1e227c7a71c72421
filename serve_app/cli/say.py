"""`motet say`: speech from text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.audio.formats import AudioFormat
from serve_app.cli.options import (
    STDIO,
    AsJson,
    Captions,
    Config,
    Lexicon,
    Loudness,
    ModelName,
    Normalize,
    Quiet,
    SampleRate,
    Speed,
    Verify,
    VoiceName,
    config_path,
    lexicon_of,
    rule_changes,
)
from serve_app.cli.sound_target import sound_target
from serve_app.cli.terminal import note, pace, progress_bar, report, standard_input

if TYPE_CHECKING:
    from serve_app.cli.local_speech import SpokenFile


Text = Annotated[
    str | None, typer.Argument(show_default="standard input", help="The text; [bold]-[/bold] reads standard input.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        show_default="speech.wav, or speech.<format>",
        help="Where the audio goes; its suffix is the format. [bold]-[/bold] is standard output.",
    ),
]
Form = Annotated[
    AudioFormat | None,
    typer.Option("--format", "-f", show_default="the suffix of -o, or wav", help="How to encode."),
]
Ssml = Annotated[bool, typer.Option("--ssml", help="The text is a document in SSML: <speak> ... </speak>.")]


def say(
    text: Text = None,
    out: Output = None,
    form: Form = None,
    sample_rate: SampleRate = None,
    loudness: Loudness = None,
    voice: VoiceName = None,
    model: ModelName = None,
    speed: Speed = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same samples.")] = 0,
    ssml: Ssml = False,
    lexicon: Lexicon = [],  # noqa: B006
    normalize: Normalize = None,
    captions: Captions = None,
    verify: Verify = False,
    config: Config = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Speak a text into a file, or to standard output.

    Example: [bold]motet say "Hello there." -o hello.mp3[/bold]

    Example: [bold]motet say -o book.opus < book.txt[/bold]

    Example: [bold]motet say "Hello." -o - | aplay[/bold]

    Example: [bold]motet say --ssml "<speak>One. <break time='1s'/> Two.</speak>"[/bold]

    Example: [bold]motet say -o book.mp3 --captions book.srt < book.txt[/bold]

    Example: [bold]motet say "Your call is important." -o call.ulaw[/bold] (for a telephone)

    Text on standard input is spoken while it is still being written:

    Example: [bold]llm "Tell me a story." | motet say -o - | aplay[/bold]
    """
    started = time.perf_counter()
    form, path = sound_target(out, form, "speech", as_json=as_json)
    from serve_app import config_file
    from serve_app.cli import local_speech

    app = config_file.read_app(config_path(config))
    words = _text(text, app.speech.arrival.pause_s)
    sound = local_speech.SoundChoices(path, form, sample_rate, loudness)
    manner: dict[str, Any] = {"model": model, "voice": voice, "speed": speed, "seed": seed, "ssml": ssml}
    manner |= {"lexicon": lexicon_of(lexicon), "normalize": rule_changes(normalize)}
    with progress_bar("Speaking", quiet=quiet) as progress:
        done = local_speech.say(words, app, sound, progress, started, captions=captions, verify=verify, **manner)
    _report(done, path, as_json=as_json, quiet=quiet)


def _report(done: SpokenFile, path: Path, *, as_json: bool, quiet: bool) -> None:
    target = "standard output" if path == STDIO else path
    first_sound = f"first sound after {done.first_sound_seconds:.2f} s"
    report(f"{target}: {pace(done)}; {first_sound}.", done if as_json else None, quiet=quiet)
    if done.ignored:
        note(f"Warning: these attributes were ignored: {', '.join(done.ignored)}.")
    if done.unread_scripts:
        note(f"Warning: the voice does not read {done.unread_scripts}; those words are missing or wrong.")
    if faulty := done.quality.faulty:
        note(
            f"Warning: {faulty} of {done.quality.pieces} pieces sound wrong ({', '.join(done.quality.faults)}). Listen to "
            "them, and try another --seed."
        )
    if done.finish_reason != "stop":
        note(
            f"Warning: the model did not end by itself ({done.finish_reason}) and was stopped: words may be missing. "
            "Listen to it, and try another --seed."
        )


def _text(text: str | None, pause_s: float) -> str | Iterator[str | None]:
    """The text, or standard input as it is written."""
    from serve_app.cli import local_speech

    if text not in (None, "-"):
        return str(text)
    file = standard_input()
    if file.isatty():
        note("Type the text; Ctrl-D on a line of its own ends it.")
    return local_speech.read_as_it_comes(file, pause_s)
