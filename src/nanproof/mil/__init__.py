"""The only room that imports coremltools: its frontend, its MIL passes, its file format.

Whatever needs it imports it by way of :mod:`nanproof.mil.coreml`, since the import has to be quiet. Reading a package
needs only the messages of the file format (:mod:`nanproof.mil.proto`).
"""
