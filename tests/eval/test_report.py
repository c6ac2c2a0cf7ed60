"""What is written of a benchmark."""

import json
import shutil

import jsonschema
import pytest
from helpers import Brightness

from pixeldefend.eval import run_benchmark, write_report
from pixeldefend.eval.__main__ import main
from pixeldefend.eval.report import html, markdown, verdict


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    """The folder of a report."""
    folder = tmp_path_factory.mktemp("report")
    write_report({**results, "command": "pixeldefend benchmark <&>"}, folder)
    return folder


def test_the_report_says_what_was_found(results, written):
    page = (written / "report.html").read_text()
    assert verdict(results) in page
    assert "&lt;&amp;&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    for row in results["adaptive"]["rows"]:
        assert f'<th scope="row">{row["attack"]}</th>' in page
    assert page.count('class="item"') == len(results["examples"]) == 2
    assert page.count("<figure>") == 7
    tables = (written / "results.md").read_text()
    assert tables.count("\n| joint-pgd | classifier + detector |") == 3


def test_a_benchmark_whose_attacks_fail_a_check_says_so(results):
    checks = [{"what": "more steps do no worse", "passed": False, "detail": "60% and 40%"}]
    failing = {**results, "adaptive": {**results["adaptive"], "checks": checks}}
    page = html(failing)
    assert page.count('class="failed" role="alert"') == 1
    assert "FAIL" in verdict(failing)
    assert "FAIL" not in verdict(results) or any(not c["passed"] for c in results["adaptive"]["checks"])


def test_a_report_without_any_success(detector, constant, zeros, schema):
    found = run_benchmark(detector, constant, zeros, attacks=["fgsm-1"], statistics=[])
    assert verdict(found).startswith("No attack succeeded")
    assert "<figure>" in html(found)
    jsonschema.validate(found, schema)


def test_a_folder_is_written_again_from_its_json(results, tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert main([str(tmp_path)]) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "results.md").read_text() == markdown(results)
    assert verdict(results) in (tmp_path / "report.html").read_text()
    assert (tmp_path / "roc.png").stat().st_size > 1000
    assert "results.json" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2


def test_the_page_in_a_real_browser(results, written):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on this machine: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        browser.get((written / "report.html").as_uri())
        assert verdict(results) in browser.find_element("css selector", ".verdict").text
        assert browser.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
        for width in (360, 1200):
            size = dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            # a table that is too wide scrolls by itself, on a laptop none is
            assert not browser.execute_script("return document.documentElement.scrollWidth > innerWidth")
            cut = browser.execute_script(
                "return [...document.querySelectorAll('.wide')].filter(t => t.scrollWidth > t.clientWidth).length"
            )
            assert cut == 0 or width == 360
        assert browser.get_log("browser") == []
    finally:
        browser.quit()


def test_the_verdict_counts_attacks_only(detector, data):
    found = run_benchmark(detector, Brightness(), data, attacks=["noise-8"], statistics=[], limit=5)
    assert verdict(found).startswith("No attack succeeded")
