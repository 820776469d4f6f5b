"""Write again what rests on the published timings: profiles, transfer.yaml, memory.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from .. import memory
from .. import profiles as shelf
from ..published import transfer
from .build import build

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Json

    from ..fit import Anchors

_HEAD = "# written by `python -m benchmarks.studies.accuracy.prediction --remake`; do not edit\n"


def remake() -> list[Path]:
    """Every file that is made of the data folder's tables; the same tables give the same bytes."""
    made = build()
    written = [shelf.write(profile, shelf.SHIPPED) for profile in made]
    for path in shelf.SHIPPED.glob("*.yaml"):
        if path not in written:
            path.unlink()
    summary = transfer.summarise(transfer.tried({profile.id: profile for profile in made}))
    models = {
        runtime: _model(runtime, anchors, memory.base_bytes(runtime))
        for runtime, anchors in memory.every_anchors().items()
    }
    for path, document in ((transfer.FILE, summary), (memory.FILE, models)):
        path.write_text(_HEAD + yaml.dump(document, sort_keys=False), encoding="utf-8")
        written.append(path)
    return written


def _model(runtime: str, anchors: Anchors, base_bytes: float) -> Json:
    costs, found = memory.fitted(runtime, anchors)
    return {
        "costs": {name: float(f"{cost:.5g}") for name, cost in costs.items()},
        "base_bytes": base_bytes,
        "anchors": len(anchors.names),
        "mdape": float(f"{found.mdape:.4g}"),
        "within20": float(f"{found.within(0.2):.4g}"),
    }
