"""Every tensor of a file for one sample, computed in a process of its own: a foreign file is never opened in ours."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedistill import agent
from edgedistill.errors import ArtifactError
from edgedistill.types import TracedTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from edgedistill.contracts import Opener
    from edgedistill.types import Array, Artifact, Json

TIMEOUT_S = 3600


class Trace:
    """The tensors of a graph in the order of computation; those that are not kept hand their sources on."""

    def __init__(self) -> None:
        self.tensors: list[TracedTensor] = []
        self._behind: dict[Hashable, tuple[int, ...]] = {}

    def depends_on_inputs(self, key: Hashable) -> bool:
        """Whether a tensor is no constant."""
        return key in self._behind

    def origin(self, keys: Sequence[Hashable]) -> str:
        """Origin of the first of some tensors that was kept."""
        behind = next((self._behind[key] for key in keys if key in self._behind), ())
        return self.tensors[behind[0]].origin if behind else ""

    def keep(self, key: Hashable, sources: Sequence[Hashable], tensor: TracedTensor) -> None:
        """Append a tensor."""
        self._behind[key] = (len(self.tensors),)
        self.tensors.append(replace(tensor, sources=self._sources(sources)))

    def skip(self, key: Hashable, sources: Sequence[Hashable]) -> None:
        """Pass by a tensor: integers, copies."""
        self._behind[key] = self._sources(sources)

    def _sources(self, keys: Sequence[Hashable]) -> tuple[int, ...]:
        return tuple(sorted({number for key in keys for number in self._behind.get(key, ())}))


def feed(opener: Opener, path: str, runtime: str, inputs: str) -> tuple[agent.Session, list[Array]]:
    """The file opened as the agent opens it, and the first sample as it takes it."""
    session = opener.open(agent, runtime, path, 1, agent.shapes_in(inputs))
    return session, agent.load_inputs(inputs, session).every[0]


def traced(module: str, artifact: Artifact, runtime: str, inputs: Path) -> list[TracedTensor]:
    """Run a module of this folder, which ends in `serve`, on a file.

    Args:
        module: its name.
        artifact: the file.
        runtime: one of its format's.
        inputs: an .npz of model-ready samples; the first is taken.

    Raises:
        ArtifactError: the runtime refuses the file or the sample.
    """
    with tempfile.TemporaryDirectory() as folder:
        values = Path(folder) / "tensors.npz"
        command = [sys.executable, "-P", "-m", module, str(artifact.path), runtime, str(inputs), str(values)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        try:
            document: Json = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError):
            told = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            document = {"error": f"it died with exit code {done.returncode}: {told[:300]}"}
        if "error" in document:
            raise ArtifactError(
                f"the tensors of {artifact.path.name} cannot be read in {runtime}: {document['error']}",
                where=str(artifact.path),
                expected=f"a file and a sample that {runtime} takes",
                got=document["error"],
                fix="export the artifact again, or give inputs of its signature",
            )
        with np.load(values, allow_pickle=False) as archive:
            return [
                TracedTensor(**{**told, "sources": tuple(told["sources"])}, value=archive[str(number)])
                for number, told in enumerate(document["tensors"])
            ]


def serve(trace: Callable[[str, str, str], list[TracedTensor]]) -> int:
    """The process's main: arguments in, one JSON document out, values into the .npz."""
    path, runtime, inputs, values = sys.argv[1:]
    try:
        tensors = trace(path, runtime, inputs)
    except agent.Refused as refused:
        _tell({"error": refused.args[1]})
        return 3
    except Exception as error:  # noqa: BLE001 - each runtime has errors of its own for what it refuses
        _tell({"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"})
        return 3
    arrays = {str(number): np.asarray(tensor.value, np.float32) for number, tensor in enumerate(tensors)}
    np.savez(values, **arrays)
    _tell({"tensors": [{k: v for k, v in tensor.__dict__.items() if k != "value"} for tensor in tensors]})
    return 0


def _tell(document: Json) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
