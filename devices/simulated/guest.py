"""One warm inference and one that is counted. Runs alone in the emulated guest: the standard library, numpy, a runtime.

    python guest.py AGENT OPENER MODEL RUNTIME SHAPES

AGENT is the path of edgedistill's agent, OPENER that of the format's runtime file, which serves every runtime but ncnn:
that one is opened as ncnn's own published benchmark opens it (half floats where the core has them, memory pools).
SHAPES is JSON, input -> shape with its batch of 1.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Callable, Dict, List, Tuple, cast

import numpy as np

if TYPE_CHECKING:
    from .._ncnn import Ncnn

MARK = 0x4544


def ncnn_runner(path: str, shapes: Dict[str, List[int]]) -> Tuple[Callable[[], object], object]:
    """A function that runs a .param file with its .bin beside it once."""
    ncnn = cast("Ncnn", importlib.import_module("ncnn"))  # compiled: checkers cannot read it

    net = ncnn.Net()
    options = net.opt
    options.lightmode, options.num_threads, options.use_vulkan_compute = True, 1, False
    blobs, workspace = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()
    for pool in (blobs, workspace):
        pool.set_size_compare_ratio(0.0)
    options.blob_allocator, options.workspace_allocator = blobs, workspace
    for kind in (
        "winograd_convolution",
        "sgemm_convolution",
        "int8_inference",
        "packing_layout",
        "fp16_packed",
        "fp16_storage",
        "fp16_arithmetic",
        "int8_storage",
        "int8_arithmetic",
    ):
        setattr(options, "use_" + kind, True)
    if net.load_param(path) != 0 or net.load_model(os.path.splitext(path)[0] + ".bin") != 0:
        raise ValueError("ncnn cannot read " + path)
    mats = {}
    for name, shape in shapes.items():
        mats[name] = ncnn.Mat(np.full(shape[1:], 0.01, np.float32)).clone()
    wanted = net.output_names()

    def run() -> None:
        extractor = net.create_extractor()
        for name, mat in mats.items():
            extractor.input(name, mat)
        for name in wanted:
            code, _ = extractor.extract(name)
            if code != 0:
                raise ValueError("ncnn fails at " + name)

    return run, (net, blobs, workspace)


def agent_runner(agent: str, opener: str, path: str, runtime: str) -> Tuple[Callable[[], object], object]:
    """A function that runs any other file once."""
    sys.path.insert(0, os.path.dirname(agent))
    module = importlib.import_module(os.path.basename(agent)[: -len(".py")])
    session = module.load_opener(opener).open(module, runtime, path, 1, None)
    feed = [np.full([max(1, int(n)) for n in i["shape"]], 0.01, i["dtype"]) for i in session.inputs]
    return lambda: session.run(feed), session


def main(agent: str, opener: str, path: str, runtime: str, shapes: str) -> None:
    """Warm up, mark, run, mark."""
    told: Dict[str, List[int]] = json.loads(shapes)
    run, keep = ncnn_runner(path, told) if runtime == "ncnn" else agent_runner(agent, opener, path, runtime)
    prctl = ctypes.CDLL(None).prctl
    gc.disable()
    run()
    prctl(MARK, 1, 0, 0, 0)
    run()
    prctl(MARK, 2, 0, 0, 0)
    print("counted", bool(keep), flush=True)
    os._exit(0)  # pools are not torn down in the order that ncnn wants


if __name__ == "__main__":
    main(*sys.argv[1:])
