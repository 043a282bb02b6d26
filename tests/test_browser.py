"""The dashboard in a real JupyterLab in headless Chromium: moved by keyboard and mouse, read in light and dark."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.loopback import free_port

playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
CHROMIUM = which("chromium") or which("chromium-browser") or ""
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="the browser test needs chromium"),
]

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "artifacts"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 240_000
TOKEN = "of-this-test"

BUSY = """
import simulators as sim
from factflow_llm import RateLimitConfig
silent = sim.provider("openai-tier-3").model_copy(update={"shows_limits": False})
scenario = sim.Scenario(sim.synthesize(50, 600, seed=1), silent).at(300, quota=0.5, label="quota halved")
dashboard = sim.Dashboard(scenario, RateLimitConfig(initial_concurrency=16), seed=7)
dashboard.show()
"""
LONG = """
import simulators as sim
dashboard = sim.Dashboard(sim.Scenario(sim.backlog(64, 86400), "bucket"))
dashboard.show()
"""
LIVE = """
import asyncio, random
import simulators as sim
from factflow_llm import AdaptiveRateLimiter
limiter = AdaptiveRateLimiter()
level = 5.0
async def call():
    global level
    async with limiter.permit() as permit:
        await asyncio.sleep(0.05)
        level -= 1
        permit.succeeded() if level > 0 else permit.rate_limited()
async def refill():
    global level
    while True:
        await asyncio.sleep(0.1)
        level = min(level + 2, 5.0)
async def ask():
    while True:
        await call()
