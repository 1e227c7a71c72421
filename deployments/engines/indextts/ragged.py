"""Runs rows of different lengths through networks that were made for one row. Before each layer that looks across positions,
the values after a row's end are set to what the layer sees there when the row is alone. So a batch gives each row exactly its
own result.

Layers pad in three ways: with zeros, with the last value, or with the values before it mirrored. Nothing else reads the
values after an end, so they are overwritten in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

MARGIN = 8
"""Positions after the longest row, so that the border of a layer does not reach a row that is slightly shorter."""

Fill = Callable[[Tensor, int], None]
"""Overwrites the positions from `end` on of (channels, positions)."""


def zeros(row: Tensor, end: int) -> None:
    """Zero padding."""
    row[:, end:] = 0


def last(row: Tensor, end: int) -> None:
    """Repeats the last value."""
    row[:, end:] = row[:, end - 1 : end]


def mirrored(row: Tensor, end: int) -> None:
    """Mirrors the values before the last."""
    count = min(row.shape[1] - end, end - 1, MARGIN)
    row[:, end : end + count] = row[:, end - 1 - count : end - 1].flip(-1)


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows (n_i, ...) as one (batch, longest, ...) tensor, with a margin after the longest if they have different lengths."""
    batch = pad_sequence(list(rows), batch_first=True)
    if len({len(row) for row in rows}) == 1:
        return batch
    return torch.cat([batch, batch.new_zeros(len(batch), MARGIN, *batch.shape[2:])], dim=1)


@contextmanager
def ragged(
    network: nn.Module,
    lengths: Sequence[int],
    fills: Mapping[type[nn.Module], Fill],
    attention: type[nn.Module] | None = None,
) -> Iterator[None]:
    """Inside, the network takes (batch, channels, positions) whose rows end at `lengths`; layers of an upsampling network may
    have several positions for each. `fills` gives the padding of each kind of layer; modules of the type `attention` get a
    `mask` and attend only to the rows."""
    if len(set(lengths)) == 1:
        yield
        return
    longest = max(lengths) + MARGIN
    with ExitStack() as hooks:
        for layer in network.modules():
            if type(layer) in fills:
                hook = layer.register_forward_pre_hook(_filling(fills[type(layer)], lengths, longest))
                hooks.callback(hook.remove)
            elif type(layer) is attention:
                hook = layer.register_forward_pre_hook(_masking(lengths, longest), with_kwargs=True)
                hooks.callback(hook.remove)
        yield


def _filling(fill: Fill, lengths: Sequence[int], longest: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        places = inputs[0].shape[-1]
        if places < longest:
            return  # what all places share, such as the time
        for row, length in zip(inputs[0], lengths, strict=True):
            fill(row, length * (places // longest))

    return before


def _masking(lengths: Sequence[int], longest: int) -> Callable[..., tuple[Any, dict[str, Any]]]:
    mask = (torch.arange(longest)[None, :] < torch.tensor(list(lengths))[:, None])[:, None, None, :]

    def before(_: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return inputs, {**keywords, "mask": mask}

    return before
