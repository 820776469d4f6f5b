"""The section about the gate."""

from __future__ import annotations

from pydantic import Field

from edgedistill.recipe.section import Section


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


class PredictedGate(Section):
    """Predicted latency of each student artifact, on every device of `benchmark.simulated`."""

    max_ms: float = Field(gt=0)
    """The upper end of the 80% interval must keep within; if only the lower end does, it is inconclusive."""


class Gate(Section):
    """What must hold before the artifacts may ship. An absent part is not checked."""

    quality: QualityGate | None = None
    """Quality against the teacher."""
    size: SizeGate | None = None
    """Bytes of each student artifact."""
    latency: LatencyGate | None = None
    """Latency of each student artifact."""
    predicted: PredictedGate | None = None
    """Predicted latency on simulated devices."""
    parity: bool = True
    """Every artifact, the teacher's too, must match its torch model."""
