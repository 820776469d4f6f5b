"""Runs ONE artifact on the machine it stands on and prints one JSON document.

This file is all that is copied to a device: it needs Python 3.8 or newer, numpy and one runtime, and
nothing of EdgeDistill. Usage:

    python agent.py MODEL --runtime onnxruntime|tflite-runtime|litert|openvino|ncnn
                    [--threads N] [--inputs X.npz --outputs Y.npz]
                    [--queries N --duration SECONDS --warmup SECONDS] [--affinity 0,1] [--profile N]
                    [--sustained MINUTES] [--mark N] [--reference-kernels]

With --outputs every sample of X.npz (first axis) is computed at batch 1 and written as float32. With
--queries a single stream is timed: at least N inferences and SECONDS seconds; input copies into the
runtime are timed, quantising and normalising are not. With --profile the time of every operator is
taken over N more inferences, in a session of its own, so that it disturbs no other figure. With
--sustained a stream goes on for so many minutes and each minute is told by its percentiles. With
--mark, N inferences and the stages before them are marked for an emulator that counts instructions. Each
stage is timed apart, and memory is that of this process (resident set, from /proc). Exit code 3,
with {"error": ...}, when the runtime refuses.
"""

import os
import sys

# On a host this file lies beside modules named like the standard library's (types, statistics).
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [p for p in sys.path if os.path.abspath(p or os.getcwd()) != _HERE]

import argparse
import functools
import json
import platform
import resource
import time
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import numpy as np

SCHEMA = "edgedistill.agent/1"
Arrays = Dict[str, Any]  # name -> numpy array
Given = Tuple[int, ...]  # shape of one sample


class Refused(Exception):  # noqa: N818 - the runtime's answer, not a fault
    """The runtime is missing or refuses the file or the inputs: (code, message)."""


