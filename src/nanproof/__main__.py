"""``python -m nanproof`` is the command ``nanproof``."""

from __future__ import annotations

from nanproof.cli import main

if __name__ == "__main__":
    main()
