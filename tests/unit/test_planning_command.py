"""`motet plan`: files, scenarios, tables and JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.errors import MotetError
from serve_app.cli import command_group
from serve_app.planning import plan_file
from serve_app.planning.search import STREAMS_OF_A_CELL
from serve_app.planning.settings import PlanSettings

SMALL = """
duration_s: 120
interval_s: 30
traffic: {speech: [{model: voice, streams_at_once: 2}]}
models: {voice: {placements: [{machines: cpu, engine: {step_ms: {1: 50}, chunk_seconds_of_audio: 0.5}}]}}
machines: {cpu: {card: aws-c5-2xlarge, price_per_hour: 1}}
"""


def motet_plan(*arguments: str) -> str:
    done = CliRunner().invoke(command_group.app, ["plan", *arguments], catch_exceptions=False, color=False)
    return done.stdout


def wrong_call(*arguments: str) -> str:
    """What a call that ends with status 2 prints, without the frame around it."""
    done = CliRunner().invoke(command_group.app, ["plan", *arguments], color=False)
    assert done.exit_code == 2, done.output
    return " ".join(re.sub("[│╭╮╰╯─]", " ", done.output).split())


def test_scenarios_are_listed_and_valid() -> None:
    listed = motet_plan().splitlines()
    assert [line.split()[0] for line in listed] == plan_file.scenarios()
    for name in plan_file.scenarios():
        assert isinstance(plan_file.read(name), PlanSettings)


def test_cards_fill_in_what_a_plan_leaves_out() -> None:
    machine = plan_file.parsed(SMALL, "small").machines["cpu"]
    assert (machine.price_per_hour, machine.replicas_each) == (1.0, 8)
    assert not machine.measured and machine.source


def test_every_card_says_where_its_price_is_from() -> None:
    assert all(card["source"] and not card.get("measured") for card in plan_file.cards().values())


def test_cards_are_listed_with_prices_and_sources() -> None:
    listed = motet_plan("--cards")
    assert all(name in listed for name in plan_file.cards())
    assert "read 2026-11-29" in listed
    assert "measured on none" in listed


def test_sizes_are_printed_with_machines_and_the_origin_of_prices(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    printed = motet_plan(str(file), "--at-once", "2")
    assert "1 cpu" in printed
    assert "cpu: $1 an hour. AWS" in printed
    assert "never measured by us: cpu" in printed


def test_the_fleets_that_were_found_are_written(tmp_path: Path) -> None:
    file, out = tmp_path / "small.yaml", tmp_path / "found.json"
    file.write_text(SMALL)
    motet_plan(str(file), "--find", "--json", str(out))
    document = json.loads(out.read_text())
    (fleet,) = document["fleets"]
    assert (fleet["fleet"], fleet["replicas"], fleet["machines"]) == ("only cpu", {"voice@cpu": 1}, {"cpu": 1})
    assert fleet["cost_per_hour"] == 1.0
    assert 0 < fleet["first_sound_p95_ms"] <= document["settings"]["promise"]["first_sound_p95_ms"]


def test_the_fleets_for_each_number_of_streams_are_written(tmp_path: Path) -> None:
    file, out = tmp_path / "small.yaml", tmp_path / "sizes.json"
    file.write_text(SMALL)
    motet_plan(str(file), "--at-once", "2,4", "--streams-of-a-cell", "2", "--json", str(out))
    two, four = json.loads(out.read_text())["sizes"]
    assert (two["streams_at_once"], four["streams_at_once"], four["gateways"]) == (2, 4, 1)
    assert (two["fleets"][0]["machines"], four["fleets"][0]["machines"]) == ({"cpu": 1}, {"cpu": 2})


def test_the_help_says_how_large_cells_are() -> None:
    assert f"[default: ({STREAMS_OF_A_CELL})]" in " ".join(motet_plan("--help").replace("│", " ").split())


def test_a_plan_is_printed_and_written(tmp_path: Path) -> None:
    file, out = tmp_path / "small.yaml", tmp_path / "small.json"
    file.write_text(SMALL)
    printed = motet_plan(str(file), "--json", str(out))
    assert "speech voice" in printed
    assert "never measured by us: cpu" in printed
    document = json.loads(out.read_text())
    total = document["traffic_of_one_cell"]["total"]
    assert total["attempts"] >= total["complete"] > 0
    assert total["gaps_percent"] == 100 * (1 - total["good"] / (total["complete"] + total["failed"]))
    assert [point["at_s"] for point in document["points"]] == [30, 60, 90, 120]
    assert document["settings"]["machines"]["cpu"]["price_per_hour"] == 1.0


def test_a_plan_with_its_defaults_is_a_plan(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    shown = motet_plan(str(file), "--show")
    assert plan_file.parsed(shown, "shown") == plan_file.parsed(SMALL, "small")


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("a: [", "not valid YAML"),
        ("3", "has mistakes"),
        (SMALL.replace("streams_at_once", "streams_at_onze"), "streams_at_onze: unknown key"),
        ("[" * 20_000, "not valid YAML"),
        ("a: 2026-99-99", "not valid YAML"),
        (SMALL.replace("aws-c5-2xlarge", "abacus"), "no card 'abacus'"),
        (SMALL.replace("aws-c5-2xlarge", "[x]"), r"no card \['x'\]"),
    ],
)
def test_mistakes_of_a_file_are_named(text: str, mistake: str) -> None:
    with pytest.raises(MotetError, match=mistake):
        plan_file.parsed(text, "plan")


@pytest.mark.parametrize("content", [SMALL.encode().replace(b"voice", b"vo\xefce"), bytes(range(128, 256))])
def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(content)
    with pytest.raises(MotetError, match="not UTF-8 text"):
        plan_file.read(str(file))


def test_an_unknown_plan_names_the_scenarios() -> None:
    with pytest.raises(MotetError, match="one-class"):
        plan_file.read("nothing")


@pytest.mark.parametrize("sizes", ["", "x", "0", "1,2000000"])
def test_numbers_of_streams_are_checked(sizes: str) -> None:
    assert "list of numbers" in wrong_call("one-class", "--at-once", sizes)


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (["one-class", "--find", "--picture", "a.png"], "--find makes no result"),
        (["one-class", "--at-once", "10", "--picture", "a.png"], "--at-once makes no result"),
        (["one-class", "--show", "--json", "a.json"], "--show makes no result"),
        (["one-class", "--streams-of-a-cell", "10"], "needs --at-once"),
        (["one-class", "--show", "--find"], "cannot be combined with --show"),
        (["one-class", "--find", "--at-once", "10"], "cannot be combined with --at-once"),
        (["--find"], "--find needs a plan"),
        (["--seed", "2"], "needs a plan"),
        (["--json", "a.json"], "--json needs a plan"),
        (["one-class", "--cards"], "cannot be combined with a plan"),
        (["--cards", "--find"], "cannot be combined with a plan"),
    ],
)
def test_options_that_would_do_nothing_are_refused(arguments: list[str], mistake: str) -> None:
    assert mistake in wrong_call(*arguments)


def test_a_plan_without_streams_cannot_be_made_larger(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL.replace("streams_at_once: 2", "streams_at_once: 0"))
    with pytest.raises(MotetError, match="no streams at once"):
        motet_plan(str(file), "--at-once", "10")


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file, out = tmp_path / "small.yaml", tmp_path / "small.png"
    file.write_text(SMALL)
    motet_plan(str(file), "--picture", str(out))
    assert out.read_bytes()[:4] == b"\x89PNG"
