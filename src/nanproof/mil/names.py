"""Names that survive coremltools' FP16 cast: the cast pass renames the ops that it types."""

from __future__ import annotations

import re

__all__ = ["base_name"]

_SUFFIX = re.compile(r"(_cast_fp16|_cast_uint16|_cast_int16)+$")


def base_name(name: str) -> str:
    """The name that an op had before it was cast.

    >>> base_name("gather_0_cast_fp16_cast_uint16"), base_name("linear_3")
    ('gather_0', 'linear_3')
    """
    return _SUFFIX.sub("", name)
