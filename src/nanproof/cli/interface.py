"""What a model takes and gives: as data for JSON, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nanproof.program import Feature, Interface, Type

__all__ = ["interface_data", "interface_rows"]

_SHOWN_LABELS = 6


def interface_data(interface: Interface, states: Mapping[str, Type]) -> dict[str, Any]:
    """An interface as plain data. ``text`` says the same in words."""
    data: dict[str, Any] = {
        "inputs": [_feature_data(f) for f in interface.inputs.values()],
        "outputs": [_feature_data(f) for f in interface.outputs.values()],
        "states": [{"name": n, "dtype": t.dtype.value, "shape": list(t.shape)} for n, t in states.items()],
    }
    if interface.label:
        classes = list(interface.classes)
        data["classifier"] = {
            "label": interface.label,
            "probabilities": interface.probabilities,
            "classes": classes,
        }
    return data


def _feature_data(feature: Feature) -> dict[str, Any]:
    shapes = feature.shapes
    return {
        "name": feature.name,
        "dtype": feature.type.dtype.value,
        "shape": list(feature.type.shape),
        "text": str(feature),
        "image": feature.color.value if feature.color is not None else None,
        "default_shape": None if shapes.default is None else list(shapes.default),
        "enumerated_shapes": [list(s) for s in shapes.enumerated],
        "shape_ranges": [list(r) for r in shapes.ranges],
        "optional": feature.optional,
        "default": feature.default,
        "description": feature.description,
    }


def interface_rows(data: Mapping[str, Any]) -> list[tuple[str, RenderableType]]:
    """The rows of a labelled table that show the data of an interface."""
    rows: list[tuple[str, RenderableType]] = [("inputs", _table(data["inputs"])), ("outputs", _table(data["outputs"]))]
    if data["states"]:
        typed = ({**s, "text": f"{s['dtype']}[{', '.join(str(d) for d in s['shape'])}]"} for s in data["states"])
        rows.append(("states", _table(typed)))
    if "classifier" in data:
        from rich.text import Text

        classes = data["classifier"]["classes"]
        listed = ", ".join(str(c) for c in classes[:_SHOWN_LABELS]) + (", ..." if len(classes) > _SHOWN_LABELS else "")
        rows.append(("labels", Text(f"{len(classes)}: {listed}")))
    return rows


def _table(features: Any) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for feature in features:
        described = f"  {feature['description']}" if feature.get("description") else ""
        table.add_row(Text(feature["name"]), Text.assemble(feature["text"], (described, "dim")))
    return table
