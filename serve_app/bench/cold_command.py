"""`motet say` as a user runs it: the first sound after a cold start, and its speed on one core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.errors import fail
from deployments.text.sample_sentences import LONG_TEXT
from serve_app.bench.frame import (
    Sheet,
    spread,
)

SHORT_SENTENCE = "Hello there, this is Motet."
MOTET = (sys.executable, "-m", "serve_app.cli.main")
WAV_HEADER_BYTES = 44
COMMAND_TIMEOUT_S = 120.0


def measure_command(sheet: Sheet, cold_starts: int) -> None:
    """Measures the first sound of `cold_starts` starts, and the speed of a long text."""
    with sheet.measuring("motet say from a cold start"):
        firsts = spread([_first_sound_of_motet_say() for _ in range(cold_starts)])
        note = f"from the start of the command to its first sample; {cold_starts} starts, {firsts}"
        sheet.put("first sound of a cold motet say", firsts.p50, note)
    with sheet.measuring("motet say of the long text"), _on_one_core(), tempfile.TemporaryDirectory() as folder:
        facts = json.loads(_motet_say(LONG_TEXT, "-o", f"{folder}/speech.wav", "--json"))
        note = f"{len(LONG_TEXT.split()):,} words, {facts['audio_seconds']:.0f} s of audio, loading apart"
        sheet.put("motet say, long text, one core", facts["times_real_time"], note)


def _first_sound_of_motet_say() -> float:
    """Seconds from the start of the command to its first byte after the header."""
    started = time.perf_counter()
    command = [*MOTET, "say", SHORT_SENTENCE, "-o", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        head = program.stdout.read(WAV_HEADER_BYTES + 1)
        seconds = time.perf_counter() - started
        _, complaint = program.communicate(timeout=COMMAND_TIMEOUT_S)
    if program.returncode or len(head) <= WAV_HEADER_BYTES:
        raise fail("engine", f"motet say ended with status {program.returncode}: {complaint.decode()[-500:]}")
    return seconds


def _motet_say(text: str, *options: str) -> str:
    """Runs `motet say` on a text; returns its standard output."""
    command = [*MOTET, "say", "-", *options]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    if done.returncode:
        raise fail("engine", f"motet say ended with status {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Programs started inside have one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
