"""Open every page in a headless Chromium and say what is wrong with it; run by hand and by the workflow of the pages.

    python docs/look.py docs/_build [--keep FOLDER]

At 1280 and at 400 pixels of width: what reaches beyond the page, pictures that are broken, links to files or places
that are not there. Then a search. With ``--keep`` the pages are left as pictures, to be looked at. Needs Selenium (of
the extra ``test``), chromium and chromedriver.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from selenium import webdriver
from selenium.webdriver.common.by import By

WIDTHS = (1280, 400)
_TALLEST = 4000  # of a picture, pixels
_MEASURE = """
const width = document.documentElement.clientWidth;
const scrolls = element => {
  for (let e = element; e && e !== document.body; e = e.parentElement) {
    const style = getComputedStyle(e);
    if (["auto", "scroll", "hidden", "clip"].includes(style.overflowX) || style.position === "fixed") return true;
  }
  return false;
};
const wide = [...document.querySelectorAll("body *")].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width > 0 && box.right > width + 2 && !scrolls(element);
});
return {
  wide: wide.slice(0, 3).map(e => `${e.tagName.toLowerCase()} "${e.textContent.trim().slice(0, 40)}"`),
  beyond: document.documentElement.scrollWidth - width,
  pictures: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),
  links: [...document.links].map(a => a.href),
  places: [...document.querySelectorAll("[id]")].map(e => e.id),
  height: document.documentElement.scrollHeight,
};
"""


def browser() -> Any:
    """A headless Chromium."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


def resize(driver: Any, width: int, height: int = 900) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def problems(driver: Any, folder: Path, keep: Path | None = None) -> Iterator[str]:
    """What is wrong with the pages of a folder, a line each."""
    pages = sorted(path for path in folder.rglob("*.html") if "_static" not in path.parts)
    places: dict[Path, set[str]] = {}
    links: dict[Path, list[str]] = {}
    for width in WIDTHS:
        for page in pages:
            resize(driver, width)
            driver.get(page.resolve().as_uri())
            found = driver.execute_script(_MEASURE)
            name = page.relative_to(folder)
            if found["wide"] or found["beyond"] > 1:
                what = ", ".join(found["wide"]) or f"{found['beyond']} pixels"
                yield f"{name} at {width} pixels: wider than the page: {what}"
            for picture in found["pictures"]:
                yield f"{name} at {width} pixels: broken picture {picture}"
            places[page.resolve()], links[page.resolve()] = set(found["places"]), found["links"]
            if keep is not None:
                resize(driver, width, min(found["height"], _TALLEST))
                driver.save_screenshot(str(keep / f"{width}_{'_'.join(name.parts)}.png"))
    for page, addresses in links.items():
        for address in dict.fromkeys(addresses):
            parts = urlparse(address)
            if parts.scheme != "file":
                continue
            target, place = Path(unquote(parts.path)), unquote(parts.fragment)
            lost = not target.exists()
            if lost or (place and target in places and place not in places[target]):
                yield f"{page.relative_to(folder.resolve())}: dead link {address}"


def search_finds(driver: Any, folder: Path, word: str) -> bool:
    """Whether the pages' own search finds a word."""
    driver.get(f"{(folder / 'search.html').resolve().as_uri()}?q={word}")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if driver.find_elements(By.CSS_SELECTOR, "#search-results li a"):
            return True
        time.sleep(0.2)
    return False


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="built pages")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for pictures of all pages")
    options = parser.parse_args(argv)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    driver = browser()
    try:
        found = list(problems(driver, options.folder, options.keep))
        if not search_finds(driver, options.folder, "abundances"):
            found.append("search.html finds nothing")
    finally:
        driver.quit()
    print(*found, f"{len(found)} problems", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
