"""The page in a browser: headless Chromium, where one is installed."""

import pytest


@pytest.fixture
def shown(recommender):
    """The items as the page names them: without a title by their id."""
    table = recommender.domain.items
    return [title or key for title, key in zip(table["title"], table["key"], strict=True)]


@pytest.fixture
def page(browser, port, shown):
    browser.get(f"http://127.0.0.1:{port}/")
    wait(browser, lambda: titles(browser, "found") == shown)
    return browser


def wait(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(lambda _: condition())


def titles(browser, part):
    # By a script, so that no element is held while the page changes.
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
    return browser.execute_script(script, f"#{part} .title")


def click(browser, selector):
    from selenium.webdriver.common.by import By

    browser.find_element(By.CSS_SELECTOR, selector).click()


def test_a_history_by_clicks_is_answered(page, shown):
    click(page, "#found li:nth-child(1) button")
    wait(page, lambda: titles(page, "ranked") == shown[1:])
    assert "shop · 6 items" in page.find_element("id", "about").text
    first = page.find_element("css selector", "#ranked li").text
    assert "-2.000" in first
    assert "toy-1 · #1" in first
    click(page, "#found li:nth-child(2) button")
    wait(page, lambda: titles(page, "ranked") == shown[2:])
    assert titles(page, "history") == shown[:2]
    click(page, "#seen")
    wait(page, lambda: titles(page, "ranked") == shown[:5])
    click(page, "#history li:nth-child(1) button")
    wait(page, lambda: titles(page, "history") == shown[1:2])
    click(page, "#clear")
    wait(page, lambda: titles(page, "history") == titles(page, "ranked") == [])


def test_the_catalogue_is_searched_as_one_types(page, shown):
    page.find_element("id", "search").send_keys("puzzle")
    wait(page, lambda: titles(page, "found") == shown[:1])
    page.find_element("id", "search").send_keys(" zzz")
    wait(page, lambda: titles(page, "found") == [])


def test_markup_in_titles_is_text(page, shown):
    for line in range(1, 4):
        click(page, f"#found li:nth-child({line}) button")
    wait(page, lambda: titles(page, "history") == shown[:3])
    click(page, "#seen")
    wait(page, lambda: titles(page, "ranked")[:3] == shown[:3])
    assert page.title == "recalign · shop"
    assert (
        page.execute_script("return document.querySelectorAll('main script, main img').length") == 0
    )
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_an_error_is_shown(page, recommender, monkeypatch):
    monkeypatch.setattr(recommender, "_ask", lambda histories: 1 / 0)
    click(page, "#found li:nth-child(1) button")
    wait(page, lambda: "broken" in page.find_element("id", "ranked-note").text)
