"""The Models view in a real browser: what is served, what can be added, and the way from one to the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, expect

from .browser import Browsers, Studio, context, studio_of, studio_with, tab_of
from .scripted_service import (
    MODELS,
    Answer,
    ScriptedService,
    addition,
    failure,
    json_of,
    list_of,
    model,
    registry_model,
    scripted_service,
    voices_of,
)

ADD, REMOVE, LOAD = "POST /v1/registry/clara", "DELETE /v1/registry/clara", "POST /v1/models"
CLARA: dict[str, Any] = {"clones": True, "languages": ["en", "fr"], "verified": False}
TRIAL = {
    "date": "2026-11-30", "machine": "a machine", "load_seconds": 1.0, "times_real_time": 3.25,
    "memory_bytes": 1_500_000_000,
}  # fmt: skip
OTHERS = (
    registry_model("one", served=True, installed=True),
    registry_model("listener", "transcription", languages=["many"], size_bytes=2_000_000_000, trial=TRIAL),
    registry_model("splitter", "separation", languages=[], size_bytes=None),
)
NEEDS_ADMIN = failure("This needs an admin key.", 403, "admin_key_needed")
ACCEPTED = 202


def accepted(document: object) -> Answer:
    return Answer(json_of(document).parts, status=ACCEPTED)


def is_now(service: ScriptedService, **facts: object) -> dict[str, object]:
    """Changes what the service says of the model that a test adds."""
    entry = registry_model("clara", **{**CLARA, **facts})
    service.answer("GET /v1/registry", list_of(OTHERS[0], entry, *OTHERS[1:]))
    return entry


def lists(service: ScriptedService, state: str | None) -> None:
    """Changes the state of that model among those of the service; None for no such model."""
    clara = [model("clara", "speech", clones=True, state=state)] if state else []
    service.answer("GET /v1/models", list_of(*MODELS[2:], model("one", "speech", clones=False), *clara))


@pytest.fixture
def service(scripted: ScriptedService) -> ScriptedService:
    """A service without a model that clones, and with one in its catalogue."""
    entry = is_now(scripted)
    lists(scripted, None)
    scripted.answer("GET /v1/admin/models", list_of())
    scripted.answer("GET /v1/audio/voices?model=clara", voices_of("hers"))
    scripted.answer(ADD, accepted({**entry, "addition": addition("fetching")}))
    scripted.answer(REMOVE, accepted(entry))
    scripted.answer(LOAD, accepted({"id": "clara", "state": "loading", "created": 1}))
    return scripted


@pytest.fixture
def studio(browser: Browser, service: ScriptedService) -> Iterator[Studio]:
    with studio_with(browser, service, view="models") as opened:
        opened.state("models-shown", "4")
        yield opened


def card(studio: Studio, name: str = "clara") -> Locator:
    return studio.page.locator(f"[data-model={name}]")


def press(studio: Studio, action: str, name: str = "clara") -> None:
    studio.page.get_by_role("button", name=f"{action} {name}", exact=True).click()


def shown(studio: Studio) -> list[str]:
    return studio.page.locator("[data-model]:visible h5").all_inner_texts()


def test_it_shows_what_is_served_and_what_could_be(studio: Studio) -> None:
    served = studio.page.locator("[data-served]")
    assert served.locator("h4").all_inner_texts() == ["one", "hears", "parts"]
    expect(served.first).to_contain_text("Speech, from the configuration")
    expect(served.first).to_contain_text("Ready")
    assert shown(studio) == ["one", "clara", "listener", "splitter"]
    expect(card(studio)).to_contain_text("Clones voices")
    expect(card(studio)).to_contain_text("Not verified")
    for fact in ("English, French", "40 MB, 9M parameters", "MIT", "cpu", "Not added"):
        expect(card(studio)).to_contain_text(fact)
    for fact in ("2.00 GB", "3.3× real time, tried 2026-11-30", "1.50 GB"):
        expect(card(studio, "listener")).to_contain_text(fact)
    expect(card(studio, "splitter")).to_contain_text("not known")
    studio.check_quiet()


def test_the_catalogue_is_filtered_by_task_and_by_cloning(studio: Studio) -> None:
    page = studio.page
    page.get_by_role("radio", name="Transcription").check()
    assert (shown(studio), studio.text("#models-count")) == (["listener"], "1 of 4 models")
    page.get_by_role("checkbox", name="Clones voices").check()
    assert (shown(studio), studio.text("#models-count")) == ([], "0 of 4 models")
    page.get_by_role("radio", name="All").check()
    assert shown(studio) == ["clara"]


def test_voices_lead_to_the_models_that_clone(browser: Browser, service: ScriptedService) -> None:
    with studio_with(browser, service) as studio:
        assert studio.text("#voices-note") == "No model of this service speaks with voices of your own."
        studio.page.get_by_role("link", name="Add a model that clones").click()
        expect(studio.page.locator("#models-title")).to_be_focused()
        studio.state("models-shown", "1")
        assert shown(studio) == ["clara"]


def test_a_model_is_added_loaded_and_used(studio: Studio, service: ScriptedService) -> None:
    is_now(service, addition=addition("fetching", 4_000_000))
    press(studio, "Add")
    bar = studio.page.get_by_role("progressbar", name="clara: Being fetched…")
    expect(bar).to_have_js_property("value", 0.1)
    expect(card(studio)).to_contain_text("4.0 MB of 40 MB")
    is_now(service, addition=addition("fetching", 8_000_000))
    expect(bar).to_have_js_property("value", 0.2)
    expect(card(studio)).to_contain_text("MB/s")
    assert studio.text("[data-model=clara] .hint") == bar.get_attribute("aria-valuetext")
    assert service.asked_for("/v1/models") == []
    is_now(service, installed=True)
    expect(card(studio)).to_contain_text("Being loaded…")
    assert service.bodies("/v1/models") == [{"id": "clara", "catalogue": "clara"}]
    lists(service, "ready")
    expect(studio.page.locator("#models-news")).to_have_text("clara is ready and can be used.")
    card(studio).get_by_role("link", name="Speak with it").click()
    expect(studio.page.locator("#speak-title")).to_be_focused()
    expect(studio.page.locator("#speak-model")).to_have_value("clara")
    expect(studio.page.locator("#voices-models")).to_be_hidden()
    assert [json.loads(asked.body) for asked in service.asked_for("/v1/registry/clara")] == [{}]
    studio.check_quiet()


def test_a_download_that_broke_off_says_why_and_goes_on(studio: Studio, service: ScriptedService) -> None:
    cause = "The hub did not answer six times in a row. Try again later."
    is_now(service, addition=addition("fetching", 4_000_000))
    press(studio, "Add")
    expect(card(studio)).to_contain_text("Being fetched…")
    is_now(service, addition=addition("failed", 4_000_000, cause=cause))
    expect(card(studio)).to_contain_text(cause)
    expect(studio.page.locator("#models-news")).to_have_text(f"clara was not added. {cause}")
    is_now(service, addition=addition("fetching", 6_000_000))
    press(studio, "Resume")
    expect(card(studio)).to_contain_text("6.0 MB of 40 MB")
    assert len(service.asked_for("/v1/registry/clara")) == 2
    expect(card(studio).locator(".error")).to_have_count(0)


def test_a_download_is_cancelled_and_not_loaded(studio: Studio, service: ScriptedService) -> None:
    is_now(service, addition=addition("fetching", 4_000_000, total=None))
    press(studio, "Add")
    assert studio.page.get_by_role("progressbar").get_attribute("value") is None
    is_now(service)
    press(studio, "Cancel")
    expect(card(studio)).to_contain_text("Not added")
    assert len(service.asked_for("/v1/registry/clara", "DELETE")) == 1
    is_now(service, installed=True)  # another person adds it
    expect(card(studio)).to_contain_text("Added, not loaded")
    assert service.asked_for("/v1/models") == []


def test_a_model_that_was_added_is_loaded_after_a_reload(studio: Studio, service: ScriptedService) -> None:
    is_now(service, addition=addition("fetching", 4_000_000))
    press(studio, "Add")
    expect(card(studio)).to_contain_text("Being fetched")
    studio.open("speak")
    is_now(service, installed=True)
    studio.until("document.getElementById('models-news').textContent === 'clara is being loaded.'")
    assert len(service.asked_for("/v1/models")) == 1


def test_a_model_that_does_not_load_says_why(studio: Studio, service: ScriptedService) -> None:
    cause = "There is not enough memory. Unload another model first."
    studio.value("sessionStorage.setItem('motet-admin-key', 'root')")
    is_now(service, installed=True)
    studio.open("models")
    lists(service, "failed")
    failed = {"id": "clara", "state": "failed", "created": 1, "cause": cause}
    service.answer("GET /v1/admin/models", list_of(failed))
    press(studio, "Load")
    expect(card(studio)).to_contain_text(cause)
    expect(studio.page.locator("#models-news")).to_have_text(f"clara was not loaded. {cause}")
    expect(studio.page.get_by_role("button", name="Load clara", exact=True)).to_be_enabled()


def test_what_needs_an_admin_key_asks_for_it_and_is_done_with_it(studio: Studio, service: ScriptedService) -> None:
    service.answer(ADD, NEEDS_ADMIN, accepted(registry_model("clara")))
    press(studio, "Add")
    expect(studio.page.locator("#admin-error")).to_have_text("Changing the models needs an admin key.")
    expect(studio.page.locator("#admin-input")).to_be_focused()
    is_now(service, addition=addition("fetching", 4_000_000))
    studio.page.keyboard.type("root")
    studio.page.keyboard.press("Enter")
    expect(card(studio)).to_contain_text("Being fetched")
    expect(studio.page.locator("#admin-form")).to_be_hidden()
    assert [asked.key for asked in service.asked_for("/v1/registry/clara")] == ["", "root"]
    assert {asked.key for asked in service.asked_for("/v1/admin/models", "GET")} == {"root"}
    assert {asked.key for asked in service.asked_for("/v1/models", "GET")} == {""}
    assert service.asked_for("/v1/registry", "GET")[-1].key == "root"  # causes are for admin keys only
    studio.page.get_by_role("button", name="Forget the admin key").click()
    assert studio.value("sessionStorage.getItem('motet-admin-key')") == ""


def test_a_key_that_the_service_does_not_know_is_asked_for_again(studio: Studio, service: ScriptedService) -> None:
    service.answer("GET /v1/admin/models", NEEDS_ADMIN)
    studio.page.get_by_role("button", name="Use an admin key").click()
    studio.page.fill("#admin-input", "wrong")
    studio.page.keyboard.press("Enter")
    expect(studio.page.locator("#admin-error")).to_contain_text("does not take this as an admin key")
    expect(studio.page.locator("#admin-input")).to_be_focused()
    expect(studio.page.locator("#key-form")).to_be_hidden()
    assert studio.value("sessionStorage.getItem('motet-admin-key')") == ""
    assert shown(studio) == ["one", "clara", "listener", "splitter"]


def test_what_is_refused_is_said_at_the_model(studio: Studio, service: ScriptedService) -> None:
    service.answer(ADD, failure("The disk has no room for 40 MB. Free some, then send it again.", 507))
    press(studio, "Add")
    expect(card(studio)).to_contain_text("The disk has no room for 40 MB.")
    expect(studio.page.locator("#models-news")).to_contain_text("The disk has no room for 40 MB.")
    expect(studio.page.locator("#admin-form")).to_be_hidden()


def test_a_loaded_model_is_unloaded_and_removed_after_questions(browser: Browser, service: ScriptedService) -> None:
    is_now(service, installed=True)
    lists(service, "ready")
    service.answer("DELETE /v1/models/clara", accepted({"id": "clara", "deleted": True}))
    with studio_with(browser, service, view="models") as studio:
        press(studio, "Unload")
        assert service.asked_for("/v1/models/clara", "DELETE") == []
        lists(service, "unloading")
        press(studio, "Unload")
        expect(card(studio)).to_contain_text("Being unloaded…")
        lists(service, None)
        expect(card(studio)).to_contain_text("Added, not loaded")
        expect(studio.page.locator("[data-served=clara]")).to_have_count(0)
        press(studio, "Remove")
        assert service.asked_for("/v1/registry/clara", "DELETE") == []
        is_now(service)
        press(studio, "Remove")
        expect(card(studio)).to_contain_text("Not added")
        expect(studio.page.locator("#models-news")).to_have_text("clara is removed.")
        studio.check_quiet()


def test_the_keyboard_adds_a_model_and_keeps_its_place(studio: Studio, service: ScriptedService) -> None:
    is_now(service, addition=addition("fetching", 4_000_000))
    add = studio.page.get_by_role("button", name="Add clara")
    add.focus()
    studio.page.keyboard.press("Enter")
    expect(card(studio)).to_contain_text("Being fetched")
    assert studio.value("document.activeElement.closest('[data-model]')?.dataset.model") == "clara"
    studio.page.keyboard.press("Tab")
    expect(studio.page.get_by_role("button", name="Cancel clara")).to_be_focused()


def test_the_service_is_asked_only_while_the_view_is_shown(browser: Browser, service: ScriptedService) -> None:
    with context(browser) as profile:
        studio = tab_of(service, profile)
        studio.page.clock.install()
        studio.page.goto(f"{service.url}/#models")
        studio.state("models-shown", "4")
        studio.page.click(".views a[href='#speak']")
        expect(studio.page.locator("#view-models")).to_be_hidden()
        asked = len(service.asked_for("/v1/registry", "GET"))
        studio.page.clock.run_for(30_000)
        studio.value("fetch('/readyz').then(() => true)")
        assert len(service.asked_for("/v1/registry", "GET")) == asked


@pytest.fixture(scope="module")
def modules(browsers: Browsers) -> Iterator[Studio]:
    with scripted_service() as service, context(browsers.get()) as profile:
        yield studio_of(service, profile)


def called(studio: Studio, module: str, function: str) -> Any:
    return studio.value(f"import('/page/models/{module}').then({function})")


def test_the_rate_of_a_download_is_smooth_and_begins_anew(modules: Studio) -> None:
    function = """({ Rates }) => {
      const rates = new Rates();
      return [[0, 0], [100, 1], [300, 2], [300, 2], [50, 3]].map(([bytes, at]) => rates.note('a', bytes, at));
    }"""
    assert called(modules, "rates.js", function) == pytest.approx([0, 100, 140, 140, 0])


def test_sizes_and_languages_in_words(modules: Studio) -> None:
    function = """({ languagesInWords, progressInWords, sizeInWords }) => [
      sizeInWords(null), sizeInWords(1234567), sizeInWords(484e6), sizeInWords(3.2e9),
      progressInWords({ received_bytes: 10e6, total_bytes: 40e6 }, 1e6), progressInWords({ received_bytes: 10e6, total_bytes: null }, 0),
      languagesInWords([]), languagesInWords(['many']), languagesInWords(['en', 'de', 'fr', 'it', 'es', 'pt', 'ja']), languagesInWords(['no such']),
    ]"""
    assert called(modules, "words.js", function) == [
        "not known", "1.2 MB", "484 MB", "3.20 GB", "10 MB of 40 MB, 1.0 MB/s, 30 s left", "10 MB",
        "any", "many", "English, German, French, Italian, Spanish and 2 more", "no such",
    ]  # fmt: skip


def test_a_gateway_that_has_not_heard_of_a_loading_model_is_waited_for(modules: Studio) -> None:
    function = """({ ModelsThatLoad }) => {
      const loading = new ModelsThatLoad();
      loading.add('a', 100);
      const told = [['installed', 0], ['load-failed', 50], ['loading', 100], ['load-failed', 100], ['load-failed', 100]];
      return told.map(([phase, since]) => loading.outcome({ id: 'a', phase, since }));
    }"""
    assert called(modules, "errands.js", function) == ["loading", "loading", "loading", "failed", "none"]
