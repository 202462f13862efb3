"""Execution of a program on NumPy arrays: ``MLModel.predict`` on any machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from torch import Tensor

from nanproof.errors import UnsupportedOpError, UsageError
from nanproof.interpret.images import pixels, with_images
from nanproof.interpret.inputs import check_inputs
from nanproof.interpret.loop import Carried, Observer, Runner
from nanproof.interpret.state import State, Turn, check_state, make_state
from nanproof.numerics import Numerics, get
from nanproof.program import DType, Interface, Pipeline, Program, Type
from nanproof.values.floats import from_carrier, to_carrier

__all__ = ["Executor", "PipelineExecutor", "executor", "predict"]


class Executor:
    """A program made ready to run under one numerics. Checks inputs, converts to and from NumPy.

    Args:
        program: The program.
        numerics: A name (``"reference"``, ``"strict"``, ``"gpu"``, ``"cpu"``, ``"ane"``, ``"ane_m1"``) or a numerics.
        exact: Whether a numerics given by name computes bit for bit as its unit does, and slowly.

    Raises:
        NumericsError: No such numerics.
        UnsupportedOpError: The program holds ops that nanproof cannot execute.
        UsageError: It is a pipeline, and not one program.
    """

    def __init__(self, program: Program, numerics: str | Numerics = "reference", *, exact: bool = False) -> None:
        if isinstance(program, Pipeline):
            raise UsageError(
                f"This is a pipeline of {len(program.stages)} programs ({', '.join(program.stages)}), and one program "
                "is needed.\n  nanproof.predict and `nanproof run` take pipelines; for all else pass a stage of it: "
                f"pipeline.stages['{next(iter(program.stages))}']."
            )
        _require_no_custom_layers(program)
        self.program = program
        self.numerics = get(numerics, exact=exact)
        self._runner = Runner(program, self.numerics)
        self._kept: State | None = None

    @property
    def interface(self) -> Interface:
        """What can be passed and what comes back."""
        return self.program.interface

    def __call__(
        self, inputs: Mapping[str, Any], observers: Sequence[Observer] = (), *, state: State | None = None
    ) -> dict[str, Any]:
        """Run on one value for each input by name, and return the outputs in the order of ``program.outputs``.

        The outputs are arrays, those of images too: the tensors that stand for them. A classifier has a label (``str``
        or ``int``) and a ``dict`` of probabilities beside them. ``state`` is changed in place; if an op fails on the
        way, it holds what was written until then.

        Raises:
            InputError: An input is missing, unknown, of another shape, or not representable in the input's dtype, or
                the program keeps states and ``state`` is missing or that of another program.
            ExecutionError: An op failed.
        """
        arrays = check_inputs(self.interface, inputs)
        cells = check_state(self.program.states, state)
        carried = {name: to_carrier(a, self.program.inputs[name].dtype) for name, a in arrays.items()}
        tensors = {name: tensor for name, tensor in carried.items() if isinstance(tensor, Tensor)}
        outputs = self._runner({**tensors, **cells}, observers)
        types = self.program.outputs
        return {name: _returned(t, types[name]) for name, t in outputs.items()}

    def once(self, inputs: Mapping[str, Any], observers: Sequence[Observer] = ()) -> dict[str, Any]:
        """Run as the first prediction of a conversation: states, if there are any, are zeros.

        Of inputs that are a :class:`Turn` the states are those that it begins with, or those that the run before left.

        Raises:
            InputError, ExecutionError: As calling the executor.
        """
        state = self._kept if isinstance(inputs, Turn) and inputs.start is None else None
        if state is None:
            state = make_state(self.program)
            for name, value in ((inputs.start or {}) if isinstance(inputs, Turn) else {}).items():
                state.write_state(name, value)
        self._kept = state
        return self(inputs, observers, state=state)


@final
class PipelineExecutor:
    """A pipeline made ready to run under one numerics. An image that one stage hands to the next has 8-bit pixels.

    Args:
        pipeline: The pipeline.
        numerics: A name or a numerics, for all stages.
        exact: As for :class:`Executor`.

    Raises:
        NumericsError, UnsupportedOpError: As for :class:`Executor`.
    """

    def __init__(self, pipeline: Pipeline, numerics: str | Numerics = "reference", *, exact: bool = False) -> None:
        self.pipeline = pipeline
        self._stages = [Executor(stage, numerics, exact=exact) for stage in pipeline.stages.values()]

    @property
    def interface(self) -> Interface:
        """What can be passed and what comes back."""
        return self.pipeline.interface

    def __call__(
        self, inputs: Mapping[str, Any], observers: Sequence[Observer] = (), *, state: State | None = None
    ) -> dict[str, Any]:
        """Run on one value for each input by name, and return the outputs as :class:`Executor` does.

        Raises:
            InputError, ExecutionError: As calling an executor. A state must be empty: a pipeline keeps none.
        """
        check_state({}, state)
        # The stages get what was passed, and not the checked arrays: each converts to the dtypes of its own inputs.
        passed = {name: value for name, value in inputs.items() if value is not None}
        at_hand = {**check_inputs(self.interface, inputs), **passed}
        outputs: dict[str, Any] = {}
        for stage in self._stages:
            given = stage({name: at_hand[name] for name in stage.interface.inputs if name in at_hand}, observers)
            outputs |= given
            colors = {name: feature.color for name, feature in stage.interface.outputs.items()}
            at_hand |= {name: v if (color := colors[name]) is None else pixels(v, color) for name, v in given.items()}
        return {name: outputs[name] for name in self.interface.outputs}

    def once(self, inputs: Mapping[str, Any], observers: Sequence[Observer] = ()) -> dict[str, Any]:
        """The same as a call, as there are no states."""
        return self(inputs, observers)


def executor(
    program: Program | Pipeline, numerics: str | Numerics = "reference", *, exact: bool = False
) -> Executor | PipelineExecutor:
    """A program or a pipeline made ready to run.

    Raises:
        NumericsError, UnsupportedOpError: See :class:`Executor`.
    """
    if isinstance(program, Pipeline):
        return PipelineExecutor(program, numerics, exact=exact)
    return Executor(program, numerics, exact=exact)


def predict(
    program: Program | Pipeline,
    inputs: Mapping[str, Any],
    *,
    numerics: str | Numerics = "reference",
    exact: bool = False,
    state: State | None = None,
    function_name: str | None = None,
    images: bool = True,
) -> dict[str, Any]:
    """Run an ML Program, or a pipeline of them, on this machine.

    Args:
        program: From :func:`nanproof.load`, or ``result.program``.
        inputs: One value for each input name, except for optional inputs that shall have their defaults. An array (or
            anything ``numpy.asarray`` takes, tensors included) whose shape is among those that the input may have. For
            an image a Pillow image of mode ``RGB``, ``L`` or ``F`` as the layout wants, or its pixels as an array
            ``[height, width, 3]`` or ``[height, width]``, or the tensor ``[1, channels, height, width]``.
        numerics: How to compute: ``"reference"`` (float32 throughout), ``"strict"`` (IEEE binary16 everywhere),
            ``"gpu"``, ``"cpu"`` (binary16 storage, float32 inside an op), ``"ane"`` or ``"ane_m1"`` (the Neural Engine
            of an M4 or later, and of an M1), or a numerics from :func:`nanproof.numerics.get`.
        exact: Add up bit for bit as the unit does, as far as that has been measured. For small models: a product of
            two matrices takes some hundred times as long.
        state: For a program with states: what :func:`nanproof.make_state` made, changed in place.
        function_name: Which function of a multifunction program runs, instead of its default one.
        images: Whether an image output comes as a Pillow image, as from Core ML (mode ``RGBA``, ``L`` or ``F``), and
            not as the tensor ``[1, channels, height, width]`` that the program computes.

    Returns:
        One value for each output, in the order of ``program.outputs``: an array in the dtype of the output, or an
        image. Of a classifier, as from Core ML, the label and a ``dict`` from label to probability.

    Raises:
        InputError: An input is missing, unknown, or has a wrong shape, dtype or value.
        UsageError: There is no such function, or Pillow is missing for an image output.
        NumericsError: No such numerics.
        CouldNotCheckError: The program holds an op that cannot be executed.
    """
    run = executor(program.using(function_name), numerics, exact=exact)
    outputs = run(inputs, state=state)
    return with_images(outputs, run.interface) if images else outputs


def _require_no_custom_layers(program: Program) -> None:
    """Such an op names a class of the app's own, whose code is not in the file."""
    for op in program.main.block.walk():
        if op.type == "custom_layer":
            name = op.attributes.get("class_name", "")
            raise UnsupportedOpError(
                f"The op '{op.name}' of function '{program.default}' is a custom layer: it runs the class '{name}' of "
                "an app, whose code is not in the model.\n"
                "  nanproof cannot execute it. Convert the model without it, or with a composite op of MIL ops. "
                "Nothing was checked."
            )


def _returned(carried: Carried, type: Type) -> Any:
    if isinstance(carried, Tensor):
        # A copy, since the carrier may be a constant or a state, and what the caller does to the array is his own.
        array = np.array(from_carrier(carried, type.dtype))
        return array.item() if type == Type(DType.INT64) else array  # the label of a classifier
    return dict(carried) if isinstance(carried, Mapping) else carried
