"""The page in a browser: headless Chromium, where one is installed."""

import pytest

from tests.accessibility import violations


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
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    # An element that the page has just replaced is looked for again.
    wait = WebDriverWait(browser, 20, ignored_exceptions=[StaleElementReferenceException])
    wait.until(lambda _: condition())


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
    assert groups(page) == ["Never bought before"]
    click(page, "#seen")
    wait(page, lambda: titles(page, "ranked") == shown[2:5] + shown[:2])
    assert groups(page) == ["Never bought before", "Bought before"]
    click(page, "#history li:nth-child(1) button")
    wait(page, lambda: titles(page, "history") == shown[1:2])
    click(page, "#clear")
    wait(page, lambda: titles(page, "history") == titles(page, "ranked") == [])


def test_what_the_model_looked_at_is_beside_the_history(page, shown):
    for place in (1, 2):
        click(page, f"#found li:nth-child({place}) button")
    script = "return [...document.querySelectorAll('#history .why')].map((e) => e.textContent)"
    wait(page, lambda: page.execute_script(script) == ["100 %", "0 %"])
    note = page.find_element("id", "why-note")
    assert shown[2] in note.text
    click(page, "#ranked li:nth-child(2) button")
    wait(page, lambda: shown[3] in note.text)
    pressed = page.find_elements("css selector", "#ranked button[aria-pressed=true]")
    assert [button.get_attribute("data-id") for button in pressed] == ["toy-3"]
    assert len(page.find_elements("css selector", "#history .looked")) == 1


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
    wait(page, lambda: titles(page, "ranked")[2:] == shown[:3])
    assert page.title == "recalign · shop"
    assert (
        page.execute_script("return document.querySelectorAll('main script, main img').length") == 0
    )
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_examples_to_begin_with_and_a_link_that_holds_the_history(page, port, shown):
    wait(page, lambda: len(page.find_elements("css selector", "#examples button")) == 2)
    examples = [
        e.text.removeprefix("Begin with ")
        for e in page.find_elements("css selector", "#examples .text")
    ]
    click(page, "#examples li:nth-child(1) button")
    wait(page, lambda: len(titles(page, "ranked")) > 0)
    history = titles(page, "history")
    assert " · ".join(history) == examples[0]
    click(page, "#seen")
    wait(page, lambda: groups(page) == ["Never bought before", "Bought before"])
    ranked, link = titles(page, "ranked"), page.current_url
    assert "#id=toy-" in link
    page.get("about:blank")
    page.get(link)
    wait(page, lambda: titles(page, "ranked") == ranked)
    assert titles(page, "history") == history
    page.execute_script("location.hash = 'id=toy-9'")
    wait(page, lambda: "no item 'toy-9'" in page.find_element("id", "ranked-note").text)
    click(page, "#clear")
    assert page.current_url == f"http://127.0.0.1:{port}/"
    page.execute_script("location.hash = 'id=toy-0'")
    wait(page, lambda: titles(page, "history") == shown[:1])


def groups(browser):
    return [heading.text for heading in browser.find_elements("css selector", "#ranked h3")]


def test_a_keyboard_is_enough(page, shown):
    """From the search on: two items are added, the first is taken out again, and focus stays."""
    from selenium.webdriver.common.keys import Keys

    def press(*keys):
        page.switch_to.active_element.send_keys(*keys)

    page.find_element("id", "search").send_keys(Keys.TAB)
    press(Keys.ENTER)
    press(Keys.TAB)
    press(Keys.ENTER)
    wait(page, lambda: titles(page, "history") == shown[:2])
    assert page.switch_to.active_element.text.startswith("Add")
    page.execute_script("document.querySelector('#history button').focus()")
    press(Keys.ENTER)
    wait(page, lambda: titles(page, "history") == shown[1:2])
    assert "Remove" in page.switch_to.active_element.text
    press(Keys.ENTER)
    wait(page, lambda: titles(page, "history") == [])
    assert page.switch_to.active_element.get_attribute("id") == "search"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anybody_from_using_it(page, shown, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    page.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})  # axe is a script from elsewhere
    assert violations(page) == []
    click(page, "#found li:nth-child(1) button")
    click(page, "#seen")
    wait(page, lambda: titles(page, "ranked") == shown[1:5] + shown[:1])
    assert violations(page) == []
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_an_error_is_shown(page, recommender, monkeypatch):
    monkeypatch.setattr(recommender, "_ask", lambda histories: 1 / 0)
    click(page, "#found li:nth-child(1) button")
    wait(page, lambda: "broken" in page.find_element("id", "ranked-note").text)
