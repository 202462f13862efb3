"""Sum up what `operators.py` found, for the page `docs/operators.md`: `benchmarks/results/operators.json`.

    python benchmarks/operator_results.py RESULTS.jsonl ... > benchmarks/results/operators.json

A sample counts where both sides could be judged. Of each operator: the samples that count, those that agree by nanproof
and by plain coremltools, and why the others of nanproof do not.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from operators import known

Samples = Mapping[tuple[str, int], str]


def judged(samples: Sequence[dict[str, Any]]) -> Samples:
    """Why each judged sample does not agree, by dtype and number; an empty string where it does."""
    return {(s.get("dtype", ""), s.get("number", 0)): s["why"] for s in samples if "why" in s}


def core_operators(names: Sequence[str]) -> dict[str, str]:
    """The operators of core ATen that have an entry of their own in the database, with the name of that."""
    found: dict[str, str] = {}
    for name in dir(torch.ops.aten):
        packet = getattr(torch.ops.aten, name)
        overloads = packet.overloads() if hasattr(packet, "overloads") else ()
        if any(torch.Tag.core in getattr(packet, overload).tags for overload in overloads):
            entries = (entry for entry in (name, f"nn.functional.{name}", f"special.{name}") if entry in names)
            found.update((name, entry) for entry in itertools.islice(entries, 1))
    return found


def main() -> None:
    """Print the sums as JSON, one line an operator."""
    newest: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sys.argv[1:]:
        newest.update(known(Path(path)))
    names = sorted({name for name, _ in newest})
    rows: dict[str, Any] = {}
    for name in names:
        ours, plain = (judged(newest.get((name, side), [])) for side in ("ours", "plain"))
        both = sorted(set(ours) & set(plain))
        if both:
            agree = [sum(not side[key] for key in both) for side in (ours, plain)]
            rows[name] = [len(both), *agree, sorted({ours[key] for key in both if ours[key]})]
    head = {"torch": torch.__version__.split("+")[0], "coremltools": "9.0", "core": core_operators(names)}
    lines = ",\n".join(f'  "{name}": {json.dumps(row)}' for name, row in rows.items())
    print(json.dumps(head)[:-1] + ', "operators": {\n' + lines + "\n}}")


if __name__ == "__main__":
    main()
