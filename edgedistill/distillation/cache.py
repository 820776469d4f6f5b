"""The teacher's answers on disk: it runs once for every distinct view of a sample.

    index.json   the signals, their files and formats, samples, views
    0.npy ...    one array a signal, (views, samples, ...), memory-mapped

What a cache was made of (teacher, data, augmentation, seed, signals) is the key of the stage that holds it, and the
stage's list of digests tells a damaged file before it is read. So a cache can be neither stale nor wrong.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from edgedistill.data.augment import augment, distinct_views
from edgedistill.errors import StorageError
from edgedistill.models.signals import Signal, Signals

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jaxtyping import Float

    from edgedistill.distillation.training.trainer import Answers
    from edgedistill.events import Events
    from edgedistill.recipe.document import Cache, Train
    from edgedistill.types import Array, Json

_MARGIN_BYTES = 64 * 2**20
"""Left free beside a cache, for what the training itself writes."""


@dataclass(frozen=True)
class Plan:
    """What a cache would hold, and whether it is worth it."""

    use: bool
    reason: str
    views: int
    size_bytes: int


def plan(
    settings: Cache, train: Train, passes: int, shapes: Mapping[Signal, tuple[int, ...]], samples: int, folder: Path
) -> Plan:
    """Decide about a cache, with the reason in words.

    Args:
        settings: the recipe's.
        train: the training that will read it: its augmentation's views.
        passes: passes over the data that all trainings together will make.
        shapes: of one sample's signals.
        samples: in the training set.
        folder: on the disk that would hold it.

    Raises:
        StorageError: it is demanded and does not fit.
    """
    views = distinct_views(train.augment, train.epochs)
    size = samples * views * sum(_bytes_per_sample(signal, shape, settings) for signal, shape in shapes.items())
    told = f"{samples:,} samples x {views} views, {_readable(size)} as {settings.store}"
    if settings.mode == "never" or not shapes:
        return Plan(use=False, reason="no cache: cache.mode is never", views=views, size_bytes=size)
    free = shutil.disk_usage(folder).free - _MARGIN_BYTES
    limit = min(settings.max_gb * 1e9, free)
    fits = size <= limit
    bound = f"{_readable(free)} free on the disk" if free < settings.max_gb * 1e9 else f"max_gb {settings.max_gb:g}"
    if settings.mode == "always":
        if not fits:
            raise StorageError(
                f"the teacher's cache does not fit: {told}",
                where="distill.cache",
                expected=f"at most {_readable(limit)} ({bound})",
                got=_readable(size),
                fix="raise cache.max_gb or free space, store: fp16 or topk, fewer augment.views, or cache.mode: auto",
            )
        return Plan(use=True, reason=f"cache: demanded; {told}", views=views, size_bytes=size)
    if passes <= views:
        reason = f"no cache: {passes} passes show {views} distinct views, nothing would be met twice"
        return Plan(use=False, reason=reason, views=views, size_bytes=size)
    if not fits:
        return Plan(use=False, reason=f"no cache: {told} exceed {bound}", views=views, size_bytes=size)
    reason = f"cache: the teacher runs {views} times over the data instead of {passes}; {told}"
    return Plan(use=True, reason=reason, views=views, size_bytes=size)


def write_cache(
    folder: Path,
    teacher: Answers,
    shapes: Mapping[Signal, tuple[int, ...]],
    inputs: Float[Tensor, "n ..."],
    settings: Cache,
    train: Train,
    seed: int,
    events: Events,
) -> None:
    """Run the teacher once over every view of every sample, in batches of the training's size.

    Raises:
        StorageError: by the stage that calls, when the disk fills.
    """
    views, samples, size = distinct_views(train.augment, train.epochs), len(inputs), train.batch_size
    stores = [_Store(signal, shape, settings) for signal, shape in shapes.items()]
    arrays = {
        name: _new_array(folder / name, dtype, (views, samples, *shape))
        for number, store in enumerate(stores)
        for name, (dtype, shape) in store.files(number).items()
    }
    for view in range(views):
        for start in range(0, samples, size):
            rows = np.arange(start, min(start + size, samples))
            seen = augment(inputs[start : start + size], rows, view, train.augment, seed)
            answers = teacher(rows, view, seen)
            for number, store in enumerate(stores):
                for name, values in store.encoded(number, answers[store.signal]).items():
                    arrays[name][view, start : start + size] = values
            events.step("run the teacher", view * samples + int(rows[-1]) + 1, views * samples)
    del arrays  # writes what is still in memory
    _write_index(folder, stores, views, samples)


def _new_array(path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
    created: Array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)  # type: ignore[no-untyped-call]  # numpy leaves it so
    return created


def _write_index(folder: Path, stores: list[_Store], views: int, samples: int) -> None:
    document: Json = {"schema": "edgedistill.cache/1", "views": views, "samples": samples}
    document["signals"] = [
        {"signal": asdict(store.signal), "shape": list(store.shape), "format": store.format} for store in stores
    ]
    (folder / "index.json").write_text(json.dumps(document, indent=1), encoding="utf-8")


class CachedTeacher:
    """Looks the answers up. Only the rows of a batch are read from disk."""

    def __init__(self, folder: Path) -> None:
        document = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.views: int = document["views"]
        self.stores = [
            _Store.kept(Signal(**entry["signal"]), tuple(entry["shape"]), entry["format"])
            for entry in document["signals"]
        ]
        self.arrays: dict[str, Array] = {
            name: np.load(folder / name, mmap_mode="r", allow_pickle=False)
            for number, store in enumerate(self.stores)
            for name in store.files(number)
        }

    @property
    def signals(self) -> set[Signal]:
        """What was kept."""
        return {store.signal for store in self.stores}

    def __call__(self, rows: Array, view: int, _inputs: Tensor) -> Signals:
        """The signals of a view of some samples, float32."""
        return {
            store.signal: store.decoded(
                {name: self.arrays[name][view % self.views, rows] for name in store.files(number)}, number
            )
            for number, store in enumerate(self.stores)
        }


class _Store:
    """How one signal is kept: dense fp32 or fp16, or the largest logits with the mass of the rest."""

    def __init__(self, signal: Signal, shape: tuple[int, ...], settings: Cache) -> None:
        self.signal = signal
        self.shape = shape
        self.format = _format(signal, shape, settings)

    @classmethod
    def kept(cls, signal: Signal, shape: tuple[int, ...], kept_as: str) -> _Store:
        """As an index tells it."""
        made = cls.__new__(cls)
        made.signal, made.shape, made.format = signal, shape, kept_as
        return made

    def files(self, number: int) -> dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        """Type and shape of one sample, by file name."""
        if not self.format.startswith("top"):
            return {f"{number}.npy": (np.dtype(self.format), self.shape)}
        k = int(self.format[3:])
        index = np.dtype(np.uint16 if self.shape[0] <= 2**16 else np.uint32)
        return {
            f"{number}.values.npy": (np.dtype(np.float16), (k,)),
            f"{number}.classes.npy": (index, (k,)),
            f"{number}.rest.npy": (np.dtype(np.float32), ()),
        }

    def encoded(self, number: int, tensor: Tensor) -> dict[str, Array]:
        """The files' rows for a batch."""
        names = list(self.files(number))
        values = tensor.detach().cpu()
        if not self.format.startswith("top"):
            return {names[0]: values.numpy().astype(self.format)}
        log_probabilities = values.log_softmax(-1)
        top, classes = log_probabilities.topk(int(self.format[3:]), dim=-1)
        rest = torch.log1p(-top.exp().sum(-1).clamp(max=1.0)).clamp(min=_LEAST_LOG)
        return {names[0]: top.numpy().astype(np.float16), names[1]: classes.numpy(), names[2]: rest.numpy()}

    def decoded(self, rows: dict[str, Array], number: int) -> Tensor:
        """The signal of a batch, float32. Top-k: logits up to a constant, the rest's mass spread evenly."""
        names = list(self.files(number))
        if not self.format.startswith("top"):
            return torch.from_numpy(np.asarray(rows[names[0]], dtype=np.float32))
        others = self.shape[0] - int(self.format[3:])
        rest = torch.from_numpy(np.asarray(rows[names[2]])) - math.log(others)
        full = rest[:, None].expand(-1, self.shape[0]).clone()
        classes = torch.from_numpy(rows[names[1]].astype(np.int64))
        return full.scatter_(1, classes, torch.from_numpy(rows[names[0]].astype(np.float32)))


_LEAST_LOG = math.log(1e-12)
"""A rest that rounding ate is kept as this: its logarithm stays finite."""


def _format(signal: Signal, shape: tuple[int, ...], settings: Cache) -> str:
    if settings.store == "topk" and signal.layer is None and settings.top_k < shape[0]:
        return f"top{settings.top_k}"
    return "float32" if settings.store == "fp32" else "float16"


def _bytes_per_sample(signal: Signal, shape: tuple[int, ...], settings: Cache) -> int:
    files = _Store(signal, shape, settings).files(0).values()
    return sum(dtype.itemsize * math.prod(per_sample) for dtype, per_sample in files)


def _readable(size: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"
