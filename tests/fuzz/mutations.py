"""Seeded damage: to the bytes of any file of a package, to its manifest, and to fields of its parsed specification."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from nanproof.mil.coreml import ct

SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"

_NUMBERS = (0, 1, 2, 3, 5, 7, 8, 63, 64, 65, 127, 255, 1 << 16, (1 << 31) - 1, 1 << 32, 1 << 40, 1 << 60, (1 << 63) - 1)
_PATHS = (
    "@model_path/../../../Manifest.json",
    "@model_path//etc/passwd",
    "/etc/passwd",
    "@model_path/weights",
    "@model_path/weights/weight.bin\0",
    "@model_path/" + "a/" * 3000,
    "@model_path/weights/none.bin",
    "",
)
_REAL = (0.0, -1.0, 1e308, float("inf"), float("nan"), 0.5, -65504.0)

_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.TYPE_UINT64: (0, (1 << 64) - 1),
}


class Damage:
    """One change of a package folder, made by a seed, so that it can be made again."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed

    def __str__(self) -> str:
        return f"{self.kind}:{self.seed}"

    def apply(self, package: Path) -> None:
        """Damage the package in place."""
        KINDS[self.kind](package, random.Random(self.seed))


def draw(rng: random.Random) -> list[Damage]:
    """What one case does to a package: most often a few fields, now and then bytes."""
    count = rng.choice((1, 1, 1, 2, 3, 6))
    kinds = rng.choices(("fields", "bytes", "weights", "manifest"), (12, 2, 2, 1), k=count)
    return [Damage(kind, rng.getrandbits(32)) for kind in kinds]


# ---------------------------------------------------------------------------------------------------------------------
# Bytes


