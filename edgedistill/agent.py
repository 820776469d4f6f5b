"""Runs ONE artifact on the machine it stands on and prints one JSON document.

This file, and beside it the one that opens the format, is all that is copied to a device: they need
Python 3.8 or newer, numpy and one runtime, and nothing of EdgeDistill. Usage:

    python agent.py MODEL --opener runtime.py --runtime NAME [--companion FILE ...]
                    [--threads N] [--inputs X.npz --outputs Y.npz]
                    [--queries N --duration SECONDS --warmup SECONDS] [--affinity 0,1] [--profile N]
                    [--sustained MINUTES] [--mark N] [--reference-kernels]

The opener is a format's runtime file: its RUNTIMES say by which names, and this module hands itself
to its functions (contracts.py: Opener, Agent).

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
from types import ModuleType
from typing import Any, Callable, Dict, List, Optional, Tuple

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


def load_opener(path: str) -> ModuleType:
    """A runtime file as a module, wherever it lies; compiled anew, since caches must not show in a process's memory."""
    module = ModuleType(os.path.abspath(path))
    module.__file__ = path
    sys.modules[module.__name__] = module  # where dataclasses look for their own
    with open(path, encoding="utf-8") as stream:
        exec(compile(stream.read(), path, "exec", dont_inherit=True), vars(module))  # noqa: S102 - what it is for
    return module


def sized(name: str, shape: List[Any], dtype: str, sample: Optional[Given]) -> Dict[str, Any]:
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


def samples_of(names: List[str], given: Optional[Dict[str, Given]]) -> List[Optional[Given]]:
    """The shape of a sample for each input: by name, else by order, since converters rename inputs and keep that."""
    if given is None or len(given) != len(names):
        return [None] * len(names)
    return [given[name] for name in names] if set(given) == set(names) else list(given.values())


def _memory_bytes() -> Dict[str, int]:
    """Resident set now and at its peak, of this process."""
    try:
        with open("/proc/self/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return {key: int(fields[name].split()[0]) * 1024 for key, name in (("now", "VmRSS"), ("peak", "VmHWM"))}
    except (OSError, KeyError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"now": peak, "peak": peak}


def _drop_page_cache(files: List[str]) -> str:
    """Ask the kernel to forget the model's files, and whether it did.

    It keeps what is not written yet, what others have mapped, and all of a file system in memory; so the first page is
    asked for with RWF_NOWAIT, which fails where it would have to be read.
    """
    try:
        for name in files:
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


def _open(opens: Callable[[], Session]) -> Tuple[Session, float]:
    started = time.perf_counter()
    try:
        session = opens()
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


def shapes_in(path: str) -> Dict[str, Given]:
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


def load_inputs(path: str, session: Session) -> Feeds:
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


def operators(taken: List[Tuple[str, str, float]], count: int) -> List[Dict[str, Any]]:
    """Per operator: milliseconds an inference, in the mean and at least; an operator in a loop runs more than once."""
    times = {}  # type: Dict[Tuple[str, str], List[float]]
    for name, kind, ms in taken:
        times.setdefault((name, kind), []).append(ms)
    return [
        {"name": name, "type": kind, "ms": sum(each) / count, "least_ms": min(each) * len(each) / count}
        for (name, kind), each in times.items()
    ]


def _profile(opener: ModuleType, arguments: argparse.Namespace, samples: List[List[Any]]) -> Dict[str, Any]:
    """Where the time goes: operators in order, milliseconds an inference, share of their sum."""
    if "profile" not in vars(opener):
        return {"operators": None, "reason": "%s's Python package has no profiler" % arguments.runtime}
    count = arguments.profile
    rows = opener.profile(_myself(), arguments.runtime, arguments.model, arguments.threads, samples, count)
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
    parser.add_argument("--opener", required=True, help="the runtime file of the model's format")
    parser.add_argument("--runtime", required=True, help="one of the opener's RUNTIMES")
    parser.add_argument("--companion", action="append", default=[], help="a file beside the model with its weights")
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
        opener = load_opener(arguments.opener)
        if arguments.runtime not in opener.RUNTIMES:
            known = ", ".join(sorted(opener.RUNTIMES))
            parser.error("--runtime: invalid choice: %r (choose from %s)" % (arguments.runtime, known))
        document = measure(arguments, opener)
    except Refused as refused:
        code, message = refused.args
        print(json.dumps({"schema": SCHEMA, "error": {"code": code, "message": message}}))
        return 3
    print(json.dumps(document))
    return 0


def _myself() -> ModuleType:
    """This module, whatever it is called here: what openers are handed."""
    return sys.modules[__name__]


def _opening(opener: ModuleType, arguments: argparse.Namespace) -> Callable[[], Session]:
    """What opens the file, with what it must know of the inputs and kernels."""
    if arguments.reference_kernels and "open_reference" not in vars(opener):
        raise Refused("kernels", "%s has no reference kernels" % arguments.runtime)
    given = shapes_in(arguments.inputs) if arguments.inputs else None
    opens = opener.open_reference if arguments.reference_kernels else opener.open
    return functools.partial(opens, _myself(), arguments.runtime, arguments.model, arguments.threads, given)


def measure(arguments: argparse.Namespace, opener: ModuleType) -> Dict[str, Any]:
    """One process's whole life with a model, stage by stage."""
    module, distribution = opener.RUNTIMES[arguments.runtime]
    opens = _opening(opener, arguments)
    _pin(arguments.affinity)
    marks = Marks(arguments.mark)
    memory = {"baseline": _memory_bytes()["now"]}
    marks.stage()
    import_ms = _import(module, arguments.runtime)
    memory["after_import"] = _memory_bytes()["now"]
    marks.stage()
    page_cache = _drop_page_cache([arguments.model, *arguments.companion])
    session, load_cold_ms = _open(opens)
    memory["after_load"] = _memory_bytes()["now"]
    marks.stage()
    feeds = load_inputs(arguments.inputs, session) if arguments.inputs else _random_feed(session)
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
    document["load_warm_ms"] = _open(opens)[1]
    if arguments.profile > 0:
        document["profile"] = _profile(opener, arguments, samples)
    return document


if __name__ == "__main__":
    sys.exit(main())
