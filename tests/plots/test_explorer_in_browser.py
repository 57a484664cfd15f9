"""The explorer as a user has it: a page in a real browser, in which a pixel is clicked."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyro_unmix as pu

pytest.importorskip("panel")
webdriver = pytest.importorskip("selenium.webdriver")
WebDriverException = pytest.importorskip("selenium.common").WebDriverException
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver"
)
#: Where to keep screenshots, to be looked at.
SCREENSHOTS = os.environ.get("PYRO_UNMIX_SCREENSHOTS")
#: All text of the page, also what is in the shadow of Panel's elements.
TEXT = """
const words = [];
const look = node => {
  if (node.shadowRoot) look(node.shadowRoot);
  for (const child of node.childNodes) {
    if (child.nodeType === 3) words.push(child.textContent);
    else if (!["STYLE", "SCRIPT"].includes(child.nodeName)) look(child);
  }
};
look(document.body);
return words.join(" ");
"""
#: Where on the page a point of the map is, in pixels of the window.
PLACE = """
const [x, y] = arguments;
const find = view => view.model.type === "Figure" && view.model.title.text.startsWith("material 0")
  ? view : [...(view.child_views ?? [])].map(find).find(found => found);
const views = Object.values(Bokeh.index).length ? Object.values(Bokeh.index) : [...Bokeh.index];
const figure = views.map(find).find(found => found);
const box = figure.el.getBoundingClientRect();
const frame = figure.frame;
return [
  box.left + frame.bbox.left + frame.x_scale.compute(x) - frame.x_scale.compute(figure.model.x_range.start),
  box.top + frame.bbox.top + frame.y_scale.compute(y) - frame.y_scale.compute(figure.model.y_range.end),
  ];
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument("--window-size=1280,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(executable_path=DRIVER)
    )
    yield driver
    driver.quit()


@contextlib.contextmanager
def served(explorer: pu.plots.Explorer) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = explorer.show(open=False, threaded=True, verbose=False, port=port)
    try:
        yield f"http://localhost:{port}"
    finally:
        server.stop()


def reached(browser: Any, address: str) -> bool:
    """Whether the page is there, now that it is asked for."""
    with contextlib.suppress(WebDriverException):
        browser.get(address)
        return True
    return False


def wait(what: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether it comes true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.2)
    return False


def keep(browser: Any, name: str) -> None:
    if SCREENSHOTS:
        browser.save_screenshot(str(Path(SCREENSHOTS) / f"{name}.png"))


@pytest.mark.parametrize("dates", [1, 6])
def test_a_click_chooses_a_pixel(browser: Any, dates: int) -> None:
    scene = pu.simulate.scaled_scene(num_dates=dates, height=8, width=12, seed=0)
    result = pu.unmix(scene.cubes, 3, progress=False, num_steps=5)
    explorer = result.explore()
    with served(explorer) as address:
        assert wait(lambda: reached(browser, address))
        assert wait(lambda: "pixel (y, x) = (4, 6)" in browser.execute_script(TEXT))
        assert wait(lambda: "wavelength (nm)" in str(explorer._spectrum.xaxis[0].axis_label))
        time.sleep(2)
        keep(browser, f"explorer_{dates}_before")
        x, y = browser.execute_script(PLACE, 9.5, 1.5)
        webdriver.ActionChains(browser).move_by_offset(round(x), round(y)).click().perform()
        webdriver.ActionChains(browser).move_by_offset(-round(x), -round(y)).perform()
        assert wait(lambda: "pixel (y, x) = (1, 9)" in browser.execute_script(TEXT))
        assert explorer.pixel == (1, 9)
        time.sleep(1)
        keep(browser, f"explorer_{dates}_after")
        np.testing.assert_allclose(explorer._curves["measured"].data["y"], scene.cubes[0, 1, 9])
        severe = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
        assert [e for e in severe if "favicon" not in e["message"]] == []
        size = {"width": 400, "height": 1100, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:  # on a phone all of it is below each other
            width = "return document.documentElement.scrollWidth"
            assert wait(lambda: browser.execute_script(width) <= 400, 20)
            keep(browser, f"explorer_{dates}_narrow")
        finally:
            browser.get("about:blank")  # before the server goes, of which the page would complain
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
