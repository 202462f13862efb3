"""Damaged packages: a fixed number of seeded cases (`make fuzz` runs them by the minute), and attacks by hand."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nanproof
from nanproof.errors import ExecutionError, ModelFileError, UnsupportedOpError
from nanproof.interpret.execute import Executor
from nanproof.mil.coreml import ct
from tests.fuzz.corpus import build
from tests.fuzz.harness import Fuzzer, use
from tests.fuzz.mutations import SPECIFICATION, WEIGHTS

CASES = 400


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def package(corpus: list[Path], tmp_path: Path) -> Path:
    """A network with a weight file, to be damaged."""
    return _copy(corpus, "network", tmp_path)


def _copy(corpus: list[Path], name: str, folder: Path) -> Path:
    (source,) = (path for path in corpus if path.stem == name)
    return Path(shutil.copytree(source, folder / source.name))


def test_every_package_of_the_corpus_runs(corpus: list[Path]) -> None:
    assert {path.stem: use(path) for path in corpus} == {path.stem: "ran" for path in corpus}


def test_damage_ends_in_errors_of_our_own(corpus: list[Path], tmp_path: Path) -> None:
    fuzzer = Fuzzer(corpus, tmp_path, seed=1)
    failures = [str(failure) for _ in range(CASES) if (failure := fuzzer.case()) is not None]
    assert not failures, "\n\n".join(failures)
    # Damage that is always found at once, or never, would test nothing of what comes after.
    assert fuzzer.outcomes["ran"] > CASES / 10
    assert fuzzer.outcomes["ModelFileError"] > CASES / 10
    assert any(outcome.endswith("ExecutionError") for outcome in fuzzer.outcomes)


# ---------------------------------------------------------------------------------------------------------------------
# Attacks by hand


def _edit(package: Path, change: Callable[[Any], None]) -> None:
    path = package / SPECIFICATION
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString(path.read_bytes())
    function = spec.mlProgram.functions["main"]
    change(function.block_specializations[function.opset])
    path.write_bytes(spec.SerializeToString())


def _operation(block: Any, kind: str) -> Any:
    return next(op for op in block.operations if op.type == kind)


def _constant(block: Any, op: Any, argument: str) -> Any:
    """The value of the const op that an argument names."""
    name = op.inputs[argument].arguments[0].name
    found = next((o for o in block.operations if o.type == "const" and o.outputs[0].name == name), None)
    return op.inputs[argument].arguments[0].value if found is None else found.attributes["val"]


def _run(package: Path) -> None:
    program = nanproof.load(package)
    Executor(program).once({name: np.zeros(t.shape, np.float32) for name, t in program.inputs.items()})


def test_a_package_of_links_that_lead_out_is_refused(package: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.bin"
    shutil.copy(package / WEIGHTS, outside)
    (package / WEIGHTS).unlink()
    (package / WEIGHTS).symlink_to(outside)
    with pytest.raises(ModelFileError, match=r"weight\.bin', which leads out of the package\. It was not opened\."):
        nanproof.load(package)


def test_links_in_a_circle_are_refused(package: Path) -> None:
    (package / WEIGHTS).unlink()
    (package / WEIGHTS).symlink_to(package / WEIGHTS)
    with pytest.raises(ModelFileError, match=r"weight\.bin' (\(|cannot)|names a file that cannot be|is missing"):
        nanproof.load(package)


@pytest.mark.parametrize("name", ["Manifest.json", SPECIFICATION, WEIGHTS])
def test_a_pipe_in_place_of_a_file_blocks_nothing(package: Path, name: str) -> None:
    (package / name).unlink()
    os.mkfifo(package / name)
    with pytest.raises(ModelFileError, match=r"has no Manifest|lacks its model specification|is missing"):
        nanproof.load(package)


@pytest.mark.parametrize(
    "path",
    ["../../outside/model.mlmodel", "/etc/passwd", "com.apple.CoreML/../../../model.mlmodel"],
)
def test_a_manifest_that_leads_out_is_refused(package: Path, path: str) -> None:
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
    (package / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFileError, match=r"leads out of the package"):
        nanproof.load(package)


@pytest.mark.parametrize("path", ["model\0.mlmodel", "a" * 5000])
def test_a_manifest_that_names_no_possible_file_is_refused(package: Path, path: str) -> None:
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
    (package / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFileError, match="names a file that cannot be"):
        nanproof.load(package)


def test_a_manifest_of_deep_brackets_is_refused(package: Path) -> None:
    (package / "Manifest.json").write_text("[" * 100_000)
    with pytest.raises(ModelFileError, match="is damaged: RecursionError"):
        nanproof.load(package)


def test_a_specification_of_more_than_2_gib_is_not_read(package: Path) -> None:
    with (package / SPECIFICATION).open("r+b") as file:
        file.truncate(2**40)  # a hole, which takes no room on the disk
    with pytest.raises(ModelFileError, match="larger than 2 GiB"):
        nanproof.load(package)


def test_a_weight_file_cut_off_is_named(package: Path) -> None:
    content = (package / WEIGHTS).read_bytes()
    (package / WEIGHTS).write_bytes(content[:-100])
    with pytest.raises(ModelFileError, match=r"(?s)weight\.bin'.* (cut off|beyond the end)"):
        nanproof.load(package)


@pytest.mark.parametrize("offset", [2**64 - 1, 2**63, 1, 65])
def test_a_weight_at_a_wrong_place_is_refused(package: Path, offset: int) -> None:
    def change(block: Any) -> None:
        for op in block.operations:
            if op.type == "const" and op.attributes["val"].WhichOneof("value") == "blobFileValue":
                op.attributes["val"].blobFileValue.offset = offset

    _edit(package, change)
    with pytest.raises(ModelFileError, match=r"beyond the end of the file|no valid record"):
        nanproof.load(package)


def test_values_that_are_read_before_they_are_made_are_refused(package: Path) -> None:
    """References in a circle are such reads, since ops stand in one order."""

    def change(block: Any) -> None:
        first, last = _operation(block, "conv"), _operation(block, "softmax")
        first.inputs["x"].arguments[0].name = last.outputs[0].name

    _edit(package, change)
    with pytest.raises(ModelFileError, match="before it is defined"):
        nanproof.load(package)


def test_values_of_one_name_are_refused(package: Path) -> None:
    def change(block: Any) -> None:
        _operation(block, "max_pool").outputs[0].name = _operation(block, "relu").outputs[0].name

    _edit(package, change)
    with pytest.raises(ModelFileError, match=r"defines the value '\w+' twice"):
        nanproof.load(package)


def test_blocks_in_blocks_in_blocks_are_read(package: Path) -> None:
    operation = ct.proto.MIL_pb2.Operation(type="cond")
    for _ in range(30):
        outer = ct.proto.MIL_pb2.Operation(type="cond")
        outer.blocks.add().operations.add().CopyFrom(operation)
        operation = outer
    operation.blocks[0].outputs.append("none")
    _edit(package, lambda block: block.operations.insert(0, operation))
    with pytest.raises(ModelFileError, match=r"uses the value 'none' before it is defined\."):
        nanproof.load(package)


def test_messages_nested_without_end_are_refused(package: Path) -> None:
    """Pipelines in pipelines, written byte by byte, since protocol buffers do not write what they do not read."""

    def field(number: int, content: bytes) -> bytes:
        key, size = number << 3 | 2, len(content)
        return _varint(key) + _varint(size) + content

    content = b""
    for _ in range(10_000):
        content = field(202, field(1, content))  # Model.pipeline.models
    (package / SPECIFICATION).write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.mlmodel' cannot be read"):
        nanproof.load(package)


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def test_thousands_of_dimensions_are_refused(package: Path) -> None:
    def change(block: Any) -> None:
        type = _operation(block, "relu").outputs[0].type.tensorType
        for _ in range(5000):
            type.dimensions.add().constant.size = 2**63

    _edit(package, change)
    with pytest.raises(ModelFileError, match="a tensor of 500"):
        nanproof.load(package)


def test_a_constant_of_petabytes_is_refused(package: Path) -> None:
    def change(block: Any) -> None:
        value = next(o for o in block.operations if o.type == "const").attributes["val"]
        value.type.tensorType.dimensions.add().constant.size = 2**60

    _edit(package, change)
    with pytest.raises(ModelFileError, match="declares a constant of type"):
        nanproof.load(package)


def test_unknown_ops_are_named(package: Path) -> None:
    def change(block: Any) -> None:
        _operation(block, "relu").type = "exec"

    _edit(package, change)
    with pytest.raises(UnsupportedOpError, match=r"exec \(1x\)"):
        _run(package)


def test_unknown_element_types_are_refused(package: Path) -> None:
    def change(block: Any) -> None:
        _operation(block, "relu").outputs[0].type.tensorType.dataType = 999

    _edit(package, change)
    with pytest.raises(ModelFileError, match="the element type 999"):
        nanproof.load(package)


@pytest.mark.parametrize(
    ("kind", "argument", "values"),
    [
        ("tile", "reps", [2**31 - 1, 2**31 - 1]),
        ("pad", "pad", [0, 2**31 - 1, 0, 2**31 - 1]),
        ("one_hot", "one_hot_vector_size", [2**31 - 1]),
    ],
)
def test_a_result_larger_than_the_machine_is_refused_before_it_is_made(
    package: Path, kind: str, argument: str, values: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sizes come from constants; what the result is declared as does not show them."""
    monkeypatch.setattr("nanproof.values.memory.memory_of_this_machine", lambda: 2**30)

    def change(block: Any) -> None:
        _constant(block, _operation(block, kind), argument).immediateValue.tensor.ints.values[:] = values

    _edit(package, change)
    with pytest.raises(ExecutionError, match=rf"\({kind}\) failed .*: a tensor of shape .* would take [\d,]+ GiB"):
        _run(package)