class Session:
    """A model opened by a runtime: float in, float out, quantisation outside of `run`."""

    def __init__(
        self,
        inputs: List[Dict[str, Any]],
        outputs: List[Dict[str, Any]],
        run: Callable[[List[Any]], List[Any]],
        facts: Dict[str, Any],
        own_ms: Optional[Callable[[], float]] = None,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.run = run
        self.facts = facts
        self.own_ms = own_ms  # the last inference by the runtime's own clock, which leaves out the call from Python


def _sized(name: str, shape: List[Any], dtype: str, sample: Optional[Given]) -> Dict[str, Any]:
    """An input whose axes without a size get a sample's; without one the batch is 1, and others are `unsized`."""
    fixed = [d if isinstance(d, int) and d > 0 else None for d in shape]
    if sample is not None and len(sample) == len(fixed) - 1:
        sample = (fixed[0] or 1, *sample)
    told = sample if sample is not None and len(sample) == len(fixed) else [None] * len(fixed)
    spec = {
        "name": name,
        "shape": [d if d is not None else s if s is not None else 1 for d, s in zip(fixed, told)],
        "dtype": dtype,
    }  # type: Dict[str, Any]
    unsized = [axis for axis, (d, s) in enumerate(zip(fixed, told)) if axis > 0 and d is None and s is None]
    return {**spec, "unsized": unsized} if unsized else spec


def _samples_of(names: List[str], given: Optional[Dict[str, Given]]) -> List[Optional[Given]]:
    """The shape of a sample for each input: by name, else by order, since converters rename inputs and keep that."""
    if given is None or len(given) != len(names):
        return [None] * len(names)
    return [given[name] for name in names] if set(given) == set(names) else list(given.values())


def open_onnxruntime(path: str, threads: int, given: Optional[Dict[str, Given]] = None) -> Session:
    """ONNX in onnxruntime, CPU provider, all graph optimisations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    dtypes = {"float": "float32", "double": "float64"}
    inputs = []
    names = [i.name for i in session.get_inputs()]
    for i, sample in zip(session.get_inputs(), _samples_of(names, given)):
        dtype = str(i.type)[len("tensor(") : -1]
        inputs.append(_sized(i.name, i.shape, dtypes.get(dtype, dtype), sample))
    outputs = [{"name": o.name} for o in session.get_outputs()]
    wanted = [o["name"] for o in outputs]
    told = session.get_session_options()
    in_force = {
        "intra_op_num_threads": told.intra_op_num_threads,
        "execution_mode": told.execution_mode.name,
        "graph_optimization_level": told.graph_optimization_level.name,
        "enable_cpu_mem_arena": told.enable_cpu_mem_arena,
    }
    facts = {"providers": session.get_providers(), "in_force": in_force}
    return Session(inputs, outputs, lambda feed: list(session.run(wanted, dict(zip(names, feed)))), facts)


def _open_tflite(module: Any, path: str, threads: int, reference: bool, given: Optional[Dict[str, Given]]) -> Session:
    kinds = module.OpResolverType
    resolver = kinds.BUILTIN_REF if reference else kinds.BUILTIN
    interpreter = module.Interpreter(model_path=path, num_threads=threads, experimental_op_resolver_type=resolver)
    unsized = _resize(interpreter, given)
    interpreter.allocate_tensors()
    inputs = []  # type: List[Any]
    outputs = []  # type: List[Any]
    for listed, tensors in (
        (inputs, interpreter.get_input_details()),
        (outputs, interpreter.get_output_details()),
    ):
        for t in tensors:
            scale, zero_point = t["quantization"]
            entry = {
                "name": t["name"],
                "shape": [int(d) for d in t["shape"]],
                "dtype": np.dtype(t["dtype"]).name,
            }
            if scale:
                entry["quantization"] = {"scale": float(scale), "zero_point": int(zero_point)}
            if listed is inputs and t["index"] in unsized:
                entry["unsized"] = unsized[t["index"]]
            listed.append((entry, t["index"]))
    in_index = [index for _, index in inputs]
    out_index = [index for _, index in outputs]

    def run(feed: List[Any]) -> List[Any]:
        for index, value in zip(in_index, feed):
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in out_index]

    kernels = "reference" if reference else "optimised"
    facts = {"in_force": {"num_threads": threads, "kernels": kernels, **_tflite_delegate(interpreter)}}
    return Session([e for e, _ in inputs], [e for e, _ in outputs], run, facts)


def _resize(interpreter: Any, given: Optional[Dict[str, Given]]) -> Dict[int, List[int]]:
    """Give axes without a size those of the samples; the axes that are left without one, by the tensor's index."""
    details = interpreter.get_input_details()
    unsized = {}  # type: Dict[int, List[int]]
    for t, sample in zip(details, _samples_of([t["name"] for t in details], given)):
        signature = [int(d) for d in t.get("shape_signature", t["shape"])]
        spec = _sized(t["name"], signature or [int(d) for d in t["shape"]], "", sample)
        if spec["shape"] != [int(d) for d in t["shape"]]:
            interpreter.resize_tensor_input(t["index"], spec["shape"])
        if "unsized" in spec:
            unsized[t["index"]] = spec["unsized"]
    return unsized


def _tflite_delegate(interpreter: Any) -> Dict[str, Any]:
    """Whether XNNPACK, the one delegate of these packages, took operators: it leaves a DELEGATE node for each part."""
    try:
        names = [node["op_name"] for node in interpreter._get_ops_details()]  # noqa: SLF001 - no public call tells
    except Exception as error:  # a release without that call is not refused for it
        return {"delegate": "unknown: %s" % error}
    parts = names.count("DELEGATE")
    return {"delegate": "XNNPACK" if parts else "none", "delegated_parts": parts, "operators": len(names) - parts}


def open_tflite_runtime(
    path: str, threads: int, given: Optional[Dict[str, Given]] = None, reference: bool = False
) -> Session:
    """TFLite in tflite-runtime."""
    from tflite_runtime import interpreter

    return _open_tflite(interpreter, path, threads, reference, given)


def open_litert(path: str, threads: int, given: Optional[Dict[str, Given]] = None, reference: bool = False) -> Session:
    """TFLite in LiteRT (ai-edge-litert)."""
    from ai_edge_litert import interpreter

    return _open_tflite(interpreter, path, threads, reference, given)


def open_openvino(path: str, threads: int, given: Optional[Dict[str, Given]] = None) -> Session:
    """OpenVINO IR on its CPU plug-in, static shapes, float32 hint (its default may be bf16)."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    shapes = {}
    inputs = []
    names = [port.get_any_name() for port in model.inputs]
    for port, name, sample in zip(model.inputs, names, _samples_of(names, given)):
        partial = port.get_partial_shape()
        rank = len(partial) if partial.rank.is_static else len(sample or ()) + 1
        known = partial if partial.rank.is_static else [None] * rank
        shape = [None if d is None or d.is_dynamic else d.get_length() for d in known]
        inputs.append(_sized(name, shape, port.get_element_type().to_dtype().name, sample))
        shapes[port] = inputs[-1]["shape"]
    reshaped = any(port.get_partial_shape().is_dynamic for port in model.inputs)
    if reshaped:
        model.reshape(shapes)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    outputs = [{"name": p.get_any_name()} for p in compiled.outputs]
    told = (
        "INFERENCE_PRECISION_HINT",
        "INFERENCE_NUM_THREADS",
        "NUM_STREAMS",
        "PERFORMANCE_HINT",
        "ENABLE_CPU_PINNING",
    )
    in_force = {key: str(compiled.get_property(key)) for key in told}

    slots = [request.get_input_tensor(i).data for i in range(len(inputs))]
    results = [request.get_output_tensor(i).data for i in range(len(outputs))]

    def run(feed: List[Any]) -> List[Any]:
        for slot, value in zip(slots, feed):
            np.copyto(slot, value)
        request.infer()
        return results

    facts = {"in_force": in_force, "reshaped_to_static": reshaped}
    return Session(inputs, outputs, run, facts, lambda: float(request.latency))


_NCNN_FLAGS = {
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
_NCNN_SAME_VALUES = ("Split", "Reshape", "Squeeze", "ExpandDims", "Flatten", "Permute", "Crop", "Slice", "Noop")


def _ncnn_layers(path: str) -> List[Tuple[str, List[str], List[str], Dict[str, str]]]:
    """Layers of a .param file: type, blobs in, blobs out, parameters."""
    with open(path, encoding="ascii") as stream:
        lines = [line.split() for line in stream if line.strip()]
    if not lines[2:] or lines[0] != ["7767517"] or len(lines) != 2 + int(lines[1][0]):
        raise ValueError("%s is no whole ncnn .param file" % path)
    layers = []
    for words in lines[2:]:
        below, above = int(words[2]), int(words[3])
        blobs, settings = words[4 : 4 + below + above], words[4 + below + above :]
        layers.append((words[0], blobs[:below], blobs[below:], dict(w.split("=", 1) for w in settings)))
    return layers


def _ncnn_inputs(layers: List[Tuple[str, List[str], List[str], Dict[str, str]]]) -> List[Dict[str, Any]]:
    """What the Input layers tell: names and, where they hold them, shapes; ids are what reaches an Embed layer."""
    integer: Set[str] = set()
    for kind, below, above, _ in reversed(layers):
        if kind == "Embed" or (kind in _NCNN_SAME_VALUES and integer.intersection(above)):
            integer.update(below[:1])
    inputs = []
    for kind, _, above, settings in layers:
        if kind == "Input":
            sizes = [int(settings[key]) for key in ("2", "11", "1", "0") if int(settings.get(key, "0")) > 0]
            dtype = "int32" if above[0] in integer else "float32"
            inputs.append({"name": above[0], "shape": [1, *sizes] if sizes else None, "dtype": dtype})
    return inputs


def _ncnn_net(path: str, kinds: Set[str], threads: int) -> Any:
    """The file loaded, its layers being of these kinds."""
    ncnn = __import__("ncnn")  # type: Any  # compiled: checkers cannot read it

    unknown = sorted(kind for kind in kinds if ncnn.layer_to_index(kind) < 0)
    if unknown:
        raise ValueError("ncnn %s has no layer %s, of %s" % (ncnn.__version__, ", ".join(unknown), path))
    net = ncnn.Net()
    net.opt.num_threads = threads
    for flag, value in _NCNN_FLAGS.items():
        setattr(net.opt, flag, value)
    weights = os.path.splitext(path)[0] + ".bin"
    if not os.path.isfile(weights):
        raise ValueError("the weights %s are missing" % weights)
    if net.load_param(path) != 0:
        raise ValueError("ncnn cannot read %s: a damaged file" % path)
    if net.load_model(weights) != 0:
        raise ValueError("ncnn cannot read the weights %s" % weights)
    return net


def open_ncnn(path: str, threads: int, given: Optional[Dict[str, Given]] = None) -> Session:
    """Ncnn (.param with .bin beside it) on the CPU in float32; it knows no batch, so each sample is one extractor."""
    ncnn = __import__("ncnn")  # type: Any  # compiled: checkers cannot read it

    layers = _ncnn_layers(path)
    inputs = _ncnn_inputs(layers)
    for spec, sample in zip(inputs, _samples_of([spec["name"] for spec in inputs], given)):
        if spec["shape"] is None and sample is not None:  # a file need not tell
            spec["shape"] = [1, *sample]
    net = _ncnn_net(path, {kind for kind, _, _, _ in layers}, threads)
    consumed = {blob for _, below, _, _ in layers for blob in below}
    wanted = [blob for _, _, above, _ in layers for blob in above if blob not in consumed]
    if not inputs or not wanted:
        raise ValueError("%s has %d inputs and %d outputs" % (path, len(inputs), len(wanted)))

    def run(feed: List[Any]) -> List[Any]:
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

    in_force = {flag: getattr(net.opt, flag) for flag in sorted(_NCNN_FLAGS)}
    in_force["num_threads"] = net.opt.num_threads
    return Session(inputs, [{"name": blob} for blob in wanted], run, {"in_force": in_force})


OPENERS = {
    # runtime: (opener, the module to import, the distribution whose version counts)
    "onnxruntime": (open_onnxruntime, "onnxruntime", "onnxruntime"),
    "tflite-runtime": (open_tflite_runtime, "tflite_runtime.interpreter", "tflite-runtime"),
    "litert": (open_litert, "ai_edge_litert.interpreter", "ai-edge-litert"),
    "openvino": (open_openvino, "openvino", "openvino"),
    "ncnn": (open_ncnn, "ncnn", "ncnn"),
}  # type: Dict[str, Tuple[Callable[..., Session], str, str]]


def _memory_bytes() -> Dict[str, int]:
    """Resident set now and at its peak, of this process."""
    try:
        with open("/proc/self/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return {key: int(fields[name].split()[0]) * 1024 for key, name in (("now", "VmRSS"), ("peak", "VmHWM"))}
    except (OSError, KeyError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"now": peak, "peak": peak}


def _drop_page_cache(path: str) -> str:
    """Ask the kernel to forget the model's files, and whether it did.

    It keeps what is not written yet, what others have mapped, and all of a file system in memory; so the first page is
    asked for with RWF_NOWAIT, which fails where it would have to be read.
    """
    stem = os.path.splitext(path)[0]
    folder, base = os.path.split(os.path.abspath(path))
    try:
        beside = [
            os.path.join(folder, name) for name in os.listdir(folder) if name.startswith((base + ".", base + "_"))
        ]
        for name in (path, stem + ".bin", *beside):  # ncnn's and OpenVINO's weights, and ONNX's external data
            if os.path.isfile(name):
                descriptor = os.open(name, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
                except BlockingIOError:
                    continue
                finally:
                    os.close(descriptor)
                return "kept: the kernel did not drop it"
    except (OSError, AttributeError) as error:
        return "kept, or not known: %s" % error
    return "dropped before the cold load"


def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def _import(module: str, runtime: str) -> float:
    """Import the runtime; milliseconds it took."""
    started = time.perf_counter()
    try:
        __import__(module)
    except ImportError as error:
        raise Refused("runtime_missing", "%s is not installed here: %s" % (runtime, error))
    return (time.perf_counter() - started) * 1e3


def _open(opener: Callable[..., Session], path: str, threads: int) -> Tuple[Session, float]:
    started = time.perf_counter()
    try:
        session = opener(path, threads)
    except Exception as error:  # every runtime has its own types; all mean that the file was refused
        raise Refused("artifact_refused", "%s: %s" % (type(error).__name__, error))
    return session, (time.perf_counter() - started) * 1e3


def _encode(array: Any, spec: Dict[str, Any]) -> Any:
    """A float sample as the model takes it: quantised where its input is an integer with a scale."""
    if "quantization" in spec:
        limits = np.iinfo(spec["dtype"])
        scaled = np.round(array / spec["quantization"]["scale"]) + spec["quantization"]["zero_point"]
        array = np.clip(scaled, limits.min, limits.max)
    return np.ascontiguousarray(array, dtype=spec["dtype"]).reshape(spec["shape"])


def _decode(array: Any, spec: Dict[str, Any]) -> Any:
    """A model's output as float32."""
    values = np.asarray(array).astype(np.float32)
    if "quantization" in spec:
        values = (values - spec["quantization"]["zero_point"]) * np.float32(spec["quantization"]["scale"])
    return values


def _random(specs: List[Dict[str, Any]]) -> List[Any]:
    """Seeded inputs: normal values, and for integers 0 and 1, which every table of embeddings has.

    Sizes are not made up: they decide how long an inference takes.
    """
    rng = np.random.RandomState(0)
    sample = []
    for spec in specs:
        if spec["shape"] is None:
            raise Refused("unsized", "the file does not tell the shape of %r: give --inputs" % spec["name"])
        if "unsized" in spec:
            axes = ", ".join(map(str, spec["unsized"]))
            raise Refused("unsized", "the input %r has no size along axis %s: give --inputs" % (spec["name"], axes))
        plain = "quantization" not in spec and np.dtype(spec["dtype"]).kind in "iub"
        values = rng.randint(0, 2, spec["shape"]) if plain else rng.standard_normal(spec["shape"])
        sample.append(_encode(values, spec))
    return sample


def _check_numbers(arrays: Arrays, specs: List[Dict[str, Any]]) -> None:
    """Arrays of numbers, the first axis being the samples; whole ones where the model takes integers."""
    for spec in specs:
        name, array = spec["name"], arrays[spec["name"]]
        if array.dtype.kind not in "biuf":
            raise Refused("inputs", "input %r holds %s, models take numbers" % (name, array.dtype))
        if array.ndim == 0:
            raise Refused("inputs", "input %r is a single number, its first axis must be the samples" % name)
        whole = np.dtype(spec["dtype"]).kind in "iu" and "quantization" not in spec
        if whole and array.dtype.kind == "f" and np.any(array % 1):
            raise Refused("inputs", "input %r takes %s, the file holds fractions" % (name, spec["dtype"]))


def _shapes_in(path: str) -> Dict[str, Given]:
    """Array -> shape of one sample, as an .npz tells it without its data being read."""
    import zipfile

    npy = np.lib.format  # type: Any  # without annotations
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                with archive.open(entry) as stream:
                    first = npy.read_magic(stream) == (1, 0)
                    header = npy.read_array_header_1_0 if first else npy.read_array_header_2_0
                    found[entry[: -len(".npy")]] = tuple(header(stream)[0][1:])
    except Exception as error:  # missing, damaged, no archive: OSError, ValueError, BadZipFile, ...
        raise Refused("inputs", "%s cannot be read as .npz: %s" % (path, error))
    return found


def _batch(specs: List[Dict[str, Any]]) -> int:
    """Samples of one inference: the first axis, where all inputs have it and the same."""
    sizes = {spec["shape"][0] if len(spec["shape"]) > 1 else 1 for spec in specs}
    return int(sizes.pop()) if len(sizes) == 1 else 1


def _same(first: Any, second: Any) -> bool:
    """Whether shapes agree; axes of 1 may be left out."""
    return [d for d in first if d != 1] == [d for d in second if d != 1]


class Feeds:
    """What a model is fed with, inference by inference: arrays in its order, out of `count` samples, `step` each time.

    A sample is one row of a batch, or, where the samples' shapes say so, a whole batch.
    """

    def __init__(self, every: List[List[Any]], count: int, step: int) -> None:
        self.every = every
        self.count = count
        self.step = step


def _load_inputs(path: str, session: Session) -> Feeds:
    """The feeds that a file holds; the last one is filled up with its last sample."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # missing, damaged, no archive: OSError, ValueError, BadZipFile, AttributeError, ...
        raise Refused("inputs", "%s cannot be read as .npz: %s" % (path, error))
    names = [s["name"] for s in session.inputs]
    if set(names) != set(arrays):
        # converters rename inputs; their order is kept
        if len(names) != len(arrays):
            raise Refused(
                "inputs",
                "the model takes %d inputs %s, the file holds %s" % (len(names), names, sorted(arrays)),
            )
        arrays = dict(zip(names, arrays.values()))
    _check_numbers(arrays, session.inputs)
    whole = all(_same(arrays[spec["name"]].shape[1:], spec["shape"]) for spec in session.inputs)
    for spec in session.inputs:
        sample = arrays[spec["name"]].shape[1:]
        if not whole and not _same(sample, spec["shape"][1:]):
            wanted = spec["shape"][1:] if len(spec["shape"]) > 1 else spec["shape"]
            raise Refused(
                "inputs", "input %r takes %s a sample, the file holds %s" % (spec["name"], wanted, list(sample))
            )
    counts = {name: len(array) for name, array in arrays.items()}
    count = min(counts.values())
    if count == 0 or count != max(counts.values()):
        raise Refused("inputs", "every input needs the same positive number of samples, the file holds %r" % counts)
    step = 1 if whole else _batch(session.inputs)
    rows = [[min(i, count - 1) for i in range(start, start + step)] for start in range(0, count, step)]
    return Feeds([[_encode(arrays[s["name"]][row], s) for s in session.inputs] for row in rows], count, step)


def _random_feed(session: Session) -> Feeds:
    """One inference's worth."""
    step = _batch(session.inputs)
    return Feeds([_random(session.inputs)], step, step)


def _compute(session: Session, feeds: Feeds, path: str) -> int:
    """Run every feed and write the outputs, one row a sample."""
    rows = {spec["name"]: [] for spec in session.outputs}  # type: Dict[str, List[Any]]
    step = feeds.step
    for feed in feeds.every:
        for spec, value in zip(session.outputs, session.run(feed)):
            array = np.array(_decode(value, spec))
            if array.ndim and len(array) == step:
                rows[spec["name"]].extend(array)
            elif step == 1:
                rows[spec["name"]].append(array)  # an output without a batch axis
            else:
                raise Refused(
                    "outputs", "output %r has the shape %s, no batch of %d" % (spec["name"], array.shape, step)
                )
    for name, values in rows.items():
        shapes = sorted({value.shape for value in values})
        if len(shapes) > 1:
            raise Refused("outputs", "output %r has shapes that depend on the sample: %s" % (name, shapes[:3]))
    arrays = {name: np.stack(values[: feeds.count]) for name, values in rows.items()}
    with open(path, "wb") as stream:
        np.savez(stream, **arrays)
    return feeds.count


def _stream(
    session: Session, samples: List[List[Any]], queries: int, seconds: float, own_ms: Optional[List[float]] = None
) -> List[int]:
    """Time single inferences, nanoseconds each, cycling through the samples; `own_ms` gets the runtime's own times."""
    taken = []  # type: List[int]
    started = time.perf_counter_ns()
    until = started + int(seconds * 1e9)
    while len(taken) < queries or time.perf_counter_ns() < until:
        feed = samples[len(taken) % len(samples)]
        before = time.perf_counter_ns()
        session.run(feed)
        taken.append(time.perf_counter_ns() - before)
        if own_ms is not None and session.own_ms is not None:
            own_ms.append(session.own_ms())
    return taken


def _pin(cores: Optional[str]) -> List[int]:
    """Keep this process on the given cores; the cores in force."""
    if cores is not None:
        try:
            os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
        except (OSError, ValueError, OverflowError, AttributeError) as error:
            raise Refused("affinity", "cannot run on the cores %s: %s" % (cores, error))
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _queued_s() -> float:
    """Seconds that the threads of this process were ready to run and had no core: the second field of schedstat."""
    total = 0
    for thread in os.listdir("/proc/self/task"):
        with open("/proc/self/task/%s/schedstat" % thread) as stream:
            total += int(stream.read().split()[1])
    return total / 1e9


def _conditions() -> Dict[str, float]:
    """What may disturb a measurement, as counters: this process's context switches, CPU time, queueing; stolen time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found = {"involuntary_switches": float(usage.ru_nivcsw), "cpu_s": usage.ru_utime + usage.ru_stime}
    try:
        with open("/proc/stat") as lines:
            ticks = [int(word) for word in lines.readline().split()[1:]]
        found["steal_s"] = ticks[7] / float(os.sysconf("SC_CLK_TCK"))
        found["queued_s"] = _queued_s()
    except (OSError, IndexError, ValueError):
        pass  # not every kernel tells
    return found


def _disturbance(before: Dict[str, float], wall_s: float) -> Dict[str, float]:
    """The counters' growth over a measurement of wall_s seconds, and the run queue at its end."""
    after = _conditions()
    found = {key: after[key] - before[key] for key in before if key in after}
    found["wall_s"] = wall_s
    found["host_cores"] = float(os.cpu_count() or 1)
    try:
        with open("/proc/loadavg") as stream:
            found["run_queue"] = float(stream.read().split()[3].split("/")[0])
    except (OSError, IndexError, ValueError):
        pass
    return found


def profile_onnxruntime(path: str, threads: int, samples: List[List[Any]], count: int) -> List[Dict[str, Any]]:
    """Kernel times of onnxruntime's own profiler."""
    import shutil
    import tempfile

    import onnxruntime as ort

    folder = tempfile.mkdtemp()
    try:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "profile")
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        for number in range(count):
            session.run(None, dict(zip(names, samples[number % len(samples)])))
        with open(session.end_profiling()) as stream:
            events = json.load(stream)
    finally:
        shutil.rmtree(folder)
    taken = []  # type: List[Tuple[str, str, float]]
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            kind = event["args"].get("op_name", "")
            taken.append((name[: -len("_kernel_time")], kind, event["dur"] / 1e3))
    return _operators(taken, count)


