"""The passes of ``coremltools.convert``: those of the user, cut in two where nanproof looks at the program."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nanproof.errors import UsageError
from nanproof.mil.coreml import ct
from nanproof.mil.narrowing import COREMLTOOLS_PASS, SOUND_PASS

__all__ = ["Halves", "Selector", "halves", "precision_of"]

Selector = Callable[[Any], bool]
"""Of a MIL op, whether it may compute in FP16."""

_CAST = "common::add_fp16_cast"


@dataclass(frozen=True, slots=True)
class Halves:
    """The names of the passes up to the FP16 cast, and from it on.

    Attributes:
        before: The passes that run in float32.
        after: The cast, and what follows it. Without a cast all passes run before, or up to the cast of integers, for
            which nanproof has its own (see :mod:`nanproof.mil.narrowing`).
        casts: Whether the cast is among them.
        options: Options of passes as the user has set them, by pass, in coremltools' own form.
        selector: Which ops the user lets be cast; ``None`` for all.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    casts: bool
    options: dict[str, Any]
    selector: Selector | None

    def pipeline(self, names: Sequence[str]) -> Any:
        """A ``PassPipeline`` of some of the passes, with the options that the user has set for them."""
        made = ct.PassPipeline(list(names), "nanproof")
        made._pass_options = {name: list(given) for name, given in self.options.items() if name in names}
        return made


def halves(pipeline: Any, without: Collection[str] = ()) -> Halves:
    """A pass pipeline in two halves.

    Args:
        pipeline: ``coremltools.PassPipeline``, or ``None`` for the default one. It is not changed.
        without: Names of passes to leave out.

    Raises:
        UsageError: It is no pass pipeline, or it sets an option of the FP16 cast that nanproof does not know.
    """
    if pipeline is None:
        pipeline = ct.PassPipeline()
    if not isinstance(pipeline, ct.PassPipeline):
        raise UsageError(
            f"`pass_pipeline` is a coremltools.PassPipeline, and not a {type(pipeline).__name__}: for example\n"
            "  pipeline = coremltools.PassPipeline(); pipeline.remove_passes({'common::fuse_conv_scale'})"
        )
    sound = {COREMLTOOLS_PASS: SOUND_PASS}
    names = [sound.get(name, name) for name in map(str, pipeline.passes)]
    cut = next((names.index(name) for name in (_CAST, SOUND_PASS) if name in names), len(names))
    before, after = (tuple(n for n in half if n not in without) for half in (names[:cut], names[cut:]))
    options = {sound.get(name, name): given for name, given in dict[str, Any](pipeline.get_all_options()).items()}
    return Halves(before, after, _CAST in names, options, _selector(options.pop(_CAST, [])))


def _selector(options: Sequence[Any]) -> Selector | None:
    """The options of the FP16 cast as one function, since nanproof has its own to set."""
    selectors: list[Selector] = []
    for option in options:
        if option.option_name == "op_selector":
            selectors.append(option.option_val)
        elif option.option_name == "skip_ops_by_type":
            skipped = {name.strip() for name in option.option_val.split(",")}
            selectors.append(lambda op, skipped=skipped: op.op_type not in skipped)
        else:
            raise UsageError(
                f"The pass pipeline sets the option '{option.option_name}' of {_CAST}, which has no such option.\n"
                "  Known: op_selector, skip_ops_by_type."
            )
    return (lambda op: all(allows(op) for allows in selectors)) if selectors else None


def precision_of(given: Any) -> tuple[Literal["auto", "float16", "float32"], Selector | None]:
    """``compute_precision`` of ``coremltools.convert`` as a precision, and which ops may be FP16 (``None`` for all).

    Raises:
        UsageError: It is none of coremltools' own.
    """
    if given is None:
        return "auto", None
    if given == ct.precision.FLOAT32:
        return "float32", None
    if given == ct.precision.FLOAT16:
        return "float16", None
    if isinstance(given, ct.transform.FP16ComputePrecision):
        return "auto", given.op_selector
    raise UsageError(
        f"`compute_precision` is {given!r}. Pass coremltools.precision.FLOAT16 or FLOAT32, or\n"
        "  coremltools.transform.FP16ComputePrecision(op_selector=...); or leave it out and set precision='auto'."
    )
