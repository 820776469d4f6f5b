"""Run an ncnn artifact with ncnn and numpy alone.

    python run_ncnn.py [artifacts/ncnn/MODEL.ncnn.param] [SAMPLES.npy] [--output LOGITS.npy] [--normalized]

SAMPLES.npy holds raw samples, first axis: samples (default: the bundle's examples). Needs: pip install ncnn
"""

import argparse
from pathlib import Path

import ncnn
import numpy as np

MEAN, STD, LABELS = [0.0], [1.0], []  # filled in when the bundle is made

here = Path(__file__).parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", nargs="?", type=Path, help="default: every .param of the bundle")
parser.add_argument("samples", nargs="?", type=Path, default=here / "example_inputs.npy")
parser.add_argument("--output", type=Path, help="write the logits here (.npy)")
parser.add_argument("--normalized", action="store_true", help="the samples are model-ready already")
args = parser.parse_args()

raw = np.load(args.samples).astype(np.float32)
channels = (1, -1) + (1,) * (raw.ndim - 2)
normalized = (raw - np.reshape(MEAN, channels)) / np.reshape(STD, channels)
inputs = raw if args.normalized else normalized.astype(np.float32)


def blobs(model):
    """Names of the first input and the first output: what no layer takes."""
    layers = [line.split() for line in model.read_text().splitlines()[2:]]
    taken = {blob for words in layers for blob in words[4 : 4 + int(words[2])]}
    source = next(words[4] for words in layers if words[0] == "Input")
    made = [blob for words in layers for blob in words[4 + int(words[2]) : 4 + int(words[2]) + int(words[3])]]
    return source, next(blob for blob in made if blob not in taken)


def infer(net, source, target, sample):
    """One sample: ncnn knows no batch."""
    with net.create_extractor() as extractor:
        extractor.input(source, ncnn.Mat(np.ascontiguousarray(sample)).clone())
        return np.array(extractor.extract(target)[1])


for model in [args.model] if args.model else sorted(here.rglob("*.param")):
    net = ncnn.Net()
    # float32, but for layers that are stored as integers
    net.opt.use_int8_inference = True
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(model)) or net.load_model(str(model.with_suffix(".bin"))):
        raise SystemExit(f"ncnn cannot read {model}")
    logits = np.stack([infer(net, *blobs(model), sample) for sample in inputs])
    if args.output:
        np.save(args.output, logits)
    for i, row in enumerate(logits):
        number = int(row) if np.ndim(row) == 0 else int(row.argmax())  # class numbers come from a graph with argmax
        print(f"{model.name} sample {i}: {LABELS[number] if LABELS else number}")
