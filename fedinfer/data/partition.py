"""Who holds which row: public rows out first, then devices, then each device's held-out rows.

All functions return row numbers, so that nothing is copied twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedinfer.config import PartitionSection
from fedinfer.data.table import Indices, Labels
from fedinfer.errors import DataError
from fedinfer.types import DeviceId

SHARDS_PER_DEVICE = 2


def stratified_take(y: Labels, count: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Choose `count` rows at random with the class mix of all rows (largest remainders).

    Args:
        y: classes, shape (n,).
        count: rows to choose, 0 to n.
        rng: the choice.

    Returns:
        Mask, shape (n,), True for chosen rows.
    """
    classes, class_of, sizes = np.unique(y, return_inverse=True, return_counts=True)
    exact = sizes * (count / max(len(y), 1))
    quota = np.floor(exact).astype(np.int64)
    tie_break = rng.random(len(classes))
    order = np.lexsort((tie_break, quota - exact))
    quota[order[: count - int(quota.sum())]] += 1
    chosen = np.zeros(len(y), dtype=np.bool_)
    for index in range(len(classes)):
        rows = np.flatnonzero(class_of == index)
        chosen[rng.permutation(rows)[: quota[index]]] = True
    return chosen


def split_held_out(y: Labels, fraction: float, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Split the rows of one device into training and held-out rows.

    Both get at least one row when there are two or more; a single row is for training.

    Args:
        y: classes of the device's rows, shape (n,), n >= 1.
        fraction: held out, in (0, 1).
        rng: the choice.

    Returns:
        (training, held-out) row numbers, each sorted.
    """
    count = min(max(round(fraction * len(y)), 1), len(y) - 1)
    held_out = stratified_take(y, count, rng)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def by_column(device: Sequence[DeviceId]) -> dict[DeviceId, Indices]:
    """Rows of each device as the table says, sorted by device.

    Args:
        device: who holds each row, n names.
    """
    names, device_of = np.unique(np.asarray(device, dtype=np.str_), return_inverse=True)
    order = np.argsort(device_of, kind="stable")
    pieces = np.split(order, np.cumsum(np.bincount(device_of))[:-1])
    return {str(name): rows for name, rows in zip(names, pieces, strict=True)}


def group_at_random(y: Labels, partition: PartitionSection, rng: np.random.Generator) -> dict[DeviceId, Indices]:
    """Split rows at random over devices `d000`, `d001`, ...; every device gets at least one.

    Args:
        y: classes, shape (n,).
        partition: number of devices and scheme.
        rng: the choice.

    Returns:
        Row numbers by device, sorted.

    Raises:
        DataError: fewer rows than devices.
    """
    count = partition.devices
    if len(y) < count:
        raise DataError(
            f"[data.partition] devices = {count}: empty device: {len(y)} rows cannot give every device one",
            hint="fewer devices, or a smaller [data] public_fraction",
        )
    schemes = {"iid": _deal_iid, "shards": _deal_shards, "dirichlet": _deal_dirichlet}
    pieces = schemes[partition.scheme](y, partition, rng)
    digits = max(3, len(str(count - 1)))
    return {f"d{number:0{digits}d}": np.sort(rows) for number, rows in enumerate(pieces)}


def _deal_iid(y: Labels, partition: PartitionSection, rng: np.random.Generator) -> list[Indices]:
    return list(np.array_split(rng.permutation(len(y)), partition.devices))


def _deal_shards(y: Labels, partition: PartitionSection, rng: np.random.Generator) -> list[Indices]:
    """Rows sorted by class, cut into two pieces per device (McMahan et al. 2017, section 3)."""
    shuffled = rng.permutation(len(y))
    by_class = shuffled[np.argsort(y[shuffled], kind="stable")]
    per_device = min(SHARDS_PER_DEVICE, len(y) // partition.devices)
    shards = np.array_split(by_class, per_device * partition.devices)
    order = rng.permutation(len(shards)).reshape(partition.devices, per_device)
    return [np.concatenate([shards[number] for number in numbers]) for numbers in order]


def _deal_dirichlet(y: Labels, partition: PartitionSection, rng: np.random.Generator) -> list[Indices]:
    """Devices of equal size, each with a class mix ~ Dirichlet(alpha * K * prior), K classes (after Hsu et al. 2019).

    For equally frequent classes this is the usual Dirichlet(alpha, ..., alpha). Rows are drawn without replacement: a
    class that has run out is left out of the mix of later devices, which go on by their mix over the other classes. So
    sizes differ by one row at most and no device is empty.
    """
    classes, class_of, left = np.unique(y, return_inverse=True, return_counts=True)
    stacks = [rng.permutation(np.flatnonzero(class_of == index)) for index in range(len(classes))]
    prior = left / len(y)
    pieces: list[Indices] = []
    for size in (len(rows) for rows in np.array_split(np.arange(len(y)), partition.devices)):
        mix = rng.dirichlet(np.maximum(partition.alpha * len(classes) * prior, 1e-6))
        taken = _draw_classes(mix, left, size, rng)
        pieces.append(np.concatenate([stacks[c][left[c] - taken[c] : left[c]] for c in range(len(classes))]))
        left = left - taken
    return pieces


def _draw_classes(mix: npt.NDArray[np.float64], left: Indices, size: int, rng: np.random.Generator) -> Indices:
    """How many rows of each class a device takes: draws from its mix, again for classes that ran out."""
    taken = np.zeros(len(left), dtype=np.int64)
    while taken.sum() < size:
        open_mix = np.where(left > taken, np.maximum(mix, 1e-12), 0.0)
        draw = rng.multinomial(size - int(taken.sum()), open_mix / open_mix.sum())
        taken = np.minimum(taken + draw, left)
    return taken
