# SPDX-License-Identifier: MIT OR Apache-2.0
import pytest


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """A folder for what several tests share: generated cases and exported bundles."""
    return tmp_path_factory.mktemp("official")
