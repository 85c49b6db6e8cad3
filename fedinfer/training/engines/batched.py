"""Many devices in one batched step: the same numbers as `device_by_device`, without a loop over devices.

Rules:
* Row plans and noise come from each device's own source in the same order as there.
* Devices are worked through in chunks whose weights and activations fit the cache; the result does not depend on it.
* Devices with like amounts of work share a chunk, those with like batches a step (`alike`); a padded row has error
  zero.
* Callers hold torch.no_grad().
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedinfer.config import TrainingSection
from fedinfer.training.engines import by_rows
from fedinfer.training.engines.alike import Alike, groups, laid_out, padded_width, slice_of
from fedinfer.training.engines.batched_layers import Tap, Views
from fedinfer.training.engines.chunks import chunks
from fedinfer.training.engines.compile import Program, taps, views_of
from fedinfer.training.engines.device_by_device import Features
from fedinfer.training.engines.joined import Joined, Pair, joined
from fedinfer.training.engines.mapped import Mapped
from fedinfer.training.engines.noise import gaussian_noise, grid_unit
from fedinfer.training.engines.sampling import (
    PrivateSteps,
    RandomSource,
    Rows,
    batch_lengths,
    pieces,
    poisson_rows,
    row_orders,
)
from fedinfer.types import FloatVector, WideVector

_CHUNK_NUMBERS = 6_000_000
"""Numbers (float32) of weights and activations that one chunk may hold (24 MB): it stays in the last cache, and fewer,
larger steps suffer least from other work on the machine."""
_BY_ROWS_NUMBERS = 1_500_000
"""The same of devices that work by rows (6 MB): they write little but their updates, and stay in the faster caches."""
_GPU_NUMBERS = 1 << 28
"""The same on a GPU (1 GB), where few large steps are faster than many that fit a cache."""
_ALL = slice(None)


def updates(
    program: Program | Mapped,
    start: FloatVector,
    data: Features,
    sources: Sequence[RandomSource],
    training: TrainingSection,
) -> FloatVector:
    """As `device_by_device.updates`, many devices in one batched step.

    Args:
        program: the network.
        start: (d,) float32, the same for all devices.
        data: prepared rows and labels per device; a device may have none.
        sources: one source of randomness per device.
        training: local work: epochs or steps, batch size, learning rate, momentum, FedProx.

    Returns:
        New minus old weights, (devices, d) float32; zeros for a device without rows.
    """
    rows = joined(data).to(program.device)
    work, begins = _work(program, rows, sources, training), rows.offsets
    result = np.empty((len(rows.counts), program.dimension), dtype=np.float32)
    result[[row for row, count in enumerate(rows.counts) if not count]] = 0.0
    if isinstance(program, Program):
        for layout, devices in work.alike.items():
            _descend_by_rows(program, start, rows, work, layout, devices, training, result)
    plans = {row: pieces(work.orders[row], work.lengths[row]) for row in work.others}
    widths = [max(own, default=0) for own in work.lengths]
    order = sorted(work.others, key=lambda row: (-len(plans[row]), -widths[row]))
    for chunk in chunks(order, widths, program, _chunk_numbers(rows.x.device)):
        offsets = [begins[row] for row in chunk]
        weights = _descend(program, start, rows, offsets, [plans[row] for row in chunk], training)
        result[slice_of(chunk)] = weights.sub_(_on(rows, start)).cpu().numpy()
    return result


Layout = tuple[tuple[int, ...], bool]
"""Rows of each step of a device, and whether some of them are padding."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What the devices of a cohort have to do.

    Args:
        orders: per device the rows that its steps use, one step behind the other.
        lengths: per device the rows of each step.
        alike: devices whose first layer is written out for nobody, by their work.
        others: devices that get weights of their own.
    """

    orders: list[Rows]
    lengths: list[tuple[int, ...]]
    alike: dict[Layout, list[int]]
    others: list[int]


def _work(program: Program | Mapped, rows: Joined, sources: Sequence[RandomSource], training: TrainingSection) -> _Work:
    """Devices with equally many rows are planned together: a plan follows from that number and the device's source."""
    empty = np.empty(0, dtype=np.int64)
    work = _Work([empty] * len(rows.counts), [()] * len(rows.counts), {}, [])
    same: dict[int, list[int]] = {}
    for row, count in enumerate(rows.counts):
        same.setdefault(count, []).append(row)
    for count, devices in same.items():
        lengths = batch_lengths(count, training)
        widths = tuple(padded_width(length, training.batch_size) for length in lengths)
        for row, order in zip(devices, row_orders([sources[row] for row in devices], count, training), strict=True):
            work.orders[row], work.lengths[row] = order, lengths
        if lengths and by_rows.suits(program, sum(widths), training):
            work.alike.setdefault((widths, sum(widths) > sum(lengths)), []).extend(devices)
        elif lengths:
            work.others.extend(devices)
    return work


