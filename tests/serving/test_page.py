"""The page, in a real browser."""

import base64
import re
import shutil

import httpx
import numpy as np
import pytest
from serving.common import ATTACKED, CLEAN, NOISE, PATIENCE, form, png

webdriver = pytest.importorskip("selenium.webdriver")
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)), carried = new DataTransfer();
carried.items.add(new File([bytes], arguments[1]));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true}));
"""
PASTE = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)), carried = new DataTransfer();
carried.items.add(new File([bytes], "image.png", {type: "image/png"}));
document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: carried, bubbles: true}));
"""
FOCUSED = "const at = document.activeElement; return at.id || at.textContent.trim()"
# elements that reach beyond the window, and those that hide a part of what they hold
CUT = """
const wide = document.documentElement.clientWidth, shown = [...document.querySelectorAll("main *, header *")];
return shown.filter((e) => e.getClientRects().length && getComputedStyle(e).clipPath === "none" && !e.closest("thead"))
  .filter((e) => e.getBoundingClientRect().right > wide + 1 || (e.tagName !== "INPUT" && e.scrollWidth > e.clientWidth
    && getComputedStyle(e).display !== "inline" && getComputedStyle(e).overflow !== "visible"))
  .map((e) => `${e.tagName}#${e.id} ${e.textContent.slice(0, 30)}`);
"""


class Page:
    """What a reader does with the page, and sees on it."""

    def __init__(self, browser, url):
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser, self.url = browser, url
        self.waiting = WebDriverWait(browser, PATIENCE, poll_frequency=0.05)
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.get(url)
        self.wait(lambda: self.text("models"))

    def find(self, selector):
        return self.browser.find_elements("css selector", selector)

    def text(self, id):
        return self.run("return document.getElementById(arguments[0]).innerText", id)

    def wait(self, condition):
        self.waiting.until(lambda _: condition())

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def drop(self, data, name):
        self.run(DROP, base64.b64encode(data).decode(), name)

    def look(self, width, scheme):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on this machine: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", f"user-data-dir={profile}"):
        options.add_argument(f"--{argument}")
    options.add_argument("--disable-background-networking")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = chromium
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def page(served, browser):
    return Page(browser, served)


def test_the_page(page, tiny_detector, tmp_path):
    assert tiny_detector.takes in page.text("models")
    page.drop(png(ATTACKED), "noise.png")
    page.wait(lambda: page.text("verdict") == "Flagged as adversarial")
    assert "p-value" in page.text("numbers")
    names = "['image', 'surprisal', 'purified', 'difference']"
    page.wait(lambda: page.run(f"return {names}.every((id) => document.getElementById(id).naturalWidth)"))
    page.find("#feedback button")[0].click()
    page.wait(lambda: "false alarm" in page.text("verdicts"))
    page.drop(b"no image", "text.png")
    page.wait(lambda: page.text("verdict") == "Could not be screened")
    assert page.text("words").startswith("text.png: ")
    (tmp_path / "clean.png").write_bytes(png(CLEAN))
    page.find("#file")[0].send_keys(str(tmp_path / "clean.png"))
    page.wait(lambda: page.text("verdict") == "Looks clean")
    page.wait(lambda: "clean.png" in page.text("verdicts"))
    assert "alarm" in page.text("drift")
    severe = [line for line in page.browser.get_log("browser") if line["level"] == "SEVERE"]
    assert all("422" in line["message"] for line in severe), severe
    rows = httpx.get(f"{page.url}/v1/verdicts?limit=1000").json()
    assert [row["feedback"] for row in rows if row["path"] == "noise.png"] == ["false_alarm"]


def test_the_page_by_keyboard_and_by_paste(page):
    from selenium.webdriver.common.keys import Keys

    def tabs(n):
        found = []
        for _ in range(n):
            page.browser.switch_to.active_element.send_keys(Keys.TAB)
            found.append(page.run(FOCUSED))
        return found

    assert tabs(3) == ["API", "metrics", "file"]
    page.run(PASTE, base64.b64encode(png(ATTACKED)).decode())
    page.wait(lambda: page.text("verdict") == "Flagged as adversarial" and "image.png" in page.text("verdicts"))
    assert page.run(FOCUSED) == "verdict"  # a screen reader goes on from there
    assert tabs(3) == ["opacity", "This is a false alarm", "This is an attack"]
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    page.wait(lambda: "Noted" in page.text("feedback") and "attack" in page.text("verdicts"))


def test_the_page_shows_an_alarm(page):
    httpx.post(f"{page.url}/v1/screen", files=form(*NOISE), timeout=PATIENCE)
    page = Page(page.browser, page.url)
    page.wait(lambda: page.find("#drift .alarm"))
    assert "at most 1 %" in page.text("drift")
    assert "100" in [bar.get_attribute("aria-valuenow") for bar in page.find("#drift [role=meter]")]


@pytest.mark.parametrize("width", [360, 700, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_on_a_phone_or_a_laptop_in_either_theme(page, width, scheme):
    name = "a_long_name_without_a_space_" * 5 + f"{width}_{scheme}.png"
    httpx.post(f"{page.url}/v1/screen?name={name}", content=png(np.zeros((9, 9), np.uint8)), timeout=PATIENCE)
    page.look(width, scheme)
    page.drop(png(ATTACKED), f"{width}-{scheme}.png")
    page.wait(lambda: page.find("#pictures")[0].is_displayed() and f"{width}-{scheme}.png" in page.text("verdicts"))
    assert name in page.text("verdicts").replace("\n", "")
    assert page.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert page.run(CUT) == []
    style = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    letters, ground = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in page.run(style))
    assert (letters - ground) * (1 if scheme == "dark" else -1) > 300
