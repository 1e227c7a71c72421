"""Uses the Studio as somebody who has only the page, from the start of the service, and takes its pictures.

    python -m tests.load.studio [--url http://127.0.0.1:8000] [--out out/studio]

Without `--url` it starts a service with `serve_config.yaml`, and the seconds count from that start. It needs Chromium.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import BrowserContext
from rich.console import Console

from serve_app.bench.frame import Figure, Sheet, at_most, carry_out
from serve_app.bench.running_service import running_service
from serve_app.profiles import default_profile
from tests.e2e.browser import AGREE, FAKE_MICROPHONE, LAPTOP, PHONE, VIEWS, WALL, Scheme, Studio, chromium, context

PATIENCE_S = 180.0
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
STEPS = ("speaks", "adds a voice", "transcribes with speakers", "separates", "sees the queue")
PICTURES = "pictures"


@contextmanager
def service(url: str | None) -> Iterator[str]:
    """The address of the service."""
    if url:
        yield url.rstrip("/")
        return
    with running_service(default_profile()) as running:
        yield f"http://{running.host}:{running.port}"


def opened(profile: BrowserContext, url: str) -> Studio:
    """A tab with the Studio."""
    studio = Studio(profile.new_page(), url)
    studio.watch()
    studio.open()
    return studio


def speak(studio: Studio) -> None:
    """Presses the first button of the page."""
    studio.page.goto(f"{studio.url}/#speak")
    studio.page.click("#speak-button")
    studio.state("speak-state", "done")


def add_voice(studio: Studio) -> None:
    """Records a clip, agrees, stores the voice, and deletes it again. The fake microphone beeps."""
    page = studio.page
    page.goto(f"{studio.url}/#speak")
    before = int(studio.value("document.body.dataset.ownVoices"))
    page.click("#voices-add")
    page.click("#voice-record")
    studio.until("document.querySelector('[data-recording=voice] .record-time').textContent === '0:05'")
    page.click("#voice-record")
    page.fill("#voice-name", "A stranger")
    page.check("#voice-agreed")
    page.click("#voice-save")
    studio.state("own-voices", str(before + 1))
    remove = page.get_by_label("Delete A stranger").first
    remove.click()
    remove.click()
    studio.state("own-voices", str(before))


def work_on_sample(studio: Studio, view: str) -> None:
    """Takes the sample that a view offers."""
    studio.page.goto(f"{studio.url}/#{view}")
    studio.page.click(f"#{view}-sample")
    studio.state(f"{view}-state", "done")


def transcribe(studio: Studio) -> None:
    """Takes the sample conversation, and finds its two speakers."""
    work_on_sample(studio, "transcribe")
    names = set(studio.page.locator("#transcribe-text .turn strong").all_inner_texts())
    assert names == {"Speaker A", "Speaker B"}, f"the speakers are {sorted(names)}"


def see_queue(studio: Studio) -> None:
    """Opens the state of the cluster, where each request has left a dot."""
    studio.page.goto(f"{studio.url}/#cluster")
    studio.until("document.querySelectorAll('#first-chart circle').length > 0")
    assert "Ready" in studio.text("#cluster-placements")


ACTS: tuple[Callable[[Studio], None], ...] = (
    speak, add_voice, transcribe, lambda studio: work_on_sample(studio, "separate"), see_queue,
)  # fmt: skip


def tour(studio: Studio, sheet: Sheet, started_s: float) -> None:
    """Does everything once; each figure is the time since the start of the service."""
    for name, act in zip(STEPS, ACTS, strict=True):
        with sheet.measuring(name):
            act(studio)
            sheet.put(name, time.monotonic() - started_s)


def take_pictures(profile: BrowserContext, url: str, folder: Path, name: str) -> int:
    """A picture of each view when it was used; returns their number."""
    studio = opened(profile, url)
    for act in (speak, transcribe, lambda studio: work_on_sample(studio, "separate")):
        act(studio)
    for view in VIEWS:
        studio.page.goto(f"{studio.url}/#{view}")
        if view == "cluster":
            see_queue(studio)
        if view == "models":
            studio.until("Number(document.body.dataset.modelsShown) > 0")
        studio.page.screenshot(path=folder / f"{view}-{name}.png", full_page=True)
    studio.check_quiet()
    return len(VIEWS)


def measure(sheet: Sheet, url: str | None, folder: Path) -> None:
    """The tour, and then the pictures."""
    started_s = time.monotonic()
    with service(url) as address, chromium(FAKE_MICROPHONE, AGREE) as browser:
        tour(opened(context(browser), address), sheet, started_s)
        folder.mkdir(parents=True, exist_ok=True)
        with sheet.measuring(PICTURES):
            taken = 0
            for scheme in SCHEMES:
                for size in (PHONE, LAPTOP, WALL):
                    with context(browser, size, scheme) as profile:
                        taken += take_pictures(profile, address, folder, f"{size[0]}-{scheme}")
            sheet.put(PICTURES, taken, str(folder))


def main() -> int:
    """Runs the tour; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", help="a service that runs already")
    parser.add_argument("--out", type=Path, default=Path("out/studio"), help="the folder of the pictures")
    arguments = parser.parse_args()
    wanted = [*(Figure(name, "s after the start", at_most(PATIENCE_S)) for name in STEPS), Figure(PICTURES, "files")]
    report = carry_out("studio", wanted, lambda sheet: measure(sheet, arguments.url, arguments.out), quick=False)
    report.show(Console())
    return report.exit_status


if __name__ == "__main__":
    sys.exit(main())