def _descend_by_rows(
    program: Program,
    start: FloatVector,
    rows: Joined,
    work: _Work,
    layout: Layout,
    devices: list[int],
    training: TrainingSection,
    result: FloatVector,
) -> None:
    """Write the updates of devices with equal work to their rows of the result, (devices, d)."""
    (widths, _), begins, first = layout, rows.offsets, _on(rows, start)
    most = _BY_ROWS_NUMBERS if first.device.type == "cpu" else _GPU_NUMBERS
    step = max(1, most // by_rows.numbers(program, sum(widths)))
    for begin in range(0, len(devices), step):
        chunk = devices[begin : begin + step]
        own = [work.orders[row] for row in chunk]
        at, share = laid_out(own, [begins[row] for row in chunk], [work.lengths[row] for row in chunk], widths)
        share, place = None if share is None else share.to(first.device), slice_of(chunk)
        straight = isinstance(place, slice) and first.device.type == "cpu"  # a copy would leave the cache and come back
        into = torch.from_numpy(result[place]) if straight else first.new_empty(len(chunk), len(first))
        by_rows.descend(program, first, rows, at.to(first.device), share, widths, training.learning_rate, into)
        if not straight:
            result[place] = into.cpu().numpy()


def private_updates(
    program: Program,
    start: FloatVector,
    data: Features,
    sources: Sequence[RandomSource],
    training: TrainingSection,
    private: PrivateSteps,
) -> FloatVector:
    """As `device_by_device.private_updates`, many devices in one batched step (DP-SGD, Abadi et al. 2016, Algorithm 1).

    Args:
        program: the network.
        start: (d,) float32, the same for all devices.
        data: prepared rows and labels per device.
        sources: one source of randomness per device, for samples and noise.
        training: learning rate, momentum, FedProx.
        private: steps, Poisson rate, clipping norm, noise multiplier.

    Returns:
        New minus old weights, (devices, d) float32; not finite where a gradient overflowed.
    """
    rows = joined(data).to(program.device)
    result = np.zeros((len(rows.counts), program.dimension), dtype=np.float32)
    widths = [math.ceil(private.rate * count) for count in rows.counts]  # expected sizes of the samples
    order = sorted(range(len(widths)), key=lambda row: -widths[row])
    for chunk in chunks(order, widths, program, _chunk_numbers(rows.x.device)):
        weights = _descend_privately(program, start, rows, chunk, [sources[row] for row in chunk], training, private)
        result[slice_of(chunk)] = weights.sub_(_on(rows, start)).cpu().numpy()
    return result


def gradient_sums(
    program: Program,
    start: FloatVector,
    data: Features,
    sources: Sequence[RandomSource],
    rate: float,
    clipping_norm: float,
) -> WideVector:
    """Sum of the clipped gradients of Poisson-sampled rows, per device.

    All devices share the weights, so rows of different devices go through one model side by side.

    Args:
        program: the network.
        start: (d,) float32.
        data: prepared rows and labels per device.
        sources: one source of randomness per device, for the samples.
        rate: probability of each row, in (0, 1].
        clipping_norm: L2 bound C > 0 on one example's gradient.

    Returns:
        (devices, d) float64; not finite where a gradient overflowed, so the caller has to check.
    """
    rows = joined(data).to(program.device)
    picks = [poisson_rows(source, count, rate) for count, source in zip(rows.counts, sources, strict=True)]
    total = rows.x.new_zeros(len(picks), program.dimension)
    if not any(len(pick) for pick in picks):
        return _wide(total)
    chosen = _on(rows, np.concatenate([pick + at for pick, at in zip(picks, rows.offsets, strict=True)]))
    x, y = rows.picked(chosen)
    bounds = np.cumsum([0, *(len(pick) for pick in picks)])
    weights = views_of(program, _on(rows, start).unsqueeze(0))
    step = max(1, _chunk_numbers(rows.x.device) // program.numbers_per_example)
    for at in range(0, len(y), step):
        piece = slice(at, min(at + step, len(y)))
        found = taps(program, weights, x[piece].unsqueeze(0), y[piece].unsqueeze(0), None)
        factor = _clip_factor(found, clipping_norm)
        for device in range(_owner(bounds, piece.start), _owner(bounds, piece.stop - 1) + 1):
            own = slice(max(int(bounds[device]) - at, 0), min(int(bounds[device + 1]), piece.stop) - at)
            if own.start < own.stop:
                _accumulate(found, views_of(program, total[device : device + 1]), factor, own, 1.0)
    return _wide(total)


def _owner(bounds: np.ndarray, row: int) -> int:
    """The device that holds a row of the concatenation."""
    return int(np.searchsorted(bounds, row, side="right")) - 1


def _descend(
    program: Program | Mapped,
    start: FloatVector,
    rows: Joined,
    offsets: list[int],
    plans: list[list[Rows]],
    training: TrainingSection,
) -> Tensor:
    """SGD of one chunk; plans are sorted by length, so the devices still at work are the first ones."""
    weights, anchor = _copies(rows, start, len(plans))
    velocity = _velocity(weights, training)
    for step in range(len(plans[0])):
        picks = [plan[step] for plan in plans if len(plan) > step]
        for group in groups(picks, offsets, training.batch_size):
            own = group.devices
            now, speed = weights[own], velocity[own]
            _step(program, group.to(rows.x.device), rows, now, anchor, speed, training)
            if isinstance(own, list):  # those were copies
                velocity[own] = speed
                weights[own] = now
    return weights


def _step(
    program: Program | Mapped,
    group: Alike,
    rows: Joined,
    weights: Tensor,
    anchor: Tensor,
    velocity: Tensor,
    training: TrainingSection,
) -> None:
    """One SGD step of devices whose batches are alike; changes weights and velocity."""
    (x, y), share = rows.picked(group.at), group.share
    if isinstance(program, Mapped):
        _move(weights, program.gradients(weights, x, y, share), anchor, velocity, training)
        return
    views = views_of(program, weights)
    found = taps(program, views, x, y, share)
    scale = 1.0 if share is not None else 1.0 / y.shape[1]
    if not training.momentum and not training.proximal:  # the products go straight into the weights
        _accumulate(found, views, None, _ALL, -training.learning_rate * scale)
        return
    gradient = torch.zeros_like(weights)
    _accumulate(found, views_of(program, gradient), None, _ALL, scale)
    _move(weights, gradient, anchor, velocity, training)


def _move(weights: Tensor, gradient: Tensor, anchor: Tensor, velocity: Tensor, training: TrainingSection) -> None:
    """Pull towards the start (FedProx, Li et al. 2020, eq. 2), momentum, descent; changes weights and velocity."""
    if training.proximal:
        gradient.add_(weights - anchor, alpha=training.proximal)
    if training.momentum:
        gradient = velocity.mul_(training.momentum).add_(gradient)
    weights.sub_(gradient, alpha=training.learning_rate)


def _descend_privately(
    program: Program,
    start: FloatVector,
    rows: Joined,
    chunk: list[int],
    sources: Sequence[RandomSource],
    training: TrainingSection,
    private: PrivateSteps,
) -> Tensor:
    weights, anchor = _copies(rows, start, len(chunk))
    velocity, straight = _velocity(weights, training), not training.momentum and not training.proximal
    begins = rows.offsets
    counts, offsets = [rows.counts[row] for row in chunk], [begins[row] for row in chunk]
    expected = torch.tensor([max(1.0, private.rate * count) for count in counts], device=weights.device).unsqueeze(1)
    deviation = private.noise_multiplier * private.clipping_norm
    noises = [gaussian_noise(source, grid_unit(private.clipping_norm), weights.device) for source in sources]
    lengths = (-training.learning_rate / expected).squeeze(1).tolist()
    drawn, place = torch.empty_like(anchor[0]), rows.x.device
    alike: list[tuple[Alike, Pair]] = []
    for step in range(private.steps):
        picks = [poisson_rows(source, count, private.rate) for source, count in zip(sources, counts, strict=True)]
        if private.rate < 1 or not step:  # without sampling every step has the same rows
            alike = [(own, rows.picked(own.at)) for own in (group.to(place) for group in groups(picks, offsets, 0))]
        # Without momentum a step is a sum of clipped gradients and noise, each of which goes straight into the weights.
        into, scale = (weights, -training.learning_rate / expected) if straight else (torch.zeros_like(weights), None)
        for group, pair in alike:
            _add_clipped(program, group, pair, weights, into, scale, private.clipping_norm)
        for row, noise in enumerate(noises):
            noise(drawn, deviation)
            into[row].add_(drawn, alpha=lengths[row] if straight else 1.0)
        if not straight:
            _move(weights, into.div_(expected), anchor, velocity, training)
    return weights


def _velocity(weights: Tensor, training: TrainingSection) -> Tensor:
    """Where momentum is kept; without momentum nothing is, and the weights stand for it."""
    return torch.zeros_like(weights) if training.momentum else weights


def _add_clipped(
    program: Program,
    group: Alike,
    pair: Pair,
    weights: Tensor,
    into: Tensor,
    scale: Tensor | None,
    clipping_norm: float,
) -> None:
    """Add the clipped gradients of devices whose samples are alike to their rows of `into`, times `scale` (devices, 1).

    A device is in one group of a step, so `into` may be the weights themselves: gradients are known before they move.
    """
    own = group.devices
    found = taps(program, views_of(program, weights[own]), *pair, group.present)
    factor = _clip_factor(found, clipping_norm)
    total = into[own]
    _accumulate(found, views_of(program, total), factor if scale is None else factor * scale[own], _ALL, 1.0)
    if isinstance(own, list):  # that was a copy
        into[own] = total


def _accumulate(found: list[Tap | None], views: list[Views], factor: Tensor | None, rows: slice, scale: float) -> None:
    for tap, own in zip(found, views, strict=True):
        if tap is not None:
            tap.accumulate(own, factor, rows, scale)


def _clip_factor(found: list[Tap | None], clipping_norm: float) -> Tensor:
    """min(1, C / (norm + 1e-6)) per example, (G, B): Opacus' factor."""
    squared = torch.stack([tap.squared() for tap in found if tap is not None]).sum(0)
    return (clipping_norm / (squared.sqrt() + 1e-6)).clamp(max=1.0)


def _chunk_numbers(device: torch.device) -> int:
    return _CHUNK_NUMBERS if device.type == "cpu" else _GPU_NUMBERS


def _on(rows: Joined, array: np.ndarray) -> Tensor:
    """An array as a tensor where the rows are; a copy."""
    return torch.from_numpy(np.array(array)).to(rows.x.device)


def _copies(rows: Joined, start: FloatVector, devices: int) -> tuple[Tensor, Tensor]:
    """The start weights once per device, and once as they are."""
    anchor = _on(rows, start).unsqueeze(0)
    return anchor.repeat(devices, 1), anchor


def _wide(total: Tensor) -> WideVector:
    array: WideVector = total.double().cpu().numpy()
    return array
