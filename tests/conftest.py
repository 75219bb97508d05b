"""Tests never reach a network, run with quiet threads, and see no model that is prepared on the machine."""
import os
import shutil

import pytest

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false",
               "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


@pytest.fixture(scope="session", autouse=True)
def models(tmp_path_factory):
    "The folder of prepared models, for the tests and every process that they start: empty, whatever the user has prepared."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPDR_MODELS", str(tmp_path_factory.mktemp("prepared")))
        yield


@pytest.fixture
def project(tmp_path):
    "A folder with the notebooks of the small pipeline."
    import small_project
    small_project.make(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def browser():
    "A real Chromium, as Playwright drives it; tests that need it are skipped where there is none."
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if not path:
        pytest.skip("no Chromium here (Debian package: chromium)")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


def pytest_make_parametrize_id(config, val, argname):
    """Names of tests that are the same in every process, and short: the workers of pytest-xdist refuse to start when theirs differ.

    Bytes may hold the time (a gzip header does), so they are named by their number; a long text by its beginning."""
    if isinstance(val, bytes): return f"{argname} of {len(val)} bytes"
    if isinstance(val, str) and len(val) > 80: return val[:60].encode("unicode_escape").decode() + "..."
