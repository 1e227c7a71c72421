"""What each notebook must show, whenever it is executed: conditions on the text of its outputs."""

from __future__ import annotations

import re
from collections.abc import Callable


def first_sound(text: str) -> bool:
    before, after = map(float, re.findall(r"(-?[\d.]+) dB (?:before|after)", text))
    heard = " ".join(re.findall(r"\d - +[\d.]+  (.*)", text))
    return "many streams" in heard.lower() and after > before + 4 and "transcription  whisper-base" in text


def batching(text: str) -> bool:
    windows = [float(mean) for mean in re.findall(r"at once: ([\d.]+) windows in a step", text)]
    carried = [int(count) for count in re.findall(r"in a step: (\d+) listeners", text)]
    gains = len(carried) == 5 and carried == sorted(carried) and carried[-1] > 2 * carried[0]
    return gains and len(windows) == 4 and windows[0] == 1 < windows[-1]


def buffers(text: str) -> bool:
    survived = {name: float(s) for name, s in re.findall(r"([\w-]+) +survives every stop of ([\d.]+) s", text)}
    return survived["low-latency"] <= survived["high-stability"] <= survived["fast"] > 1


def long_recording(text: str) -> bool:
    none, short, long = (float(level) for level in re.findall(r"overlap of [\d.]+ s: at most (-?\d+) dB", text))
    (lost,) = re.findall(r"difference of a sample: ([\d.]+)", text)
    return none > short > long and float(lost) < 3 / 32768


def bulk(text: str) -> bool:
    return len(re.findall(r"^\d \d+\.\d\d s$", text, re.MULTILINE)) == 3 and "two boats in the harbor" in text.lower()


def following(text: str) -> bool:
    fixed, day = (float(price) for price in re.findall(r"\$([\d.]+) an hour; following the load, \$([\d.]+)", text)[0])
    return day < fixed


def captions(text: str) -> bool:
    return "ladies and gentlemen" in text.lower() and "-->" in text and "tentative words are" in text


def fleet(text: str) -> bool:
    return all(name in text for name in ("aws-g6-xlarge-l4", "100,000", "The promise is kept"))


SHOWS: dict[str, Callable[[str], bool]] = {
    "01_first_sound": first_sound,
    "02_what_batching_buys": batching,
    "03_streams_and_buffers": buffers,
    "04_a_long_recording": long_recording,
    "05_bulk": bulk,
    "06_following_the_load": following,
    "07_live_captions": captions,
    "08_plan_a_fleet": fleet,
}
