"""The only room that imports coremltools: its frontend, its MIL passes, its file format.

coremltools is imported here, before any module of this room can import a part of it, since the import has to be quiet.
"""

from __future__ import annotations

from nanproof.mil import coreml as coreml
