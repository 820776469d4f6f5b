"""Metadata inside OpenVINO IR: `rt_info`, a key each below `edgedistill`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

from edgedistill.storage import write_atomically

from .._shared.metadata import NAME, document, texts

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Json

WEIGHTS = "weights_sha256"
"""The entry by which the .xml vouches for its .bin; no metadata."""


def embed(path: Path, metadata: Json) -> None:
    """Write metadata into an .xml, in the place of what it held of ours; the weights stay as they are.

    The text is edited, since reading and saving a model again may lay out its weights anew.
    """
    xml = path.read_text(encoding="utf-8")
    block = re.search(rf"[ \t]*<{NAME}>.*?</{NAME}>\n?", xml, re.DOTALL)
    vouched = re.search(rf'<{WEIGHTS} value="\w*" />', block.group()) if block else None
    lines = [f"<{key} value={quoteattr(value)} />" for key, value in texts(metadata).items()]
    lines += [vouched.group()] if vouched else []
    ours = f"\t\t<{NAME}>\n" + "".join(f"\t\t\t{line}\n" for line in lines) + f"\t\t</{NAME}>\n"
    start, end = block.span() if block else (_end_of_rt_info(xml),) * 2
    write_atomically(path, (xml[:start] + ours + xml[end:]).encode())


def _end_of_rt_info(xml: str) -> int:
    """Where the model's own rt_info ends: the last one, those of layers come before."""
    place = xml.rindex("</rt_info>")
    return xml.rindex("\n", 0, place) + 1


def metadata(path: Path) -> Json | None:
    """What `embed` wrote; None: nothing of ours."""
    import openvino

    model = openvino.Core().read_model(path)
    if not model.has_rt_info(NAME):
        return None
    return document({key: str(value.astype(str)) for key, value in model.get_rt_info()[NAME].items() if key != WEIGHTS})
