"""The list of loaded models in the key-value store of Ray's GCS, over a stand-in for that."""

from __future__ import annotations

import pytest

from cluster import ray_private
from cluster.models import Model
from serve_app.loading.actor import KeyValueStore
from serve_app.loading.records import ModelLoad

ONE = ModelLoad(id="one", model=Model(engine="identity"), since=1.0)


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    values: dict[str, bytes] = {}
    monkeypatch.setattr(ray_private, "store_value", lambda space, key, value: values.update({key: value}))
    monkeypatch.setattr(
        ray_private,
        "stored_values",
        lambda space, prefix: {key: value for key, value in values.items() if key.startswith(prefix)},
    )
    monkeypatch.setattr(ray_private, "remove_value", lambda space, key: values.pop(key))
    return values


def test_each_service_has_its_own_list(stored: dict[str, bytes]) -> None:
    KeyValueStore("motet").save(ONE)
    assert KeyValueStore("motet").all() == [ONE] and KeyValueStore("other").all() == []
    KeyValueStore("other").clear()
    KeyValueStore("motet").remove("one")
    assert stored == {}


def test_what_another_version_wrote_stops_nothing_and_is_cleared(stored: dict[str, bytes]) -> None:
    store = KeyValueStore("motet")
    store.save(ONE)
    (key,) = stored
    stored[key.replace("one", "two")] = stored[key].replace(b"identity", b"an engine of the future")
    stored[key.replace("one", "three")] = b"{"
    assert store.all() == [ONE]
    store.clear()
    assert stored == {}
