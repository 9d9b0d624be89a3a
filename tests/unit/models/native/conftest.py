"""The compiled library, built once."""

from __future__ import annotations

import ctypes

import pytest

from online_draft.models.native.build import find_compiler, kernels


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    if find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    loaded = kernels.wait(300)
    assert loaded is not None, kernels.error
    return loaded
