"""Run a TFLite artifact with tflite-runtime (or LiteRT) and numpy alone.

    python run_tflite.py [artifacts/MODEL.tflite] [SAMPLES.npy] [--output LOGITS.npy] [--normalized]
                         [--runtime tflite-runtime|litert]

SAMPLES.npy holds raw samples, first axis: samples (default: the bundle's examples).
Needs: pip install tflite-runtime 'numpy<2', or: pip install ai-edge-litert
"""

import argparse
import importlib
import importlib.util
from pathlib import Path

import numpy as np

MEAN, STD, LABELS = [0.0], [1.0], []  # filled in when the bundle is made

PACKAGES = {"tflite-runtime": "tflite_runtime", "litert": "ai_edge_litert"}
here = Path(__file__).parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", nargs="?", type=Path, help="default: every .tflite of the bundle")
parser.add_argument("samples", nargs="?", type=Path, default=here / "example_inputs.npy")
parser.add_argument("--output", type=Path, help="write the logits here (.npy)")
parser.add_argument("--normalized", action="store_true", help="the samples are model-ready already")
parser.add_argument("--runtime", choices=sorted(PACKAGES), help="default: the first one installed")
args = parser.parse_args()

installed = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package)]
if not installed:
    raise SystemExit("no TFLite runtime: pip install tflite-runtime 'numpy<2', or pip install ai-edge-litert")
runtime = args.runtime or installed[0]
Interpreter = importlib.import_module(PACKAGES[runtime] + ".interpreter").Interpreter

raw = np.load(args.samples).astype(np.float32)
channels = (1, -1) + (1,) * (raw.ndim - 2)
normalized = (raw - np.reshape(MEAN, channels)) / np.reshape(STD, channels)
inputs = raw if args.normalized else normalized.astype(np.float32)


def infer(interpreter, sample):
    """One sample: quantise where the input is an integer, run, dequantise."""
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero_point = source["quantization"]
    if scale:
        sample = np.clip(np.round(sample / scale) + zero_point, -128, 127)
    interpreter.set_tensor(source["index"], sample.reshape(source["shape"]).astype(source["dtype"]))
    interpreter.invoke()
    scale, zero_point = target["quantization"]
    row = interpreter.get_tensor(target["index"]).astype(np.float32)
    return (row - zero_point) * scale if scale else row


for model in [args.model] if args.model else sorted(here.rglob("*.tflite")):
    interpreter = Interpreter(model_path=str(model))
    interpreter.allocate_tensors()
    logits = np.concatenate([infer(interpreter, sample) for sample in inputs])
    if args.output:
        np.save(args.output, logits)
    for i, row in enumerate(logits):
        number = int(row) if np.ndim(row) == 0 else int(row.argmax())  # class numbers come from a graph with argmax
        print(f"{model.name} ({runtime}) sample {i}: {LABELS[number] if LABELS else number}")
