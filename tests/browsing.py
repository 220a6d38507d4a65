"""A headless browser for pages opened from disk."""

import contextlib
import shutil

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


@contextlib.contextmanager
def launched():
    """The system's chromium, else playwright's own; the test skips where there is neither."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, CHROMIUM)), None)
        try:
            started = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        except Error as error:
            pytest.skip(
                f"no browser: {str(error).splitlines()[0]}; install chromium, or run playwright "
                "install chromium"
            )
        yield started
        started.close()
