"""What every test may use: the folder of reference material, when it is beside the checkout."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference outputs, weights and standard images kept outside the repository; the test is skipped without them."""
    if not (SHARED / "parity").is_dir():
        pytest.skip(f"needs the reference material in {SHARED.name}/ beside the checkout")
    return SHARED