work = [asyncio.create_task(refill())] + [asyncio.create_task(ask()) for _ in range(8)]
await call()
sim.watch(limiter, every_s=0.5)
"""
WHOLE = "/^oracle\\s/m.test(document.querySelector('.ff-figures')?.innerText)"
"""The run is drawn and the oracle's stands beside it: nothing of it is still under way."""
COUNT = "len(__import__('ipywidgets').widgets.widget._instances)"
STOPWATCH = """
() => {
  const picture = document.querySelector('.ff-picture');
  for (const moment of ['pointerup', 'keyup'])
    document.addEventListener(moment, () => { window.released = performance.now(); }, true);
  picture.addEventListener('load', () => { window.redrawn = performance.now(); });
}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Yield the address and the folder of a JupyterLab of this test's own."""
    home = tmp_path_factory.mktemp("lab")
    (home / "03.ipynb").write_text((ROOT / "notebooks" / "03_tune_by_hand.ipynb").read_text())
    for name, code in (("busy", BUSY), ("long", LONG), ("live", LIVE)):
        cell = {"cell_type": "code", "id": name, "metadata": {}, "source": code, "outputs": [], "execution_count": None}
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        book = {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
        (home / f"{name}.ipynb").write_text(json.dumps(book))
    port = free_port()
    settings = home / ".jupyter" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    ours = {name: str(home / ".jupyter") for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    environment = (
        os.environ | ours | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    )
    arguments = [
        "--no-browser", "--allow-root", "--expose-app-in-browser", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={home}",
    ]  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home,
        env=environment,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _await_server(address, server)
        yield address, home
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Yield Debian's Chromium."""
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def test_a_hand_on_the_dashboard_of_notebook_03(lab: tuple[str, Path], browser: Any) -> None:
    """A slider moved by key and mouse changes numbers and plot; errors show, undo works, it saves; dark is read."""
    address, home = lab
    page = _opened(browser, address, "03.ipynb")
    for _ in range(4):
        _command(page, "notebook:run-cell-and-select-next")
    page.wait_for_function(WHOLE, timeout=PATIENCE_MS)
    figures, picture = _figures(page), _picture(page)
    page.screenshot(path=PICTURES / "dashboard_first.png")

    handle = page.locator(".ff-knob", has_text="decrease").locator(".noUi-handle")
    handle.focus()
    page.keyboard.press("ArrowLeft")
    _changed(page, figures, picture)
    assert "previous run" in _figures(page)
    assert page.locator(".ff-moved .widget-readout").inner_text() == "0.96"

    assert handle.get_attribute("aria-label") == "decrease"
    _drag(page, handle)
    figures, picture = _figures(page), _picture(page)
    page.get_by_role("button", name="undo").click()  # a drag, however slow, is one step
    _changed(page, figures, picture)
    page.wait_for_function("document.querySelector('.ff-moved .widget-readout').innerText === '0.96'")
    _drag(page, handle)
    assert page.locator(".ff-moved .widget-readout").inner_text() in {"0.49", "0.5", "0.51"}
    page.screenshot(path=PICTURES / "dashboard_moved.png")

    page.get_by_role("button", name="pin run").click()
    page.wait_for_function("document.querySelector('.ff-figures').innerText.includes('pin 1')")
    figures, picture = _figures(page), _picture(page)
    start = page.locator(".ff-knob", has_text="initial_concurrency").locator(".noUi-handle")
    start.focus()
    page.keyboard.press("End")
    _changed(page, figures, picture)
    good = _figures(page)
    ceiling = page.locator(".ff-knob", has_text="max_concurrency").locator(".noUi-handle")
    ceiling.focus()
    page.keyboard.press("Home")
    error = page.wait_for_selector(".ff-error", timeout=PATIENCE_MS)
    assert "initial_concurrency 800 is above max_concurrency" in error.inner_text()
    assert _figures(page) == good
    page.screenshot(path=PICTURES / "dashboard_error.png")
    page.get_by_role("button", name="undo").click()
    page.wait_for_selector(".ff-error", state="detached")
    page.get_by_role("button", name="undo").click()
    page.wait_for_function("document.querySelectorAll('.ff-moved').length === 1")

    page.get_by_role("button", name="save configuration").click()
    page.wait_for_selector(".ff-done")
    assert re.search(r"decrease = 0\.(49|5|51)\n", (home / "limiter.toml").read_text())
    page.get_by_role("button", name="save configuration").click()
    assert "the file exists" in page.wait_for_selector(".ff-error").inner_text()
    page.get_by_role("button", name="copy as code").click()
    area = page.wait_for_selector(".ff-code textarea")
    assert "RateLimitConfig(decrease=0." in area.input_value()
    page.locator(".ff-code button").click()
    page.wait_for_function("document.querySelector('.ff-code button').innerText === 'copied'")
    assert page.evaluate("navigator.clipboard.readText()") == area.input_value()

    assert page.evaluate(
        "document.querySelector('.ff-panel').scrollWidth <= document.querySelector('.ff-panel').clientWidth"
    )
    _command(page, "apputils:change-theme", {"theme": "JupyterLab Dark"})
    page.wait_for_selector("[data-jp-theme-light=false]", state="attached")
    assert "invert" in page.evaluate("getComputedStyle(document.querySelector('.ff-picture')).filter")
    assert _contrast(page, ".ff-better, .ff-worse") > 4.5
    assert _contrast(page, ".ff-figures b") > 4.5
    assert _contrast(page, ".ff-knob .widget-label") > 4.5
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    page.locator(".ff-figures").evaluate("table => table.scrollIntoView({block: 'start'})")
    page.screenshot(path=PICTURES / "dashboard_dark.png")
    _command(page, "apputils:change-theme", {"theme": "JupyterLab Light"})

    before = _ask(page, COUNT)
    for _ in range(2):
        page.evaluate("window.jupyterapp.shell.currentWidget.content.activeCellIndex = 3")
        _command(page, "notebook:run-cell")
        page.wait_for_function(
            "document.querySelectorAll('.ff-panel').length === 1 && !document.querySelector('.ff-code')"
        )
        page.wait_for_selector(".ff-figures")
    assert _ask(page, COUNT) <= before
    page.close()


def test_a_busy_scenario_keeps_up(lab: tuple[str, Path], browser: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The time from a slider's release to redrawn plots is printed, for ten minutes at 50 requests per second."""
    page = _opened(browser, lab[0], "busy.ipynb")
    _command(page, "notebook:run-cell")
    page.wait_for_function("document.querySelector('.ff-figures')?.innerText.includes('oracle')", timeout=PATIENCE_MS)
    page.evaluate(STOPWATCH)
    page.locator(".ff-knob", has_text="decrease").locator(".noUi-handle").focus()
    took_ms = []
    used_s = _ask(page, "__import__('time').process_time()")
    for key in ("ArrowLeft",) * 5:
        page.evaluate("window.redrawn = window.released = 0")
        page.keyboard.press(key)
        page.wait_for_function("window.redrawn > window.released && window.released > 0", timeout=PATIENCE_MS)
        took_ms.append(page.evaluate("window.redrawn - window.released"))
    used_s = (_ask(page, "__import__('time').process_time()") - used_s) / len(took_ms)
    with capsys.disabled():
        shown = ", ".join(f"{value / 1000:.2f}" for value in sorted(took_ms))
        print(
            f"\nslider released to plots redrawn, 10 min at 50 rps: {shown} s "
            f"({used_s:.2f} s of one core each; load {os.getloadavg()[0]:.1f})"
        )
    assert len(took_ms) == 5
    page.close()


def test_a_long_run_says_how_long_offers_a_shorter_one_and_can_be_cancelled(
    lab: tuple[str, Path], browser: Any
) -> None:
    """A day of backlog: the panel tells the time it will take, cancel stops it, and the offer runs a part of it."""
    page = _opened(browser, lab[0], "long.ipynb")
    _command(page, "notebook:run-cell")
    page.wait_for_function(
        "document.querySelector('.ff-message')?.innerText.includes('This run takes about')", timeout=PATIENCE_MS
    )
    assert page.get_by_role("button", name="cancel").is_enabled()
    page.screenshot(path=PICTURES / "dashboard_long.png")
    page.get_by_role("button", name="cancel").click()
    page.wait_for_function(
        "document.querySelector('.ff-message')?.innerText.startsWith('Cancelled')", timeout=PATIENCE_MS
    )
    page.locator(".ff-knob", has_text="decrease").locator(".noUi-handle").focus()
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="only the first").click(timeout=PATIENCE_MS)
    page.wait_for_selector(".ff-figures", timeout=PATIENCE_MS)
    assert "oracle" in _figures(page)
    assert page.locator(".ff-error").count() == 0
    page.close()


def test_a_limiter_at_work_is_followed_and_retuned(lab: tuple[str, Path], browser: Any) -> None:
    """With ``await`` at top level: the picture moves by itself, and a slider reaches the limiter."""
    page = _opened(browser, lab[0], "live.ipynb")
    _command(page, "notebook:run-cell")
    page.wait_for_function("document.querySelector('.ff-picture')?.naturalWidth > 0", timeout=PATIENCE_MS)
    picture = _picture(page)
    page.wait_for_function("before => document.querySelector('.ff-picture').src !== before", arg=picture)
    page.locator(".ff-knob", has_text="decrease").locator(".noUi-handle").focus()
    page.keyboard.press("ArrowLeft")
    assert "Retuned: decrease, now 0.96." in page.wait_for_selector(".ff-done").inner_text()
    picture = _picture(page)
    page.wait_for_function("before => document.querySelector('.ff-picture').src !== before", arg=picture)
    assert page.locator(".ff-error").count() == 0
    page.screenshot(path=PICTURES / "watch.png")
    page.close()


def _await_server(address: str, server: subprocess.Popen[str]) -> None:
    """Read what the server says until it says where it is; somebody must go on reading, or it would block."""
    assert server.stdout is not None
    said = []
    for line in server.stdout:
        said.append(line)
        if address in line:
            threading.Thread(target=server.stdout.read, daemon=True).start()
            return
    pytest.fail(f"JupyterLab ended: {''.join(said)}")


def _opened(browser: Any, address: str, name: str) -> Any:
    PICTURES.mkdir(exist_ok=True)
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{address}/lab/tree/{name}?reset&token={TOKEN}")
    page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.content?.widgets?.length > 0", timeout=PATIENCE_MS)
    page.evaluate(
        "async () => { const context = window.jupyterapp.shell.currentWidget.sessionContext;"
        " await context.ready; await context.session.kernel.info; }"
    )
    page.evaluate("window.jupyterapp.shell.collapseLeft()")
    return page


def _command(page: Any, name: str, arguments: dict[str, str] | None = None) -> None:
    page.evaluate("([name, arguments]) => window.jupyterapp.commands.execute(name, arguments)", [name, arguments or {}])


def _figures(page: Any) -> str:
    return str(page.locator(".ff-figures").inner_text())


def _picture(page: Any) -> str:
    return str(page.locator(".ff-picture").get_attribute("src"))


def _changed(page: Any, figures: str, picture: str) -> None:
    page.wait_for_function(
        "([figures, picture]) => document.querySelector('.ff-figures').innerText !== figures"
        f" && document.querySelector('.ff-picture').getAttribute('src') !== picture && {WHOLE}",
        arg=[figures, picture],
        timeout=PATIENCE_MS,
    )


def _drag(page: Any, handle: Any) -> None:
    """Draw a slider slowly to the middle of its rail, wait there, and let go."""
    figures, picture = _figures(page), _picture(page)
    rail = page.locator(".ff-knob", has_text="decrease").locator(".noUi-target").bounding_box()
    grip = handle.bounding_box()
    page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    page.mouse.down()
    for part in (0.8, 0.65, 0.5):
        page.mouse.move(rail["x"] + rail["width"] * part, rail["y"] + rail["height"] / 2, steps=3)
        page.wait_for_timeout(1500)
    page.mouse.up()
    _changed(page, figures, picture)
    page.wait_for_function("!document.querySelector('.ff-message')?.innerText.includes('while you drag')")


def _contrast(page: Any, selector: str) -> float:
    """Return the contrast (WCAG) of the first such text with what is behind it."""
    return float(
        page.evaluate(
            """selector => {
              const light = colour => {
                const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => v / 255)
                  .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
              };
              let ground = document.querySelector(selector);
              const ink = light(getComputedStyle(ground).color);
              while (/, 0\\)$/.test(getComputedStyle(ground).backgroundColor)) ground = ground.parentElement;
              const paper = light(getComputedStyle(ground).backgroundColor);
              return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
            }""",
            selector,
        )
    )


def _ask(page: Any, expression: str) -> float:
    """Return the value of an expression in the page's kernel."""
    return float(
        page.evaluate(
            """async expression => {
              const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
              const request = kernel.requestExecute(
                {code: '', user_expressions: {n: expression}, store_history: false, silent: false});
              const reply = await request.done;
              return Number(reply.content.user_expressions.n.data['text/plain']);
            }""",
            expression,
        )
    )
