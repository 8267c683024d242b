"""The exported model: files that plain MXNet loads, and a page of JSON that says what goes in and comes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.engine.graph import MEAN, STD, export_symbol
from common.engine.parameter_file import write_parameter_file
from common.files import replacing, write_json
from common.task import Model


def export_model(model: Model, folder: Path, shape: Sequence[int], metric: dict[str, Any]) -> list[Path]:
    """Write NAME-symbol.json, NAME-0000.params and model.json to `folder`, each whole or not at all.

    shape: width and height of the input. The graph computes in float32 and needs nothing of this project. Each of the
    model's further exports is another graph for the same parameters: NAME-EXPORT.json.
    """
    symbol = export_symbol(model.network)
    values = model.network.collect_params()
    arguments = [name for name in symbol.list_arguments() if name != "data"]
    arrays = {f"arg:{name}": values[name]._reduce().asnumpy() for name in arguments}
    arrays.update(
        {f"aux:{name}": values[name]._reduce().asnumpy() for name in symbol.list_auxiliary_states()}
    )
    symbol_path = folder / f"{model.name}-symbol.json"
    params_path = folder / f"{model.name}-0000.params"
    # The parameters first: a reader that sees the graph finds its parameters beside it.
    graphs = {folder / f"{model.name}-{name}.json": block for name, block in model.further_exports().items()}
    write_parameter_file(params_path, arrays)
    for path, graph in (
        *((path, export_symbol(block)) for path, block in graphs.items()),
        (symbol_path, symbol),
    ):
        with replacing(path, "w") as file:
            file.write(graph.tojson())
    card = folder / "model.json"
    write_json(
        card,
        {
            "symbol": symbol_path.name,
            "params": params_path.name,
            "input": {
                "name": "data",
                "layout": "NCHW",
                "type": "float32",
                "width": shape[0],
                "height": shape[1],
                "colour": "RGB",
                "range": "0 to 1, then (value - mean) / std by channel",
                "mean": MEAN,
                "std": STD,
            },
            "classes": model.classes,
            "metric": metric,
            **model.interface(),
        },
    )
    return [symbol_path, params_path, *graphs, card]
