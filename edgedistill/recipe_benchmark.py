"""What a recipe says of measuring, and of what must hold before the artifacts may ship."""

from __future__ import annotations

from pydantic import Field

from edgedistill.recipe_terms import Section


class Benchmark(Section):
    """How latency and memory are measured: fresh processes of the agent, interleaved over artifacts."""

    device: str = "cpu"
    """Where (`edgedistill devices list`)."""
    threads: int = Field(default=1, ge=1)
    """Threads of the runtime."""
    rounds: int = Field(default=5, ge=1)
    """Fresh processes per artifact. The range of the medians of 5 rounds is a 94% interval of the median."""
    min_queries: int = Field(default=100, ge=2)
    """Least inferences per round."""
    min_duration_s: float = Field(default=0.25, ge=0)
    """Least seconds per round."""
    warmup_s: float = Field(default=0.1, ge=0)
    """Seconds of inferences before timing."""


class QualityGate(Section):
    """Quality of each student artifact against the teacher."""

    max_drop: float
    """Most that may be lost, absolute (0.02: two points of top-1). Decided on the 95% interval of the paired difference."""


class SizeGate(Section):
    """Size of each student artifact."""

    max_bytes: int | None = Field(default=None, ge=0)
    """Most bytes, all files of the artifact together."""
    max_ratio: float | None = Field(default=None, gt=0)
    """Most bytes relative to the teacher's fp32 artifact of the same format."""


class LatencyGate(Section):
    """Latency of each student artifact."""

    max_ratio: float
    """Most p50 relative to the teacher's fp32 artifact in the same runtime. Every round must agree, or it is inconclusive."""


class Gate(Section):
    """What must hold before the artifacts may ship. An absent part is not checked."""

    quality: QualityGate | None = None
    """Quality against the teacher."""
    size: SizeGate | None = None
    """Bytes of each student artifact."""
    latency: LatencyGate | None = None
    """Latency of each student artifact."""
    parity: bool = True
    """Every artifact, the teacher's too, must match its torch model."""
