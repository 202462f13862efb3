"""``nanproof prove``: bound every value of an ML Program file for all inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanproof.cli.arrays import in_modes, named_arrays, needed
from nanproof.cli.face import Answer, Face
from nanproof.cli.kinds import stated_kinds
from nanproof.cli.verb import verb
from nanproof.errors import UsageError

if TYPE_CHECKING:
    from nanproof.refutation.witness import Refutation

__all__ = ["prove"]


@verb(
    "nanproof prove bert.mlpackage",
    "nanproof prove net.mlpackage --assume x=-1:1 --refute --witness broken.npz",
)
def prove(
    face: Face,
    model: Annotated[Path, typer.Argument(help="The .mlpackage.", metavar="MODEL")],
    assume: Annotated[
        list[str] | None,
        typer.Option(help="What is known of an input: its range, or its kind (x=image).", metavar="NAME=LOW:HIGH"),
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(help="Inputs: what has no known range is assumed to stay in theirs.", metavar="FILE"),
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="Shape of an input that may have several.", metavar="NAME=1,128")
    ] = None,
    refute: Annotated[bool, typer.Option("--refute", help="Search an input that breaks what is not proved.")] = False,
    witness: Annotated[
        Path | None, typer.Option(help="Where to save the input that was found.", metavar="FILE.npz")
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option("--unit", help="Numerics to prove it for; may be repeated.", show_default="gpu, cpu, ane"),
    ] = None,
) -> Answer:
    """Bound every value of an ML Program for all inputs: is there one that makes Inf or NaN?

    What is assumed of the inputs is printed: token ids lie in their table, masks are 0 or 1, images are pixels; of what
    is not known, say it with --assume. The answer is proved, or unknown with the op where the proof is lost; with
    --refute also refuted, with an input that was executed and fails. Exit code 0: proved; 1: refuted; 3: unknown.
    """
    with face.progress(f"proving {model}") as progress:
        progress("read")
        from nanproof.interpret.proof import DEFAULT_UNITS
        from nanproof.interpret.proof import prove as proved
        from nanproof.mil.read import load_program
        from nanproof.refutation.refute import refute as search
        from nanproof.report.proof import proof_data
        from nanproof.report.proof_text import show_proof

        program = load_program(model)
        interface = program.interface
        batches = [in_modes(named_arrays(path, needed(interface)), interface) for path in inputs or []]
        progress("prove")
        proof = proved(
            program,
            stated_kinds(assume or [], "--assume"),
            units=unit or DEFAULT_UNITS,
            batches=batches,
            shapes=dict(_shape(text) for text in shape or []),
        )
        found: Sequence[Refutation] = ()
        if refute or witness is not None:
            progress("search a witness")
            found = search(program, proof, batches=batches)
    data = {"model": str(model), **proof_data(proof, found)}
    shown = next((r.witness for r in found if r.verdict == "refuted" and r.witness is not None), None)
    if shown is not None and witness is not None:
        data["witness"] = shown.reproduction(str(model), str(shown.save(witness)))
    code = {"proved": 0, "refuted": 1}.get(data["verdict"], 3)
    return Answer("prove", data, lambda console: show_proof(console, data), code)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.partition("=")
    try:
        return name, tuple(int(size) for size in sizes.split(","))
    except ValueError:
        raise UsageError(f"--shape '{text}' is no NAME=SIZES, such as input_ids=1,128.") from None
