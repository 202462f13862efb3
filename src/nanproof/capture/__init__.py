"""PyTorch models → ``ExportedProgram``, decomposed to core ATen, with the source line of every node."""
