"""Modules of the Studio, each called alone in a real browser. They need no service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .browser import Browsers, Studio, studio_with
from .scripted_service import scripted_service

WORDS = "[['Good', 0, 0.3], ['morning.', 0.3, 0.9], ['Then', 3, 3.2], ['come', 3.2, 3.4]]"
TONE = """({ powerSpectrum, WINDOW }) => {
  const samples = Float32Array.from({ length: 2 * WINDOW }, (_, i) => Math.sin((2 * Math.PI * 100 * i) / WINDOW));
  const power = [...powerSpectrum(samples, 500)];
  const loudest = power.indexOf(Math.max(...power));
  return [power.length, loudest, power[loudest], power[loudest + 3]];
}"""


@pytest.fixture(scope="module")
def studio(browsers: Browsers) -> Iterator[Studio]:
    with scripted_service() as service, studio_with(browsers.get(), service) as opened:
        yield opened


def called(studio: Studio, module: str, function: str) -> Any:
    """What a function of JavaScript returns, which gets the module."""
    return studio.value(f"import('/page/{module}').then({function})")


def cues(studio: Studio, words: str, form: str) -> str:
    function = f"({{ cuesOf, {form} }}) => {form}(cuesOf({words}))"
    return str(called(studio, "text/subtitles.js", function))


def test_subtitles_end_where_the_speaker_pauses(studio: Studio) -> None:
    words = f"{WORDS}.map(([text, start, end]) => ({{ text, start, end }}))"
    assert cues(studio, words, "srt") == (
        "1\n00:00:00,000 --> 00:00:00,900\nGood morning.\n\n2\n00:00:03,000 --> 00:00:03,400\nThen come\n"
    )


def test_subtitles_name_a_new_speaker_and_escape_markup(studio: Studio) -> None:
    words = (
        "[['<b>', 0, 1, 'A'], ['yes', 1, 2, 'B']].map(([text, start, end, speaker]) => ({ text, start, end, speaker }))"
    )
    assert cues(studio, words, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n<v A>&lt;b&gt;\n\n00:00:01.000 --> 00:00:02.000\n<v B>yes\n"
    )


def test_subtitles_have_two_short_lines_and_words_without_spaces_stay_together(studio: Studio) -> None:
    many = "Array.from({ length: 40 }, (_, i) => ({ text: 'wording', start: i / 10, end: (i + 1) / 10 }))"
    lines = [line for line in cues(studio, many, "srt").splitlines() if "wording" in line]
    assert max(map(len, lines)) <= 42
    assert sum(line.count("wording") for line in lines) == 40
    attached = "[{ text: '你', start: 0, end: 1 }, { text: '好', start: 1, end: 2, attached: true }]"
    assert "你好" in cues(studio, attached, "srt")


def test_the_spectrum_of_a_tone_has_its_power_at_its_frequency(studio: Studio) -> None:
    bins, loudest, power, beside = called(studio, "sound/fourier.js", TONE)
    assert (bins, loudest) == (1025, 100)
    assert power == pytest.approx(1.0, abs=1e-3)
    assert beside < 1e-6


def test_samples_survive_the_way_to_bytes_and_back(studio: Studio) -> None:
    function = """({ Take, toBytes, toFloats }) => {
      const bytes = toBytes(Float32Array.of(0, 0.5, -0.5, 2, -2));
      const take = new Take(10);
      take.append(bytes.subarray(0, 3));
      take.append(bytes.subarray(3));
      take.finish();
      return take.pieces.flatMap((piece) => [...toFloats(piece)]);
    }"""
    assert called(studio, "sound/take.js", function) == pytest.approx([0, 0.5, -0.5, 1, -1], abs=1e-3)


def test_a_length_that_is_not_known_is_a_dash(studio: Studio) -> None:
    function = "({ clock, seconds }) => [NaN, Infinity, 61.5].flatMap((each) => [clock(each), seconds(each)])"
    assert called(studio, "ui/elements.js", function) == ["–:–", "–", "–:–", "–", "1:01", "1 min 1 s"]


def test_a_transport_shows_no_length_that_is_not_known(studio: Studio) -> None:
    function = """({ Transport }) => {
      const place = document.createElement('div');
      new Transport(place).use({ duration: 0, position: 3, playing: false, play() {}, pause() {}, seek() {} });
      return [place.querySelector('.time').textContent, place.querySelector('input').disabled];
    }"""
    assert called(studio, "ui/transport.js", function) == ["0:03", True]


def test_only_one_transport_plays(studio: Studio) -> None:
    function = """async ({ Transport }) => {
      const playables = [1, 2].map(() => ({
        duration: 9, position: 0, playing: false, play() { this.playing = true; }, pause() { this.playing = false; }, seek() {},
      }));
      const transports = playables.map((playable) => {
        const transport = new Transport(document.createElement('div'));
        transport.use(playable);
        return transport;
      });
      for (const transport of transports) await transport.play();
      return playables.map(({ playing }) => playing);
    }"""
    assert called(studio, "ui/transport.js", function) == [False, True]


def test_the_length_of_a_streamed_recording_is_found(studio: Studio) -> None:
    function = """async ({ durationOf }) => {
      const context = new AudioContext();
      await context.resume();
      const [tone, end] = [context.createOscillator(), context.createMediaStreamDestination()];
      tone.connect(end);
      tone.start();
      const recorder = new MediaRecorder(end.stream);
      const parts = [];
      recorder.ondataavailable = ({ data }) => parts.push(data);
      recorder.start();
      await new Promise((resolve) => setTimeout(resolve, 600));
      await new Promise((resolve) => { recorder.onstop = resolve; recorder.stop(); });
      context.close();
      return [await durationOf(new Blob(parts)), String(await durationOf(new Blob(['no sound'])))];
    }"""
    length, nothing = called(studio, "sound/duration.js", function)
    assert 0.2 < length < 2
    assert nothing == "NaN"


def test_decoded_tracks_share_one_budget_and_give_it_back(studio: Studio) -> None:
    function = """async ({ Mixer }) => {
      const { MemoryBudget, OverBudgetError } = await import('/page/sound/memory-budget.js');
      const { Take, toBytes } = await import('/page/sound/take.js');
      const take = new Take(24000);
      take.append(toBytes(new Float32Array(24000)));
      take.finish();
      const budget = new MemoryBudget(1e6);
      const [one, other] = [new Mixer(budget), new Mixer(budget)];
      const outcomes = [];
      for (const mixer of [one, one, one, one, one, other]) {
        outcomes.push(await mixer.add('a', take.toWav(), { seconds: 1 }).then(() => 'added', (error) => error instanceof OverBudgetError));
      }
      const held = budget.held;
      one.close();
      outcomes.push(await other.add('b', take.toWav(), { seconds: 1 }).then(() => 'added'));
      other.close();
      await other.add('c', take.toWav(), { seconds: 1 }).catch(() => {});
      return [outcomes, held > 5e5 && held <= 1e6, budget.held];
    }"""
    outcomes, full, left = called(studio, "sound/mixer.js", function)
    assert outcomes[0] == outcomes[-1] == "added"
    assert outcomes[-2] is True  # the other mixer finds nothing left
    assert (full, left) == (True, 0)


def test_a_mixer_that_is_paused_before_it_sounds_stays_silent(studio: Studio) -> None:
    function = """async ({ Mixer }) => {
      const { Take, toBytes } = await import('/page/sound/take.js');
      const take = new Take(24000);
      take.append(toBytes(new Float32Array(24000)));
      take.finish();
      const mixer = new Mixer();
      await mixer.add('a', take.toWav(), { seconds: 1 });
      const started = mixer.play();
      mixer.pause();
      await started;
      const { playing } = mixer;
      mixer.close();
      await mixer.play();
      return [playing, mixer.playing];
    }"""
    assert called(studio, "sound/mixer.js", function) == [False, False]


def test_a_transcript_is_one_tab_stop_in_which_the_arrows_move(studio: Studio) -> None:
    function = """({ Transcript }) => {
      const box = document.createElement('div');
      document.body.append(box);
      const transcript = new Transcript(box, () => {});
      const stops = () => [box, ...box.querySelectorAll('*')].filter(({ tabIndex }) => tabIndex >= 0).length;
      const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
      const seen = [stops()];
      const words = ['One', 'two', 'three'].map((word, at) => ({ word, start: at, end: at + 1 }));
      transcript.add('One two three', words);
      seen.push(stops());
      box.querySelectorAll('.word')[1].focus();
      transcript.finish('One two three', [{ start: 0, end: 2, speaker: 'A' }, { start: 2, end: 3, speaker: 'B' }]);
      seen.push(stops(), document.activeElement.textContent);
      for (const key of ['ArrowRight', 'ArrowRight', 'ArrowRight', 'Home', 'ArrowLeft', 'End']) {
        press(key);
        seen.push(document.activeElement.textContent);
      }
      seen.push(stops());
      box.remove();
      return seen;
    }"""
    found = called(studio, "transcribe/transcript.js", function)
    assert found == [1, 1, 1, "two", "0:02", "three", "three", "0:00", "0:00", "three", 1]


def test_a_button_that_copies_says_what_happened_and_returns(studio: Studio) -> None:
    function = """async ({ copy }) => {
      const button = document.createElement('button');
      button.textContent = 'Copy text';
      document.body.append(button);
      const seen = [];
      for (const result of [Promise.resolve(), Promise.resolve()]) {
        navigator.clipboard.writeText = () => result;
        await copy('words', button);
        seen.push(button.textContent);
      }
      await new Promise((resolve) => setTimeout(resolve, 1700));
      seen.push(button.textContent);
      button.remove();
      return seen;
    }"""
    assert called(studio, "ui/clipboard.js", function) == ["Copied", "Copied", "Copy text"]


def test_the_pieces_of_a_body_are_read_in_one_place(studio: Studio) -> None:
    function = """async ({ eventsOf, piecesOf }) => {
      const bytes = new TextEncoder().encode('data: {"a": "é"}\\r\\n\\r\\ndata: [DONE]\\n\\n');
      let cancelled = 0;
      const body = () => new Response(new ReadableStream({
        start(controller) {
          for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
          controller.close();
        },
        cancel() { cancelled += 1; },
      }));
      const events = [];
      for await (const event of eventsOf(body())) events.push(event);
      let count = 0;
      for await (const piece of piecesOf(body())) count += piece.length;
      const endless = new Response(new ReadableStream({ pull(c) { c.enqueue(bytes); }, cancel() { cancelled += 1; } }));
      for await (const piece of piecesOf(endless)) break;
      return [events, count === bytes.length, cancelled];
    }"""
    assert called(studio, "service/sse.js", function) == [[{"a": "é"}], True, 1]
