"""Run an OpenVINO artifact with openvino and numpy alone.

    python run_openvino.py [artifacts/openvino/MODEL.xml] [SAMPLES.npy] [--output LOGITS.npy] [--normalized]

SAMPLES.npy holds raw samples, first axis: samples (default: the bundle's examples). Needs: pip install openvino
"""

import argparse
from pathlib import Path

import numpy as np
import openvino

MEAN, STD, LABELS = [0.0], [1.0], []  # filled in when the bundle is made

here = Path(__file__).parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", nargs="?", type=Path, help="default: every .xml of the bundle")
parser.add_argument("samples", nargs="?", type=Path, default=here / "example_inputs.npy")
parser.add_argument("--output", type=Path, help="write the logits here (.npy)")
parser.add_argument("--normalized", action="store_true", help="the samples are model-ready already")
args = parser.parse_args()

raw = np.load(args.samples).astype(np.float32)
channels = (1, -1) + (1,) * (raw.ndim - 2)
normalized = (raw - np.reshape(MEAN, channels)) / np.reshape(STD, channels)
inputs = raw if args.normalized else normalized.astype(np.float32)
for model in [args.model] if args.model else sorted(here.rglob("*.xml")):
    # without the hint the CPU plug-in may compute in bf16
    compiled = openvino.Core().compile_model(str(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    logits = np.concatenate([compiled(inputs[i : i + 1])[0] for i in range(len(inputs))])
    if args.output:
        np.save(args.output, logits)
    for i, row in enumerate(logits):
        number = int(row) if np.ndim(row) == 0 else int(row.argmax())  # class numbers come from a graph with argmax
        print(f"{model.name} sample {i}: {LABELS[number] if LABELS else number}")
