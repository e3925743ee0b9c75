"""The chat page in a real browser, headless. Its content policy forbids evaluated strings: locators only."""
import json
import os
import re
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def page(server):
    if not CHROMIUM:
        pytest.fail("Chromium is not installed: tools/install_packages --tests installs it")
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.problems = []
        page.on("pageerror", lambda e: page.problems.append(str(e)))
        page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
        page.goto(server.url + "/")
        expect(page.locator("#model")).to_have_value("trireme-demo", timeout=10000)
        yield page
        assert page.problems == []
        browser.close()


def ask(page, text):
    page.fill("#prompt", text)
    page.click("#send")


def last_answer(page):
    return page.locator(".message.assistant").last


def test_a_question_is_answered_as_a_stream(page):
    ask(page, "What is the Debian package wireshark?")
    expect(last_answer(page)).to_contain_text("wireshark", timeout=20000)
    page.wait_for_selector("#send:visible", timeout=30000)
    assert "tok/s" in page.inner_text("#stats")
    if os.environ.get("TRIREME_SCREENSHOT"):  # the picture in the README
        page.screenshot(path=os.environ["TRIREME_SCREENSHOT"])


def test_an_answer_that_comes_all_at_once_has_a_rate(page):
    def answer(route):
        events = [{"choices": [{"index": 0, "delta": {"content": "word "}}]}] * 72
        body = "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.route("**/v1/chat/completions", answer)
    ask(page, "Hello")
    expect(last_answer(page)).to_contain_text("word " * 72, timeout=10000)
    page.wait_for_selector("#send:visible", timeout=10000)
    stats = page.inner_text("#stats")
    rate = float(re.search(r"([0-9.]+) tok/s", stats).group(1))
    assert 0 < rate < 100_000, stats


def test_markup_in_a_message_stays_text(page):
    ask(page, "<img src=x onerror=\"window.hacked=1\"><b>bold</b>")
    page.wait_for_selector("#send:visible", timeout=30000)
    assert page.evaluate("window.hacked") is None
    assert page.locator(".message.user img, .message.user b").count() == 0


def test_stop_ends_an_answer_and_frees_it(page, server):
    # Long enough for the click, however fast the model is.
    page.route("**/v1/chat/completions", lambda route: route.continue_(
        post_data=json.dumps(route.request.post_data_json | {"min_tokens": 1500, "max_tokens": 1500})))
    ask(page, "Write a very long text about every package there is.")
    page.wait_for_selector("#stop:visible", timeout=10000)
    page.click("#stop")
    page.wait_for_selector("#send:visible", timeout=10000)
    for _ in range(100):
        if server.metric("trireme:num_requests_running") == 0:
            return
        page.wait_for_timeout(50)
    raise AssertionError("the stopped request still runs")
