"""What a recipe says of measuring, and of what must hold before the artifacts may ship."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edgedistill.recipe.section import Section

PRESETS: dict[str, dict[str, float]] = {
    "quick": {"rounds": 3, "min_queries": 64, "min_duration_s": 0.05, "warmup_s": 0.05},
    "normal": {"rounds": 5, "min_queries": 100, "min_duration_s": 0.25, "warmup_s": 0.1},
    "official": {"rounds": 5, "min_queries": 1024, "min_duration_s": 60.0, "warmup_s": 5.0},
}
"""What `preset` sets, where a key does not say otherwise. 64 queries are the fewest that bound a 90th percentile."""


class Benchmark(Section):
    """How latency and memory are measured: fresh processes of the agent, interleaved over artifacts."""

    device: str = "cpu"
    """Where (`edgedistill devices list`)."""
    simulated: list[str] = Field(default=[])
    """Simulated devices on which every student artifact's latency is predicted, such as `raspberry-pi-4b`."""
    threads: int = Field(default=1, ge=1)
    """Threads of the runtime."""
    affinity: list[int] = Field(default=[])
    """Cores to run on. Default: any that this process may use."""
    profile: int = Field(default=0, ge=0)
    """Inferences over which every operator is timed, where the runtime has a profiler. 0: not."""
    sustained_min: float = Field(default=0.0, ge=0)
    """Minutes of a stream without a pause in the first round, told minute by minute. 0: none."""
    preset: Literal["quick", "normal", "official"] = "normal"
    """Sets the four keys below where they are absent: `quick` 3 rounds of 64 queries, `official` 5 rounds of a minute."""
    rounds: int = Field(default=5, ge=1)
    """Fresh processes per artifact. The range of the medians of 5 rounds is a 94% interval of the median."""
    min_queries: int = Field(default=100, ge=2)
    """Least inferences per round."""
    min_duration_s: float = Field(default=0.25, ge=0)
    """Least seconds per round."""
    warmup_s: float = Field(default=0.1, ge=0)
    """Seconds of inferences before timing."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Most seconds that one process may take, minutes of `sustained_min` not counted."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, document: object) -> object:
        if not isinstance(document, dict):
            return document
        return {**PRESETS.get(document.get("preset", "normal"), {}), **document}
