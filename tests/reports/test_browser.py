"""The page in a real browser: nothing is requested, nothing is blocked or thrown, sorting leaves the controls alone."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from xeval.reports.compare import Comparison

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH"),
]
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
    *("--enable-logging=stderr", "--v=0"),
)
PROBE = """<script>
document.querySelector("#t-digits-headline thead tr:last-child th:nth-child(3) button").click();
const rows = [...document.querySelectorAll("#t-digits-headline tbody th[scope=row]")].map((th) => th.textContent);
document.title = rows + "|" + document.querySelector("#t-digits-headline th[aria-sort=ascending]").textContent;
</script></body>"""


def dump(page: Path, profile: Path, *options: str) -> tuple[str, str]:
    """(DOM after scripts ran, log of the browser)."""
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}", *options, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def asked_by_page(log: Path) -> list[str]:
    """Initiators of requests that a page made; the browser's own errands are "not an origin"."""
    return [origin for origin in re.findall(r'"initiator":"([^"]*)"', log.read_text()) if origin != "not an origin"]


@pytest.mark.fault("R1", "R7")
def test_no_console_message_and_no_request(study: Comparison, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    dom, messages = dump(study.page, tmp_path / "profile", f"--log-net-log={log}")
    assert 'class="js"' in dom  # the script ran, so its hash is right
    assert "CONSOLE" not in messages
    assert asked_by_page(log) == []


def test_a_blocked_style_or_a_request_would_be_seen(study: Comparison, tmp_path: Path) -> None:
    page, log = tmp_path / "page.html", tmp_path / "net.json"
    page.write_text(study.page.read_text().replace("</main>", '<p style="color: red">x</p></main>'))
    _, messages = dump(page, tmp_path / "profile")
    assert "CONSOLE" in messages
    assert "Content Security Policy" in messages
    page.write_text('<img src="http://127.0.0.1:9/x.png">')
    dump(page, tmp_path / "profile", f"--log-net-log={log}")
    assert asked_by_page(log)


def test_sorting_moves_methods_and_never_controls(study: Comparison, tmp_path: Path) -> None:
    """A copy of the page without its policy, with one more script that presses a heading and reads the order."""
    page = tmp_path / "page.html"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", study.page.read_text())
    page.write_text(text.replace("</body>", PROBE))
    dom, _ = dump(page, tmp_path / "profile")
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title is not None
    order, heading = title[1].split("|")
    assert order == "excon,exconb,supcon,random,random-cam,centre,edge,constant,inverse"
    assert heading.startswith("drop mag 45")