def test_an_op_turned_into_another_is_refused_before_it_fills_the_memory(package: Path) -> None:
    """`fill` of petabytes, which Linux would grant if it came in parts."""

    def change(block: Any) -> None:
        pad = _operation(block, "pad")
        _constant(block, pad, "pad").immediateValue.tensor.ints.values[:] = [2**13] * 4
        shape = ct.proto.MIL_pb2.Argument()
        shape.CopyFrom(pad.inputs["pad"])
        pad.ClearField("inputs")
        pad.inputs["shape"].CopyFrom(shape)
        pad.type = "fill"

    _edit(package, change)
    with pytest.raises(ExecutionError, match=r"\(fill\) failed .*: a tensor of shape .* would take 16,777,216 GiB"):
        _run(package)


def test_memory_that_pytorch_is_not_given_is_told_as_such(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that no rule foresees end in PyTorch's allocator, which names neither the op nor the cure."""
    monkeypatch.setattr("nanproof.values.memory.memory_of_this_machine", lambda: 2**62)

    def change(block: Any) -> None:
        _constant(block, _operation(block, "tile"), "reps").immediateValue.tensor.ints.values[:] = [2**24, 2**24]

    _edit(package, change)
    message = r"(?s)\(tile\) failed .*can't allocate memory.*The memory of this machine is not enough for it"
    with pytest.raises(ExecutionError, match=message):
        _run(package)


def test_a_declared_result_larger_than_the_machine_is_refused(package: Path) -> None:
    def change(block: Any) -> None:
        for dimension in _operation(block, "relu").outputs[0].type.tensorType.dimensions:
            dimension.constant.size = 2**20

    _edit(package, change)
    with pytest.raises(
        ExecutionError, match=r"(?s)of the op 'relu_0' \(relu\) is declared as .* this machine has .* GiB"
    ):
        _run(package)
