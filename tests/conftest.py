"""What all tests share: no network, and the way to the shared test material."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before any test can import huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"

SHARED = Path(os.environ.get("NANPROOF_SHARED") or Path(__file__).resolve().parents[2] / "shared").resolve()


def need_shared() -> None:
    """Skip the running test, with the reason, where the shared test material is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared test material, and {SHARED} is no folder (set NANPROOF_SHARED to name another)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give the marker `shared` its meaning."""
    if item.get_closest_marker("shared"):
        need_shared()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the shared test material; a test that asks for it is skipped where it is absent."""
    need_shared()
    return SHARED