def _damaged(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    way = rng.randrange(5)
    place = rng.randrange(len(data)) if data else 0
    if way == 0:
        return bytes(data[:place])
    if way == 1:
        return bytes(data[:place] + data[place + rng.randrange(1, 64) :])
    if way == 2:
        return bytes(data[:place] + rng.randbytes(rng.randrange(1, 64)) + data[place:])
    for _ in range(rng.choice((1, 1, 4, 32))):
        if data:
            # Near the start stand the header and the first records of a weight file.
            place = rng.randrange(min(len(data), 256) if way == 3 else len(data))
            data[place] = rng.choice((0, 255, data[place] ^ 1 << rng.randrange(8), rng.randrange(256)))
    return bytes(data)


def _damage_file(name: str) -> Callable[[Path, random.Random], None]:
    def damage(package: Path, rng: random.Random) -> None:
        path = package / name
        if path.is_file():
            path.write_bytes(_damaged(path.read_bytes(), rng))

    return damage


def _damage_manifest(package: Path, rng: random.Random) -> None:
    path = package / "Manifest.json"
    if rng.randrange(3) == 0 or not path.is_file():
        path.write_bytes(_damaged(path.read_bytes() if path.is_file() else b"", rng))
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["itemInfoEntries"]
        for entry in entries.values():
            entry["path"] = rng.choice(("../../../../etc/passwd", "/etc/passwd", "\0", "", 7, None, "a" * 5000, [1]))
        content[rng.choice(tuple(content))] = rng.choice((None, 1, [], {}, "x", entries))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        content = rng.choice(([], None, {"itemInfoEntries": []}, [[[]]]))
    path.write_text(json.dumps(content), encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# Fields


def _damage_fields(package: Path, rng: random.Random) -> None:
    path = package / SPECIFICATION
    spec = ct.proto.Model_pb2.Model()
    try:
        spec.ParseFromString(path.read_bytes())
    except Exception:  # a damage before this one left no specification
        return
    messages = list(_messages(spec))
    for _ in range(rng.choice((1, 1, 2))):
        # Ops, types and constants lie deep; a message near the top stands for thousands that are near the leaves.
        _change(rng.choice(messages), messages, rng)
    path.write_bytes(spec.SerializeToString())


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        for child in _children(field, value):
            yield from _messages(child)


def _children(field: Any, value: Any) -> list[Message]:
    if _is_map(field):
        entry = field.message_type.fields_by_name["value"]
        return [value[key] for key in sorted(value)] if entry.type == FieldDescriptor.TYPE_MESSAGE else []
    if field.type != FieldDescriptor.TYPE_MESSAGE:
        return []
    return list(value) if _repeats(field) else [value]


def _repeats(field: Any) -> bool:
    return getattr(field, "is_repeated", None) is True or (
        not hasattr(field, "is_repeated") and field.label == FieldDescriptor.LABEL_REPEATED
    )


def _is_map(field: Any) -> bool:
    kind = field.message_type
    return kind is not None and kind.has_options and kind.GetOptions().map_entry


def _change(message: Message, messages: list[Message], rng: random.Random) -> None:
    fields = list(message.DESCRIPTOR.fields)
    present = [field for field, _ in message.ListFields()]
    if not fields:
        return
    field = rng.choice(present) if present and rng.randrange(4) else rng.choice(fields)
    if rng.randrange(8) == 0:
        message.ClearField(field.name)
    elif _is_map(field):
        _change_map(getattr(message, field.name), field, rng)
    elif _repeats(field):
        _change_list(message, field, messages, rng)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        _replace(getattr(message, field.name), messages, rng)
    else:
        setattr(message, field.name, _scalar(field, getattr(message, field.name), messages, rng))


def _change_map(entries: Any, field: Any, rng: random.Random) -> None:
    keys = sorted(entries)
    if not keys:
        return
    key = rng.choice(keys)
    way, other = rng.randrange(3), rng.choice((*map(str, keys), "x", "y", "val", "axis", "shape", "name", ""))
    if field.message_type.fields_by_name["value"].type != FieldDescriptor.TYPE_MESSAGE:
        del entries[key]
        return
    if way and isinstance(key, str):
        entries[other].CopyFrom(_copy(entries[key]))
    if way != 1:
        del entries[key]


def _change_list(message: Message, field: Any, messages: list[Message], rng: random.Random) -> None:
    values = getattr(message, field.name)
    way = rng.randrange(4)
    if field.type != FieldDescriptor.TYPE_MESSAGE:
        if way == 0 and len(values):
            del values[rng.randrange(len(values))]
        elif way == 1 or not len(values):
            values.append(_scalar(field, values[0] if len(values) else None, messages, rng))
        else:
            place = rng.randrange(len(values))
            values[place] = _scalar(field, values[place], messages, rng)
        return
    if not len(values) or way == 0:
        same = [m for m in messages if m.DESCRIPTOR is field.message_type]
        found = _copy(rng.choice(same)) if same else None
        values.add().CopyFrom(found) if found is not None else values.add()
    elif way == 1:
        del values[rng.randrange(len(values))]
    elif way == 2:
        values.add().CopyFrom(_copy(rng.choice(values)))
    else:
        a, b = rng.choice(values), rng.choice(values)
        first, second = _copy(a), _copy(b)
        a.CopyFrom(second)
        b.CopyFrom(first)


def _replace(target: Message, messages: list[Message], rng: random.Random) -> None:
    same = [m for m in messages if m.DESCRIPTOR is target.DESCRIPTOR]
    target.CopyFrom(_copy(rng.choice(same)) if same else type(target)())


def _copy(message: Message) -> Message:
    """A message of its own: protobuf crashes where a message is copied into a part of itself."""
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _scalar(field: Any, now: Any, messages: list[Message], rng: random.Random) -> Any:
    if field.type in _INTEGERS:
        low, high = _INTEGERS[field.type]
        near = [int(now or 0) + d for d in (-1, 1)] if rng.randrange(2) else []
        number = rng.choice((*near, *_NUMBERS, *(-n for n in _NUMBERS)))
        return min(max(number, low), high)
    if field.type == FieldDescriptor.TYPE_ENUM:
        known = [value.number for value in field.enum_type.values]
        return rng.choice((*known, *known, 999))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return not now
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return rng.choice(_REAL)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _damaged(bytes(now or b""), rng)
    names = [m.name for m in messages if "name" in m.DESCRIPTOR.fields_by_name and isinstance(m.name, str)]
    types = [m.type for m in messages if m.DESCRIPTOR.name == "Operation"]
    return rng.choice((rng.choice((*names, "")), rng.choice((*types, "none_such")), rng.choice(_PATHS)))


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "fields": _damage_fields,
    "bytes": _damage_file(SPECIFICATION),
    "weights": _damage_file(WEIGHTS),
    "manifest": _damage_manifest,
}
