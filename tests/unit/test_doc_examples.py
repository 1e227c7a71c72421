"""The examples of the documentation can be read by what reads them: Python, the configuration, the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from cluster.models import Model
from serve_app.bench.catalogue import BENCHMARKS
from serve_app.cli.command_group import COMMANDS, command_of
from serve_app.config import AppArguments
from serve_app.config_file import HttpAddress
from serve_app.edge.settings import KeySettings
from serve_app.planning import plan_file
from serve_app.planning.settings import PlanSettings
from tests.documentation import PAGES, ROOT, Example, commands_of, examples, examples_of, inline_commands
from tests.manifests import rendered

DIGEST = "b1946ac92492d2347c6235b4d2611184b1946ac92492d2347c6235b4d2611184"
LEFT_OUT = {'"..."': DIGEST, "[...]": f"[{DIGEST}]", "{...}": "{}", "engine: morse": "engine: identity"}
"""What a page leaves out, and what stands there; and an engine that a page asks its reader to write."""
A_MODEL = {"engine": "sopro", "source": "path:/models/sopro"}
ANY_WORD = re.compile(r"[A-Z][A-Z_]*|\.\.\.")
"""A word that stands for one of the reader's own, such as NAME."""
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SHELLS = ("sh", "bash")
FILES = re.compile(r"(?:cluster/launch|docs|tests|serve_app)/[\w./-]+")


@pytest.mark.parametrize("example", examples("python"), ids=str)
def test_python_is_valid(example: Example) -> None:
    """Some are entries of a dictionary."""
    ast.parse(f"{{{example.text}}}" if re.match(r'"\w', example.text) else example.text)


# YAML


def kind_of(document: dict[str, Any]) -> tuple[type[BaseModel], Any]:
    """What reads a piece of YAML, and its whole input."""
    keys = set(document)
    if "applications" in keys:
        (application,) = document["applications"]
        assert keys <= {"applications", "http_options"}
        HttpAddress.model_validate(document.get("http_options", {}))
        return AppArguments, application["args"]
    if keys <= set(AppArguments.model_fields):
        return AppArguments, document
    if keys <= set(Model.model_fields):
        return Model, {**A_MODEL, **document}
    ((_, key),) = document.items()
    return KeySettings, key


@pytest.mark.parametrize("example", examples("yaml"), ids=str)
def test_yaml_is_a_valid_configuration(example: Example) -> None:
    text = example.text
    for sign, whole in LEFT_OUT.items():
        text = text.replace(sign, whole)
    document = yaml.safe_load(text)
    if "traffic" in document and set(document) <= set(PlanSettings.model_fields):
        assert plan_file.parsed(text, str(example)).traffic
    elif "classes" in document:
        assert rendered(document), "values of the Helm chart"
    else:
        model, whole = kind_of(document)
        model.model_validate(whole)


# The command line


def choices_of(parameter: Any) -> tuple[str, ...]:
    """The values that an option accepts, if they are a fixed list."""
    annotation = parameter.type_descriptor.annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def mistake_in(words: list[str]) -> str:
    """What is wrong with a call of `motet`; empty if nothing is. Values of options are checked where they are choices."""
    if len(words) == 1 or words[1] in ("--help", "--version"):
        return ""
    name, *rest = words[1:]
    if name not in COMMANDS:
        return f"There is no command {name!r}."
    command = command_of(name)
    context = command.context_class(command, info_name=name)
    try:
        values, unexpected, _ = command.make_parser(context).parse_args(list(rest))
    except Exception as error:  # of a sentence about an option, such as `motet say -o`
        return mistake_in([*words, "VALUE"]) if words[-1].startswith("-") else f"{type(error).__name__}: {error}"
    if unexpected:
        return f"Too many words: {unexpected}"
    choices = {each.name: choices_of(each) for each in command.params}
    for option, value in values.items():
        known = choices.get(option, ())
        if known and isinstance(value, str) and value not in known and not ANY_WORD.fullmatch(value):
            return f"{option} is none of {known}: {value!r}"
    if name == "bench" and isinstance(bench := values.get("name"), str) and not ANY_WORD.fullmatch(bench):
        return "" if bench in BENCHMARKS else f"There is no benchmark {bench!r}."
    return ""


def calls_in(page: Path) -> Iterator[list[str]]:
    """Every call of `motet` on a page."""
    blocks = [each.text for each in examples_of(page) if each.language in SHELLS]
    commands = [command for text in blocks for command in commands_of(text)]
    yield from (words for words in [*commands, *inline_commands(page)] if words[0] == "motet")


CALLS = {page: list(calls_in(page)) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page: Path) -> None:
    wrong = {" ".join(words): mistake for words in CALLS[page] if (mistake := mistake_in(words))}
    assert wrong == {}


def test_enough_commands_are_read() -> None:
    """A wrong pattern would make the test above pass."""
    calls = [words for page in CALLS.values() for words in page]
    assert len(calls) > 100
    assert {"say", "transcribe", "bulk", "serve", "join", "bench"} <= {words[1] for words in calls if len(words) > 1}


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (["motet", "sing"], "no command 'sing'"),
        (["motet", "say", "Hello.", "--volume", "3"], "--volume"),
        (["motet", "say", "Hello.", "there"], "Too many words"),
        (["motet", "join", "--hardware", "tpu"], "none of"),
        (["motet", "bench", "everything"], "no benchmark"),
        (["motet", "say", "Hello.", "-o", "hello.wav"], ""),
        (["motet", "bench", "NAME"], ""),
    ],
)
def test_mistakes_in_commands_are_found(words: list[str], mistake: str) -> None:
    assert mistake in mistake_in(words)
    assert bool(mistake) == bool(mistake_in(words))


@pytest.mark.parametrize("example", examples(*SHELLS), ids=str)
def test_files_of_the_source_that_a_command_names_exist(example: Example) -> None:
    named = [word for words in commands_of(example.text) for word in words if FILES.fullmatch(word)]
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("example", examples(*SHELLS), ids=str)
def test_targets_of_make_exist(example: Example) -> None:
    named = {words[1] for words in commands_of(example.text) if words[0] == "make"}
    assert named <= TARGETS
