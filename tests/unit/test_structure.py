"""The measurements of tests/structure.py on small source trees."""

from __future__ import annotations

from tests.structure import (
    Module,
    ambiguous_classes,
    cycles_of,
    drivers_of,
    functions_of,
    import_graph,
    longest_chain,
    settings_defined_twice,
)


def test_chains_follow_imports_at_any_place() -> None:
    modules = [
        Module("serve_app/__init__.py", ""),
        Module("serve_app/a.py", "from serve_app import b\n"),
        Module("serve_app/b.py", "def f():\n    import serve_app.c\n"),
        Module("serve_app/c.py", "from cluster.d import name\n"),
        Module("cluster/d.py", "name = 1\n"),
    ]
    graph = import_graph(modules)
    assert longest_chain(graph, "serve_app") == ["serve_app.a", "serve_app.b", "serve_app.c"]
    assert graph["serve_app.c"] == {"cluster.d"}
    at_import_time = import_graph(modules, at_import_time_only=True)
    assert longest_chain(at_import_time, "serve_app") == ["serve_app.a", "serve_app.b"]


def test_imports_for_types_count_only_among_all_imports() -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import serve_app.b\n"
    modules = [Module("serve_app/a.py", text), Module("serve_app/b.py", "import serve_app.a\n")]
    assert cycles_of(import_graph(modules)) == [["serve_app.a", "serve_app.b"]]
    assert cycles_of(import_graph(modules, at_import_time_only=True)) == []


def test_a_cycle_is_one_level() -> None:
    modules = [
        Module("serve_app/a.py", "import serve_app.b\n"),
        Module("serve_app/b.py", "import serve_app.a\nimport serve_app.c\n"),
        Module("serve_app/c.py", ""),
    ]
    assert len(longest_chain(import_graph(modules), "serve_app")) == 2


def test_functions_and_class_names_are_counted_wherever_they_are() -> None:
    text = "class A:\n    def f(self):\n        def g():\n            return 1\n        return g\n"
    modules = [Module("cluster/a.py", text), Module("cluster/b.py", "class A: ...\nclass B: ...\n")]
    assert [(each.where, each.lines) for each in functions_of(modules)] == [
        ("cluster/a.py:f", 4),
        ("cluster/a.py:g", 2),
    ]
    assert ambiguous_classes(modules) == {"A": ["cluster/a.py", "cluster/b.py"]}


def test_settings_that_another_class_repeats_are_found() -> None:
    config = "class AppConfig:\n    queue: Queue = Queue()\nclass Queue(QueueSettings):\n    limit: int = 1\n    wait_s: float = 2\n"
    base = "class QueueSettings:\n    limit: int\n    wait_s: float\nclass Other:\n    limit: int\n"
    modules = [Module("serve_app/config.py", config), Module("serve_app/queue.py", base)]
    assert settings_defined_twice(modules) == {"serve_app/config.py:Queue": ["limit", "wait_s"]}
    assert settings_defined_twice(modules[:1]) == {}


def test_each_place_that_cuts_or_joins_is_a_driver() -> None:
    driver = "from deployments.audio.stretch import Stretcher\ndef speak():\n    return Stretcher(1)\n"
    helper = "def windows_of():\n    return WindowCutter()\ndef transcribe():\n    return windows_of()\n"
    modules = [Module("deployments/tasks/speech.py", driver), Module("deployments/tasks/transcription.py", helper)]
    assert drivers_of(modules) == {
        "speech": ["deployments/tasks/speech.py:speak"],
        "transcription": ["deployments/tasks/transcription.py:transcribe"],
        "separation": [],
    }
