"""The page as a reader uses it, in Debian's Chromium driven by Playwright with the network off.

No request leaves the page, the console stays silent, tables sort by mouse and by keyboard, texts are copied as they
are in the files, everything has a name for a screen reader, text has enough contrast in light and dark, and nothing
is wider than a narrow window.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from tests.reports.test_browser import CHROMIUM
from xeval.reports.compare import Comparison

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH"),
]
ROWS = "#t-digits-headline tbody.rows th[scope=row], #t-digits-headline tbody.controls tr th[scope=row]"
CONTRAST = """() => {
  const luminance = (c) => {
    const part = c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!/rgba\\(.*, 0\\)|transparent/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  const all = "h1, h2, h3, p, td, th, caption, a, button, li, dt, dd, summary, figcaption";
  for (const node of document.querySelectorAll(all)) {
    if (!node.textContent.trim() || node.closest("[hidden], svg") || !node.offsetParent) continue;
    const pair = [luminance(getComputedStyle(node).color), luminance(ground(node))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) poor.push(`${node.tagName} ${ratio.toFixed(2)} ${node.textContent.trim().slice(0, 30)}`);
  }
  return poor;
}"""
NAMELESS = """() => [...document.querySelectorAll("button, a, [role=region], img, svg[role=img], table")]
  .filter((node) => {
    if (node.tagName === "TABLE") return !node.caption && !node.closest("[role=region][aria-label]");
    const label = node.getAttribute("aria-label") || node.getAttribute("alt") || node.textContent.trim();
    return !label && !document.getElementById(node.getAttribute("aria-labelledby"));
  })
  .map((node) => node.outerHTML.slice(0, 80))"""


FOCUSED = """() => {
  const node = document.activeElement;
  return node.tagName + "|" + (node.id || node.textContent.trim().slice(0, 40));
}"""
INVISIBLE = """() => {
  document.querySelector("h1").style.color = getComputedStyle(document.body).backgroundColor;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture
def page(browser: Any, study: Comparison) -> Iterator[Any]:
    """The report, offline; whatever it asks for or says is kept."""
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 900})
    shown = context.new_page()
    shown.asked, shown.said = [], []
    shown.on("request", lambda request: shown.asked.append(request.url))
    shown.on("console", lambda message: shown.said.append(message.text))
    shown.on("pageerror", lambda error: shown.said.append(str(error)))
    shown.goto(study.page.as_uri())
    yield shown
    assert [url for url in shown.asked if not url.startswith(("file:", "data:"))] == []
    assert shown.said == []
    context.close()


def order(page: Any) -> list[str]:
    return [text for text in page.locator(ROWS).all_inner_texts() if not text.startswith("controls on")]


def test_sorting_by_mouse_and_by_keyboard_leaves_the_controls(page: Any) -> None:
    before = order(page)
    drop = page.locator("#t-digits-headline thead button", has_text="drop mag 45").first
    drop.click()
    rising = order(page)
    assert rising[:3] == ["excon", "exconb", "supcon"]
    assert rising[3:] == before[3:]
    assert drop.locator("xpath=..").get_attribute("aria-sort") == "ascending"
    drop.focus()
    page.keyboard.press("Enter")
    assert order(page)[:3] == ["supcon", "exconb", "excon"]
    assert drop.locator("xpath=..").get_attribute("aria-sort") == "descending"


def test_copied_text_is_the_text_of_the_file(page: Any, study: Comparison) -> None:
    page.evaluate(
        "() => { navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); } }"
    )
    for label, suffix in (("LaTeX", "tex"), ("Markdown", "md"), ("CSV", "csv")):
        page.locator("#t-digits-headline").get_by_role("button", name=f"Copy {label}").click()
        expected = (study.out / f"tables/digits-headline.{suffix}").read_text().strip()
        assert page.evaluate("window.copied").replace("\r\n", "\n").strip() == expected


def test_every_control_can_be_reached_and_seen_by_keyboard(page: Any) -> None:
    reached = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        found = page.evaluate(FOCUSED)
        if found in reached and found.startswith("BODY"):
            break
        reached.add(found)
    assert "A|Skip to the results" in reached
    assert "BUTTON|save" in reached
    assert any(one.startswith("BUTTON|drop mag") for one in reached)
    page.locator("#save").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    outline = page.evaluate("() => getComputedStyle(document.querySelector('#save')).outlineStyle")
    assert outline != "none"


def test_everything_has_a_name(page: Any) -> None:
    assert page.evaluate(NAMELESS) == []
    page.evaluate("() => document.querySelector('#save').replaceChildren()")
    assert len(page.evaluate(NAMELESS)) == 1
    assert page.evaluate("() => document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    page.evaluate(
        "() => { document.querySelector('h1').style.color = getComputedStyle(document.body).backgroundColor; }"
    )
    assert [one.split()[0] for one in page.evaluate(CONTRAST)] == ["H1"]


def test_a_narrow_window_scrolls_tables_and_not_the_page(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390


def test_paper_shows_everything_and_no_buttons(page: Any) -> None:
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert page.locator("#t-digits-headline").is_visible()
    assert page.get_by_role("button", name="Copy LaTeX").first.is_hidden()
    assert page.evaluate("() => [...document.querySelectorAll('details')].every((d) => d.offsetHeight > 40)")


@pytest.mark.parametrize(("tables", "room"), [(".exhibit:not(.broad)", 180), (".broad", 267)])
def test_paper_is_as_wide_as_the_tables(page: Any, tables: str, room: int) -> None:
    # A4 without its margins, upright and on its side, in millimetres; what is wider would be cut off
    page.emulate_media(media="print")
    page.set_viewport_size({"width": round(room / 25.4 * 96), "height": 1000})
    widths = page.evaluate(
        "(which) => [...document.querySelectorAll(which + ' table')].map((t) => t.scrollWidth)", tables
    )
    assert widths
    assert max(widths) <= room / 25.4 * 96
