"""The shapes for random weights are those of the models' own packages."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from safetensors import safe_open

from deployments.text.sample_sentences import SENTENCES
from tests.load import voices_vibevoice, voices_vibevoice_realtime
from tests.load.shapes import FOLDER, Shapes, collapse, expand, in_text, read
from tests.load.sopro_package import write_random_model
from tests.unit.vibevoice_realtime_models import CONFIG


def shapes_of_vibevoice() -> dict[str, Shapes]:
    plans = {"quick": voices_vibevoice.QUICK, "full": voices_vibevoice.FULL}
    return {name: voices_vibevoice.package_shapes(voices_vibevoice.sizes(plan)) for name, plan in plans.items()}


def shapes_of_sopro() -> dict[str, Shapes]:
    shapes: dict[str, Shapes] = {}
    with tempfile.TemporaryDirectory() as name:
        write_random_model(Path(name), {}, SENTENCES)
        for file in sorted(Path(name).glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                names = tensors.keys()
                shapes[file.stem] = {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    return shapes


def shapes_of_vibevoice_realtime() -> dict[str, Shapes]:
    pytest.importorskip("mlx_audio")
    bench = voices_vibevoice_realtime
    configs = {"tiny": CONFIG, "quick": bench.sizes(bench.QUICK), "full": bench.sizes(bench.FULL)}
    return {name: bench.package_shapes(config) for name, config in configs.items()}


PUBLISHED = {
    "vibevoice": shapes_of_vibevoice,
    "vibevoice_realtime": shapes_of_vibevoice_realtime,
    "sopro": shapes_of_sopro,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_files_are_those_of_the_packages(name: str) -> None:
    assert read(name) == PUBLISHED[name]()


def test_layers_that_are_alike_stand_once() -> None:
    shapes: Shapes = {"a.0.w": (2, 3), "a.1.w": (2, 3), "a.2.w": (4,), "b.1.w": (1,), "c.0.d.0": (5,), "c.1.d.0": (5,)}
    collapsed = {"a.[2].w": [2, 3], "a.2.w": [4], "b.1.w": [1], "c.[2].d.0": [5]}
    assert collapse(shapes) == collapsed
    assert expand(collapsed) == shapes


if __name__ == "__main__":
    for name, published in PUBLISHED.items():
        (FOLDER / f"{name}.json").write_text(in_text(published()), encoding="utf-8")