def profile_openvino(path: str, threads: int, samples: List[List[Any]], count: int) -> List[Dict[str, Any]]:
    """Layer times of OpenVINO's performance counters."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    model.reshape({port: list(value.shape) for port, value in zip(model.inputs, samples[0])})
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERF_COUNT": True,
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    taken = []  # type: List[Tuple[str, str, float]]
    for number in range(count):
        request.infer(dict(enumerate(samples[number % len(samples)])))
        for info in request.profiling_info:
            if "NOT_RUN" not in str(info.status):
                kind = "%s (%s)" % (info.node_type, info.exec_type)
                taken.append((info.node_name, kind, info.real_time.total_seconds() * 1e3))
    return _operators(taken, count)


def profile_ncnn(path: str, threads: int, samples: List[List[Any]], count: int) -> List[Dict[str, Any]]:
    """Layer times of ncnn, whose extractor computes no more than the blob that is asked for: one by one, in order."""
    ncnn = __import__("ncnn")  # type: Any  # compiled: checkers cannot read it

    layers = _ncnn_layers(path)
    inputs = _ncnn_inputs(layers)
    net = _ncnn_net(path, {kind for kind, _, _, _ in layers}, threads)
    taken = []  # type: List[Tuple[str, str, float]]
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
    return _operators(taken, count)


PROFILERS = {"onnxruntime": profile_onnxruntime, "openvino": profile_openvino, "ncnn": profile_ncnn}


def _operators(taken: List[Tuple[str, str, float]], count: int) -> List[Dict[str, Any]]:
    """Per operator: milliseconds an inference, in the mean and at least; an operator in a loop runs more than once."""
    times = {}  # type: Dict[Tuple[str, str], List[float]]
    for name, kind, ms in taken:
        times.setdefault((name, kind), []).append(ms)
    return [
        {"name": name, "type": kind, "ms": sum(each) / count, "least_ms": min(each) * len(each) / count}
        for (name, kind), each in times.items()
    ]


def _profile(runtime: str, path: str, threads: int, samples: List[List[Any]], count: int) -> Dict[str, Any]:
    """Where the time goes: operators in order, milliseconds an inference, share of their sum."""
    if runtime not in PROFILERS:
        return {"operators": None, "reason": "%s's Python package has no profiler" % runtime}
    rows = PROFILERS[runtime](path, threads, samples, count)
    total = sum(row["ms"] for row in rows)
    for row in rows:
        row["share"] = row["ms"] / total if total else 0.0
    return {"operators": rows, "inferences": count}


def _sustain(session: Session, samples: List[List[Any]], minutes: float) -> List[Dict[str, float]]:
    """A stream without a pause, minute by minute; the last one may be shorter."""
    rows = []
    left = minutes * 60
    while left > 0:
        taken = np.array(_stream(session, samples, 1, min(60.0, left))) / 1e6
        p50, p90, p99 = (float(value) for value in np.percentile(taken, [50, 90, 99]))
        rows.append({"count": len(taken), "min": float(taken.min()), "p50": p50, "p90": p90, "p99": p99})
        left -= 60
    return rows


class Marks:
    """Tells an emulator's plug-in where regions begin, by a prctl that every kernel refuses; silent unless `count`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.ranges = []  # type: List[List[List[int]]]
        if count:
            import ctypes

            self._prctl = ctypes.CDLL(None).prctl

    def stage(self) -> None:
        """A stage is reached: the plug-in looks at the memory, of which these ranges are ours."""
        if self.count:
            self._prctl(0x4544, 0x100 + len(self.ranges), 0, 0, 0)
            with open("/proc/self/maps") as lines:
                spans = [line.split(None, 1)[0].split("-") for line in lines]
            self.ranges.append([[int(start, 16), int(end, 16)] for start, end in spans])

    def inferences(self, session: Session, feed: List[Any]) -> None:
        """Each inference apart, undisturbed by the garbage collector."""
        import gc

        gc.disable()
        for number in range(self.count):
            self._prctl(0x4544, number + 1, 0, 0, 0)
            session.run(feed)
        self._prctl(0x4544, self.count + 1, 0, 0, 0)
        gc.enable()


