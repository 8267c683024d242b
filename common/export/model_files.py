"""The exported model: files that plain MXNet loads, and a page of JSON that says what goes in and comes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import __version__
from common.engine.graph import MEAN, STD, export_symbol
from common.engine.mxnet_internals import value_of
from common.engine.parameter_file import write_parameter_file
from common.export.outputs import MODEL_CARD, graph_file, params_file, symbol_file
from common.files import replacing, write_json
from common.task import Model, Task


def export_model(
    model: Model, task: Task[Any], folder: Path, metric: dict[str, Any], further: Mapping[str, Any]
) -> list[Path]:
    """Write NAME-symbol.json, NAME-0000.params and model.json to `folder`, each whole or not at all.

    The graph computes in float32 and needs nothing of this project. Each of the model's further exports is another
    graph for the same parameters: NAME-EXPORT.json. metric: name, value and epoch of the best. further: what else
    the card says.
    """
    symbol = export_symbol(model.network)
    values = model.network.collect_params()
    arguments = [name for name in symbol.list_arguments() if name != "data"]
    arrays = {f"arg:{name}": value_of(values[name]) for name in arguments}
    arrays.update({f"aux:{name}": value_of(values[name]) for name in symbol.list_auxiliary_states()})
    symbol_path = folder / symbol_file(model.name)
    params_path = folder / params_file(model.name)
    # The parameters first: a reader that sees the graph finds its parameters beside it.
    graphs = {folder / graph_file(model.name, name): block for name, block in model.further_exports().items()}
    write_parameter_file(params_path, arrays)
    for path, graph in (
        *((path, export_symbol(block)) for path, block in graphs.items()),
        (symbol_path, symbol),
    ):
        with replacing(path, "w") as file:
            file.write(graph.tojson())
    width, height = task.shape
    card = folder / MODEL_CARD
    write_json(
        card,
        {
            "task": task.name,
            "version": __version__,
            "symbol": symbol_path.name,
            "params": params_path.name,
            "files": [path.name for path in (params_path, *graphs, symbol_path)],
            "input": {
                "name": "data",
                "layout": "NCHW",
                "type": "float32",
                "width": width,
                "height": height,
                "colour": "RGB",
                "range": "0 to 1, then (value - mean) / std by channel",
                "mean": MEAN,
                "std": STD,
            },
            "resize": task.resize.as_json(),
            "classes": model.classes,
            "metric": metric,
            **task.card(),
            **further,
            **model.interface(),
        },
    )
    return [symbol_path, params_path, *graphs, card]
