"""Tests never reach a network, and run with quiet threads."""
import os

import pytest

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false",
               "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


@pytest.fixture
def project(tmp_path):
    "A folder with the notebooks of the small pipeline."
    import small_project
    small_project.make(tmp_path)
    return tmp_path
