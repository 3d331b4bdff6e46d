"""Pages in Debian's Chromium, offline: what every browser test opens, and what every page has to keep to."""

import functools
import os
import shutil
from pathlib import Path

import pytest

from tests.browser import pages
from tests.test_package import CHECKOUT

ARTIFACTS = Path(os.environ.get("BROWSER_ARTIFACTS", CHECKOUT / "artifacts" / "browser"))
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
HANGING = 120_000  # ms; a busy machine is slow, and a limit only ends what hangs


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def file_of(tmp_path_factory):
    """Returns the file of a page by its name in `pages`, written once."""
    folder = tmp_path_factory.mktemp("pages")

    @functools.cache
    def write(name):
        path = folder / f"{name}.html"
        path.write_text(pages.MAKERS[name](), encoding="utf-8")
        return path

    return write


@pytest.fixture
def visit(chromium, file_of):
    """Opens a page, ready to use; a request, an error, or a dialog of any page fails the test at its end."""
    contexts, faults = [], []

    def open_page(name, address="", *, scripts=True, **options):
        size = {"width": 1280, "height": 900}
        context = chromium.new_context(
            **{"viewport": size, "offline": True, "java_script_enabled": scripts, "accept_downloads": True, **options}
        )
        context.set_default_timeout(HANGING)
        contexts.append(context)
        page = context.new_page()
        page.add_init_script("window.alert = (text) => { window.dialog = text }")
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        own = file_of(name).as_uri()
        page.on("request", lambda request: faults.append(request.url) if is_foreign(request.url, own) else None)
        page.goto(own + address)
        if scripts:
            wait_until_ready(page)
        return page

    yield open_page
    dialogs = [page.evaluate("window.dialog") for context in contexts for page in context.pages]
    for context in contexts:
        context.close()
    assert not faults
    assert not any(dialogs)


def wait_until_ready(page):
    """Wait for a selector: a function would be polled by eval, which the page's policy forbids."""
    page.wait_for_selector("html[data-ready]", state="attached")


def is_foreign(url, own):
    """Tell whether a request is for anything but the page itself: a file beside it is elsewhere too."""
    return url.partition("#")[0] != own and not url.startswith(("data:", "blob:"))


@pytest.fixture(scope="session")
def shoot():
    """Keeps a picture of a page."""
    return lambda page, name: page.screenshot(path=ARTIFACTS / f"{name}.png")
