"""A third party's runtime file: text files that hold a factor, and numpy that multiplies by it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

if TYPE_CHECKING:
    from edgedistill.agent import Given, Session
    from edgedistill.contracts import Agent

RUNTIMES = {"toy": ("numpy", "numpy")}


def open(agent: Agent, runtime: str, path: str, threads: int, given: Optional[Dict[str, Given]]) -> Session:
    """The input has an axis without a size."""
    factor = float(Path(path).read_text(encoding="ascii"))
    inputs = [agent.sized("x", [None, None], "float32", agent.samples_of(["x"], given)[0])]
    return agent.Session(inputs, [{"name": "y"}], lambda feed: [factor * feed[0]], {"factor": factor})


def profile(
    agent: Agent, runtime: str, path: str, threads: int, samples: List[List[Any]], count: int
) -> List[Dict[str, Any]]:
    """One operator, run twice an inference."""
    return agent.operators([("times", "Mul", 1.0), ("times", "Mul", 3.0)] * count, count)
