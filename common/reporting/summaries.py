"""What TensorBoard's page shows beside curves: texts, pictures, and precision over recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.pr_curve import metadata as pr_curve
from tensorboard.plugins.text import metadata as text_plugin
from tensorboard.util.tensor_util import make_tensor_proto

# Of more classes than this nobody looks at a curve each.
_MOST_CURVES = 50


def text(tag: str, content: str) -> Summary:
    """A text as it stands, in letters of one width."""
    code = "\n".join(f"    {line}" for line in content.splitlines())  # to Markdown it is code as it stands
    metadata = text_plugin.create_summary_metadata(display_name=None, description="")
    tensor = make_tensor_proto(np.array([code], dtype=object))
    return Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)])


def picture(tag: str, jpeg: bytes, width: int, height: int) -> Summary:
    """A JPEG file's bytes."""
    image = Summary.Image(encoded_image_string=jpeg, width=width, height=height, colorspace=3)
    return Summary(value=[Summary.Value(tag=tag, image=image, metadata=SummaryMetadata())])


def precision_recall(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Summary:
    """Curves by name, each with columns precision and recall, the least recall first."""
    values = []
    for name, curve in list(curves.items())[:_MOST_CURVES]:
        precision, recall = (np.array(curve[key], np.float32)[::-1] for key in ("precision", "recall"))
        if len(recall):
            # True and false positives and negatives stand before them; the page draws the last two.
            columns = np.concatenate([np.zeros((4, len(recall)), np.float32), [precision, recall]])
            metadata = pr_curve.create_summary_metadata("", "", len(recall))
            tensor = make_tensor_proto(columns.astype(np.float32))
            values.append(Summary.Value(tag=f"precision_recall/{name}", tensor=tensor, metadata=metadata))
    return Summary(value=values)
