"""Get the full Fashion-MNIST (60,000 + 10,000 images, 10 classes) as train.npz and test.npz.

    python examples/fashion_mnist/fetch.py [FOLDER]

The images come from the Debian package dataset-fashion-mnist through `apt-get download`, which needs no root, and its
digest is checked. `x` is uint8 (n, 1, 28, 28), `y` int64 (n,). FOLDER is the one of this script unless given. The data
set is under the MIT (Expat) licence.
Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms", 2017.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGE = "dataset-fashion-mnist=0.0~git20200523.55506a9-1"
SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"


def main() -> None:
    """Write both splits into the folder of the first argument."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        archive = download(Path(scratch))
        subprocess.run([program("dpkg-deb"), "-x", archive, scratch], check=True)
        files = Path(scratch) / "usr" / "share" / "datasets" / "fashion-mnist"
        save(folder / "train.npz", files, "train")
        save(folder / "test.npz", files, "t10k")


def program(name: str) -> str:
    """The path of a program that must be there."""
    return shutil.which(name) or sys.exit(f"{name} is needed to get the data: run this on Debian or Ubuntu")


def download(scratch: Path) -> Path:
    """The package, its digest checked."""
    subprocess.run([program("apt-get"), "--quiet", "download", PACKAGE], cwd=scratch, check=True)
    (archive,) = scratch.glob("*.deb")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{PACKAGE} is not the package that was read: sha256 {digest}, expected {SHA256}")
    return archive


def save(target: Path, files: Path, split: str) -> None:
    """One split from the package's two files of it."""
    x = idx(files / f"{split}-images-idx3-ubyte.gz")[:, None]
    y = idx(files / f"{split}-labels-idx1-ubyte.gz").astype(np.int64)
    if len(x) != len(y):
        sys.exit(f"{target.name}: {len(x)} images but {len(y)} labels")
    arrays: dict[str, Any] = {"x": x, "y": y}
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    partial.replace(target)  # a half-written file never bears the name
    sys.stdout.write(f"{target}: x {x.dtype} {x.shape}, y {y.dtype} {y.shape}\n")


def idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of bytes: two zeros, type 8, the number of axes, their lengths as big-endian int32, the data."""
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, dtype=">i4", count=axes, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)


if __name__ == "__main__":
    main()
