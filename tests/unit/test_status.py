"""GET /v1/status: what the service does now, and how long clients waited lately."""

from __future__ import annotations

from serve_app.gateway.recent_requests import MOST_KEPT, RecentRequests
from serve_app.gateway.request_context import RequestRecord
from tests.unit.test_api import Bench


async def test_the_status_lists_placements_and_says_why_one_takes_no_work() -> None:
    answer = (await Bench().client.get("/v1/status")).json()
    assert answer["status"] == "not ready"
    assert [placement["name"] for placement in answer["placements"]] == ["tone@cpu", "ear@cpu", "echo@cpu"]
    assert answer["placements"][0]["state"] == "away"
    assert answer["placements"][0]["cause"]
    assert (answer["streams"], answer["first_results"]) == ([], [])


async def test_the_status_has_the_queue_and_the_level_of_an_open_speech() -> None:
    bench = Bench()
    ticket = bench.admission.admit(["tone@cpu"], None, 30.0)
    bench.admission.admit(["ear@cpu"], None, 5.0)  # a transcription has no buffer
    ticket.record_made(2.0)
    answer = (await bench.client.get("/v1/status")).json()
    tone, ear, _ = answer["placements"]
    assert (tone["queue"]["open"], tone["queue"]["queued_seconds"]) == (1, 28.0)
    assert ear["queue"]["open"] == 1
    (stream,) = answer["streams"]
    assert (stream["placement"], stream["made_seconds"]) == ("tone@cpu", 2.0)
    assert 0 < stream["buffered_seconds"] <= 2.0


async def test_the_status_has_the_first_sounds_of_requests_that_ended() -> None:
    bench = Bench()
    assert (await bench.speak()).status_code == 200
    (first,) = (await bench.client.get("/v1/status")).json()["first_results"]
    assert (first["model"], first["placement"]) == ("tone", "tone@cpu")
    assert first["milliseconds"] == round(bench.recorder.first_sounds[0] * 1000, 1)


def test_recent_requests_are_bounded_and_those_without_a_result_are_left_out() -> None:
    clock = iter(range(1000))
    recent = RecentRequests(lambda: float(next(clock)))
    recent.add(RequestRecord(model="tone"))
    recent.add(RequestRecord(first_sound_ms=5.0))
    for number in range(MOST_KEPT + 1):
        recent.add(RequestRecord(model="ear", first_result_ms=float(number)))
    kept = list(recent.first_results())
    assert len(kept) == MOST_KEPT
    assert [kept[0].milliseconds, kept[-1].milliseconds] == [1.0, float(MOST_KEPT)]
    assert kept[0].at == 1.0