def main(argv: Optional[List[str]] = None) -> int:
    """Parse the arguments, run, print the document; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--runtime", required=True, choices=sorted(OPENERS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inputs", help=".npz, first axis of every array: samples")
    parser.add_argument("--outputs", help=".npz to write, one row a sample")
    parser.add_argument("--queries", type=int, default=0, help="time at least so many inferences")
    parser.add_argument("--duration", type=float, default=0.0, help="and at least so many seconds")
    parser.add_argument("--warmup", type=float, default=0.1, help="seconds before timing")
    parser.add_argument("--reference-kernels", action="store_true", help="TFLite's reference kernels, no XNNPACK")
    parser.add_argument("--affinity", help="cores to run on, such as 0,1")
    parser.add_argument("--profile", type=int, default=0, help="time every operator over so many inferences")
    parser.add_argument("--sustained", type=float, default=0.0, help="minutes of a stream told minute by minute")
    parser.add_argument("--mark", type=int, default=0, help="mark so many inferences for a counting emulator")
    arguments = parser.parse_args(argv)
    try:
        document = measure(arguments)
    except Refused as refused:
        code, message = refused.args
        print(json.dumps({"schema": SCHEMA, "error": {"code": code, "message": message}}))
        return 3
    print(json.dumps(document))
    return 0


def _opener(arguments: argparse.Namespace) -> Callable[..., Session]:
    """What opens the file, with what it must know of the inputs and kernels."""
    opener = OPENERS[arguments.runtime][0]
    if arguments.reference_kernels:
        if arguments.runtime not in ("tflite-runtime", "litert"):
            raise Refused("kernels", "%s has no reference kernels" % arguments.runtime)
        opener = functools.partial(opener, reference=True)
    return functools.partial(opener, given=_shapes_in(arguments.inputs)) if arguments.inputs else opener


def measure(arguments: argparse.Namespace) -> Dict[str, Any]:
    """One process's whole life with a model, stage by stage."""
    _, module, distribution = OPENERS[arguments.runtime]
    opener = _opener(arguments)
    _pin(arguments.affinity)
    marks = Marks(arguments.mark)
    memory = {"baseline": _memory_bytes()["now"]}
    marks.stage()
    import_ms = _import(module, arguments.runtime)
    memory["after_import"] = _memory_bytes()["now"]
    marks.stage()
    page_cache = _drop_page_cache(arguments.model)
    session, load_cold_ms = _open(opener, arguments.model, arguments.threads)
    memory["after_load"] = _memory_bytes()["now"]
    marks.stage()
    feeds = _load_inputs(arguments.inputs, session) if arguments.inputs else _random_feed(session)
    samples = feeds.every
    started = time.perf_counter()
    try:
        session.run(samples[0])
    except Exception as error:  # each runtime has errors of its own for inputs it does not take
        raise Refused("run", "%s: %s" % (type(error).__name__, error))
    first_ms = (time.perf_counter() - started) * 1e3
    document = {
        "schema": SCHEMA,
        "runtime": arguments.runtime,
        "runtime_version": _version(distribution),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "threads": arguments.threads,
        "cores": _pin(None),
        "inputs": session.inputs,
        "batch": _batch(session.inputs),
        "outputs": session.outputs,
        "facts": session.facts,
        "import_ms": import_ms,
        "load_cold_ms": load_cold_ms,
        "page_cache": page_cache,
        "first_inference_ms": first_ms,
    }  # type: Dict[str, Any]
    if arguments.outputs:
        document["samples"] = _compute(session, feeds, arguments.outputs)
    if arguments.queries > 0:
        started = time.perf_counter()
        warm = _stream(session, samples, 1, arguments.warmup)
        document["warmup"] = {"inferences": len(warm), "seconds": time.perf_counter() - started}
        before, started = _conditions(), time.perf_counter()
        own_ms = []  # type: List[float]
        document["latency_ns"] = _stream(session, samples, arguments.queries, arguments.duration, own_ms)
        document["disturbance"] = _disturbance(before, time.perf_counter() - started)
        if own_ms:
            document["runtime_p50_ms"] = float(np.median(own_ms))
        document["involuntary_switches"] = int(document["disturbance"]["involuntary_switches"])
    if arguments.mark > 0:
        marks.stage()
        marks.inferences(session, samples[0])
        document["marked"] = {"inferences": arguments.mark, "ranges": marks.ranges}
    if arguments.sustained > 0:
        document["minutes_ms"] = _sustain(session, samples, arguments.sustained)
    memory["peak"] = _memory_bytes()["peak"]  # before the second load, which would be counted twice
    document["memory_bytes"] = memory
    del session
    document["load_warm_ms"] = _open(opener, arguments.model, arguments.threads)[1]
    if arguments.profile > 0:
        document["profile"] = _profile(
            arguments.runtime, arguments.model, arguments.threads, samples, arguments.profile
        )
    return document


if __name__ == "__main__":
    sys.exit(main())
