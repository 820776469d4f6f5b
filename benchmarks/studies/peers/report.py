"""The table and the chart for the documentation."""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.studies.peers.environment import PINS
from benchmarks.studies.peers.figures import PROMISES, complaints
from benchmarks.studies.peers.subjects import LIMIT, subject
from benchmarks.studies.peers.task import ALPHA, TEMPERATURE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.studies.peers.figures import Figure
    from benchmarks.studies.peers.measure import Setting

_OURS, _THEIRS = "#2563eb", "#9ca3af"


def page(found: Sequence[Figure], setting: Setting, command: str, loads: tuple[float, float]) -> str:
    """The Markdown page: what was measured where, the table, the promises."""
    rows = [
        f"| {f.subject.name} | {len(f.cpu_ms)} | {min(f.cpu_ms):.1f} | **{f.median:.1f}** | {max(f.cpu_ms):.1f} "
        f"| **{f.ratio:.2f}** | {min(f.ratios):.2f} to {max(f.ratios):.2f} | {_apart(f)} |"
        for f in found
    ]
    promises = [f"| {p.text} | {p.value(found):.2f} | {'yes' if p.holds(found) else '**no**'} |" for p in PROMISES]
    return f"""# Side by side

CPU time of one training step: teacher ResNet-56 into student ResNet-8 (He 2016, CIFAR), batches of {setting.batch}
random images of 32 x 32, one thread, fp32, SGD with Nesterov momentum, KD at T = {TEMPERATURE:g} with weight {ALPHA:g}.
Everything on this page was measured by `{command}` and written by it.

![CPU time per training step](peers.svg)

| subject | rounds | min, ms | median, ms | max, ms | x {subject(LIMIT).name} | within a round | student apart |
|---|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(rows)}

| promise | measured | holds |
|---|---:|---|
{chr(10).join(promises)}

**How.** In each of {setting.rounds} rounds every subject runs once, in a fresh process; each round starts with another
subject. A process trains {setting.steps} steps after a short warm-up, and its CPU time is divided by the steps.
"x" is the ratio of the medians; "within a round" the smallest and largest ratio inside one round, and what differs
by less than that is noise. Models, caches and optimisers are made before the clock starts, and the batches lie in RAM;
EdgeDistill's shuffling, checks, logs and checkpoints are inside its figures, torchdistill's data loader is not in its
own.
"Student apart" compares the logits of the trained student with those of the plain loop's: all of one objective must
have trained the same student. torchdistill never puts its teacher into evaluation mode; that is done for it here.

**Cached** means: the teacher's logits are there already. The first epoch costs what "teacher on every batch" costs.

**Where.** {_cpu()}, {os.cpu_count()} cores, load average {loads[0]:.1f} before and {loads[1]:.1f} after;
{platform.system()} {platform.release()}; Python {platform.python_version()}; {", ".join(_versions())}.
{_warning(complaints(found))}"""


def chart(found: Sequence[Figure]) -> str:
    """Medians as bars, every round as a dot, the limit as a line; SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas  # without pyplot: nothing of the caller's process is changed

    with mpl.rc_context({"svg.hashsalt": "edgedistill", "svg.fonttype": "none", "font.family": "sans-serif"}):
        canvas = Canvas(figsize=(8.2, 3.4))
        axes: Any = canvas.subplots()
        for row, f in enumerate(found):
            colour = _OURS if f.subject.key.startswith("ours") else _THEIRS
            axes.barh(row, f.median, height=0.62, color=colour, alpha=0.85)
            axes.plot(f.cpu_ms, [row] * len(f.cpu_ms), "o", color="#111827", markersize=2.5)
            label = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
            axes.annotate(f"{f.ratio:.2f} x", (max(f.cpu_ms), row), **label)
        limit = next(f for f in found if f.subject.key == LIMIT)
        axes.axvline(limit.median, color="#111827", linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(found)), [f.subject.name for f in found])
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel("CPU time per training step, ms (bar: median, dots: rounds; lower is better)")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        stream = io.StringIO()
        bare = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        canvas.savefig(stream, format="svg", metadata=bare, bbox_inches="tight")
    svg = stream.getvalue()
    return svg[svg.index("<svg") :]


def _apart(figure: Figure) -> str:
    if figure.subject.same_student_as == figure.subject.key:
        return "reference"
    return f"{figure.apart:.0e}" if figure.apart else "0"


def _warning(wrong: Sequence[str]) -> str:
    if not wrong:
        return ""
    return "\n**What does not hold:**\n\n" + "".join(f"- {line}\n" for line in wrong)


def _versions() -> list[str]:
    ours = [f"{name} {importlib.metadata.version(name)}" for name in ("edgedistill", "torch", "numpy")]
    return ours + [pin.replace("==", " ") for pin in PINS]


def _cpu() -> str:
    """The processor's name as Linux gives it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
