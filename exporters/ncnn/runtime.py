"""ncnn (.param with .bin beside it), for the agent: stand-alone, Python 3.8, numpy and ncnn.

Read in float32 on the CPU; ncnn knows no batch, so each sample is one extractor. The exporter reads .param files by
this too.
"""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterable, List, Optional, Set, Tuple, cast

import numpy as np

if TYPE_CHECKING:
    from edgedistill.agent import Given, Session
    from edgedistill.contracts import Agent
    from edgedistill.types import Array, Json

    from .library import Ncnn, Network

RUNTIMES = {"ncnn": ("ncnn", "ncnn")}
Line = Tuple[str, List[str], List[str], Dict[str, str]]
"""A layer: type, blobs in, blobs out, parameters."""
_FLAGS = {
    # float32, but for the layers that the file holds in integers: those are computed in integers
    "use_int8_inference": True,
    "use_fp16_packed": False,
    "use_fp16_storage": False,
    "use_fp16_arithmetic": False,
    "use_bf16_packed": False,
    "use_bf16_storage": False,
    "use_vulkan_compute": False,
    "use_packing_layout": True,
    "use_winograd_convolution": True,
    "use_sgemm_convolution": True,
}
_SAME_VALUES = ("Split", "Reshape", "Squeeze", "ExpandDims", "Flatten", "Permute", "Crop", "Slice", "Noop")


def layers_of(path: str) -> List[Line]:
    """Layers of a .param file, in its order.

    Raises:
        ValueError: it is none, or cut off.
    """
    lines = [line.split() for line in Path(path).read_text(encoding="ascii").splitlines() if line.strip()]
    if not lines[2:] or lines[0] != ["7767517"] or len(lines) != 2 + int(lines[1][0]):
        raise ValueError("%s is no whole ncnn .param file" % path)
    layers = []
    for words in lines[2:]:
        below, above = int(words[2]), int(words[3])
        blobs, settings = words[4 : 4 + below + above], words[4 + below + above :]
        layers.append((words[0], blobs[:below], blobs[below:], dict(w.split("=", 1) for w in settings)))
    return layers


def inputs_of(layers: List[Line]) -> List[Json]:
    """What the Input layers tell: names and, where they hold them, shapes; ids are what reaches an Embed layer."""
    integer: Set[str] = set()
    for kind, below, above, _ in reversed(layers):
        if kind == "Embed" or (kind in _SAME_VALUES and integer.intersection(above)):
            integer.update(below[:1])
    inputs = []
    for kind, _, above, settings in layers:
        if kind == "Input":
            sizes = [int(settings[key]) for key in ("2", "11", "1", "0") if int(settings.get(key, "0")) > 0]
            dtype = "int32" if above[0] in integer else "float32"
            inputs.append({"name": above[0], "shape": [1, *sizes] if sizes else None, "dtype": dtype})
    return inputs


def library() -> Ncnn:
    """The module, which is compiled: type checkers cannot read it."""
    return cast("Ncnn", import_module("ncnn"))


def loaded(path: str, kinds: Iterable[str], threads: int) -> Network:
    """The file in ncnn, its layers being of these kinds.

    Raises:
        ValueError: ncnn has no layer of a kind, or cannot read one of the two files.
    """
    ncnn = library()
    unknown = sorted(kind for kind in set(kinds) if ncnn.layer_to_index(kind) < 0)
    if unknown:
        raise ValueError("ncnn %s has no layer %s, of %s" % (ncnn.__version__, ", ".join(unknown), path))
    net = ncnn.Net()
    net.opt.num_threads = threads
    for flag, value in _FLAGS.items():
        setattr(net.opt, flag, value)
    weights = Path(path).with_suffix(".bin")
    if not weights.is_file():
        raise ValueError("the weights %s are missing" % weights)
    if net.load_param(path) != 0:
        raise ValueError("ncnn cannot read %s: a damaged file" % path)
    if net.load_model(str(weights)) != 0:
        raise ValueError("ncnn cannot read the weights %s" % weights)
    return net


def open(agent: Agent, runtime: str, path: str, threads: int, given: Optional[Dict[str, Given]]) -> Session:
    """Every blob that no layer takes is an output."""
    ncnn = library()
    layers = layers_of(path)
    inputs = inputs_of(layers)
    for spec, sample in zip(inputs, agent.samples_of([spec["name"] for spec in inputs], given)):
        if spec["shape"] is None and sample is not None:  # a file need not tell
            spec["shape"] = [1, *sample]
    net = loaded(path, [kind for kind, _, _, _ in layers], threads)
    consumed = {blob for _, below, _, _ in layers for blob in below}
    wanted = [blob for _, _, above, _ in layers for blob in above if blob not in consumed]
    if not inputs or not wanted:
        raise ValueError("%s has %d inputs and %d outputs" % (path, len(inputs), len(wanted)))

    def run(feed: List[Array]) -> List[Array]:
        results = []
        with net.create_extractor() as extractor:
            for spec, value in zip(inputs, feed):
                if extractor.input(spec["name"], ncnn.Mat(value[0]).clone()) != 0:
                    raise ValueError("ncnn does not take the input %s" % spec["name"])
            for blob in wanted:
                code, mat = extractor.extract(blob)
                if code != 0:
                    raise ValueError("ncnn fails at %s with code %d" % (blob, code))
                results.append(np.array(mat.numpy())[None])
        return results

    in_force = {flag: getattr(net.opt, flag) for flag in sorted(_FLAGS)}
    in_force["num_threads"] = net.opt.num_threads
    return agent.Session(inputs, [{"name": blob} for blob in wanted], run, {"in_force": in_force})


def profile(agent: Agent, runtime: str, path: str, threads: int, samples: List[List[Array]], count: int) -> List[Json]:
    """Layer times of ncnn, whose extractor computes no more than the blob that is asked for: one by one, in order."""
    ncnn = library()
    layers = layers_of(path)
    inputs = inputs_of(layers)
    net = loaded(path, [kind for kind, _, _, _ in layers], threads)
    taken: List[Tuple[str, str, float]] = []
    for number in range(count):
        with net.create_extractor() as extractor:
            extractor.set_light_mode(False)  # else blobs are forgotten, and computed again, once they were read
            for spec, value in zip(inputs, samples[number % len(samples)]):
                extractor.input(spec["name"], ncnn.Mat(value[0]).clone())
            for kind, _, above, _ in layers:
                before = time.perf_counter()
                code, _blob = extractor.extract(above[0], 1)  # 1: as the next layer gets it, without conversions
                if kind != "Input" and code == 0:
                    taken.append((above[0], kind, (time.perf_counter() - before) * 1e3))
    return agent.operators(taken, count)
