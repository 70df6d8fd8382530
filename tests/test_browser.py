"""The report in a browser: it opens as a file, answers mouse and keyboard, and can be read."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.page import page as report_page
from tests.small_study import BOTH, N_HEADS, N_LAYERS, NASTY, TASKS, large_cards, matrix, study

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    Open = Callable[..., Page]

PAPER = 680
"""Pixels between the margins of a sheet."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report_page(study()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Open]:
    """Opens the report; whatever it complains of or asks a network for fails the test."""
    complaints: list[str] = []
    opened: list[Page] = []

    def open_it(
        *, of: str = address, anchor: str = "", width: int = 1280, scheme: str = "light"
    ) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # pyright: ignore[reportArgumentType]
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: complaints.extend(_outside(request.url)))
        page.goto(of + anchor)
        page.wait_for_selector("html[data-drawn]")
        opened.append(page)
        return page

    yield open_it
    for page in opened:
        page.close()
    assert complaints == []


def _outside(url: str) -> list[str]:
    return [] if url.startswith(("file:", "data:", "blob:")) else [url]


def cell(
    page: Page, name: str, row: int, column: int, shape: tuple[int, int]
) -> tuple[float, float]:
    """The middle of a cell of a heat map; rows count from the top."""
    plot = page.locator(f"#{name}")
    plot.scroll_into_view_if_needed()
    box = plot.locator(".nsewdrag").first.bounding_box()
    assert box is not None
    x = box["x"] + box["width"] * (column + 0.5) / shape[1]
    return x, box["y"] + box["height"] * (row + 0.5) / shape[0]


def hover(page: Page, name: str, row: int, column: int, shape: tuple[int, int]) -> str:
    x, y = cell(page, name, row, column, shape)
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)
    return page.locator(f"#{name} .hoverlayer .hovertext").first.inner_html()


def until(page: Page, condition: str, argument: Any = None) -> None:
    """Wait; unlike Playwright's own waiting it works under the page's policy."""
    for _ in range(100):
        if page.evaluate(condition, argument):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {condition}")


def shown_cards(page: Page) -> list[str]:
    return page.evaluate(
        "[...document.querySelectorAll('.card')].filter(c => c.offsetHeight).map(c => c.id)"
    )


def contrast(first: str, second: str) -> float:
    """Contrast of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        numbers = [float(n) / 255 for n in re.findall(r"[\d.]+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in numbers]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_it_opens_as_a_file_draws_every_figure_and_shows_names_as_text(open_page: Open) -> None:
    page = open_page()
    plots = page.locator(".plot")
    assert plots.count() > 5
    assert page.locator(".plot:has(svg.main-svg)").count() == plots.count()
    assert page.locator(".plot .updatemenu-container").count() == 0
    assert page.locator(".modebar-btn").count() > plots.count()
    assert page.locator('[data-title^="Share"]').count() == 0
    assert page.locator("img").count() == 0
    assert page.locator("td", has_text=NASTY).count() > 0
    assert NASTY in page.locator(".of-task option").nth(1).inner_text()


def test_figure_2_switches_between_relative_and_accuracy(open_page: Open) -> None:
    page = open_page()
    frame = matrix().frame()

    def top_left() -> float:
        return page.evaluate(
            """() => {
                const gd = document.getElementById("transfer-1");
                return gd._fullData.find((trace) => trace.visible === true).z[0][0];
            }"""
        )

    title = page.locator("#transfer-1 .gtitle")
    relative, accuracy = (
        page.get_by_role("button", name=name, exact=True) for name in ("relative", "score")
    )
    assert top_left() == pytest.approx(100)
    before = title.text_content()
    accuracy.click()
    assert top_left() == pytest.approx(100 * frame["value"][0])
    assert title.text_content() != before
    words = page.locator("#transfer-1").get_attribute("aria-label") or ""
    assert words.startswith(title.text_content() or "nothing")
    assert (relative.get_attribute("aria-pressed"), accuracy.get_attribute("aria-pressed")) == (
        "false",
        "true",
    )
    relative.focus()
    page.keyboard.press("Enter")
    assert top_left() == pytest.approx(100)


def test_figure_2_tells_more_on_hover(open_page: Open) -> None:
    page = open_page()
    row = matrix().frame().iloc[len(TASKS) * 2]  # random heads on the first task
    text = hover(page, "transfer-1", 2, 0, (3, 2))
    assert "random" in text
    assert f"n = {row['n']}" in text
    assert f"{100 * row['value']:.1f}" in text


def test_a_click_on_a_head_shows_its_card(open_page: Open) -> None:
    page = open_page()
    page.locator(".of-head").select_option("L0H0")
    assert shown_cards(page) == ["L0H0"]
    shape = (N_LAYERS, N_HEADS)
    assert str(BOTH) in hover(page, "heads-1-1", N_LAYERS - 1 - BOTH.layer, BOTH.head, shape)
    page.mouse.down()
    page.mouse.up()
    until(page, f"location.hash === '#{BOTH}'")
    assert page.url.endswith(f"#{BOTH}")
    assert shown_cards(page) == [str(BOTH)]
    assert page.locator(".of-head").input_value() == str(BOTH)
    assert f"Chosen: {BOTH}" in page.locator(".told").inner_text()
    card = page.locator(f"#{BOTH}")
    assert "</script>" in card.inner_text()
    box = card.bounding_box()
    assert box is not None and min(box["y"] + box["height"], 900) - max(box["y"], 0) > 400
    page.get_by_label("Show every card").check()
    assert len(shown_cards(page)) == N_LAYERS * N_HEADS


def test_the_list_of_heads_does_the_same_with_the_keyboard(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Head", exact=True).focus()
    assert shown_cards(page) == [str(BOTH)]
    for expected in ("L2H2", "L2H3"):
        page.keyboard.press("ArrowDown")
        assert shown_cards(page) == [expected]
        assert page.url.endswith(f"#{expected}")


def test_the_address_names_the_head(open_page: Open) -> None:
    page = open_page(anchor="#L1H2")
    assert shown_cards(page) == ["L1H2"]
    page.evaluate("location.hash = 'L0H3'")
    until(page, "document.querySelector('.of-head').value === 'L0H3'")
    assert shown_cards(page) == ["L0H3"]


def test_a_large_model_is_there_in_seconds_and_lays_out_one_card(
    open_page: Open, tmp_path: Path
) -> None:
    path = tmp_path / "large.html"
    path.write_text(
        report_page(Study(tmp_path, {"head cards": {"run": large_cards()}})), encoding="utf-8"
    )
    start = time.monotonic()
    page = open_page(of=path.as_uri())
    assert time.monotonic() - start < 15  # 38 s with every card laid out
    assert len(shown_cards(page)) == page.locator(".card").count() == 1
    assert page.locator(".ll-attention").count() == 2
    assert page.locator("body *").count() < 15_000
    last = page.locator(".of-head option").last
    page.locator(".of-head").select_option(last.get_attribute("value"))
    assert shown_cards(page) == [last.get_attribute("value")]


def test_the_heat_map_of_another_task_keeps_the_choice(open_page: Open) -> None:
    page = open_page(anchor="#L1H2")
    page.locator(".of-task").select_option(index=1)
    until(
        page, "document.getElementById('heads-1-1').getAttribute('aria-label').includes('onerror')"
    )
    assert shown_cards(page) == ["L1H2"]
    hover(page, "heads-1-1", 0, 0, (N_LAYERS, N_HEADS))
    page.mouse.down()
    page.mouse.up()
    until(page, f"location.hash === '#L{N_LAYERS - 1}H0'")


def test_both_themes_can_be_read(open_page: Open) -> None:
    for scheme in ("light", "dark"):
        page = open_page(scheme=scheme)
        first = _colours(page)
        page.locator("#theme").click()
        until(
            page,
            "(old) => getComputedStyle(document.querySelector('.gtitle')).fill !== old",
            first["title"],
        )
        second = _colours(page)
        light, dark = (first, second) if scheme == "light" else (second, first)
        assert contrast(light["ground"], "255,255,255") < 1.2
        assert contrast(dark["ground"], "0,0,0") < 1.4
        for colours in (light, dark):
            for name in ("text", "soft", "link"):
                assert contrast(colours[name], colours["ground"]) >= 4.5, (name, colours)
            for name in ("title", "tick"):
                assert contrast(colours[name], colours["figure"]) >= 4.5, (name, colours)
            assert colours["figure"] == colours["ground"]


def _colours(page: Page) -> dict[str, Any]:
    return page.evaluate(
        """() => {
            const of = (selector, name) => getComputedStyle(document.querySelector(selector))[name];
            return {
                ground: of("body", "backgroundColor"), text: of("main p", "color"),
                soft: of("dt", "color"), link: of("nav a", "color"),
                figure: of(".plot .main-svg", "backgroundColor"), title: of(".gtitle", "fill"),
                tick: of(".xtick text", "fill"),
            };
        }"""
    )


def test_nothing_is_wider_than_the_window(open_page: Open) -> None:
    page = open_page()
    for width in (1280, 800, 400):
        page.set_viewport_size({"width": width, "height": 900})
        until(page, f"document.documentElement.scrollWidth === {width}")
        drawn = "document.querySelector('#layers-1 svg').getBoundingClientRect().width"
        until(page, f"{drawn} <= {max(width, 480)}")
        wide = page.evaluate(
            """() => [...document.querySelectorAll("body *")].filter((element) => {
                for (let box = element.parentElement; box; box = box.parentElement) {
                    if (["auto", "scroll", "hidden"].includes(getComputedStyle(box).overflowX)) return false;
                }
                return element.getBoundingClientRect().right > innerWidth + 1;
            }).map((element) => element.outerHTML.slice(0, 80))"""
        )
        assert wide == []


def test_the_keyboard_reaches_everything_and_shows_where_it_is(open_page: Open) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    focused = "document.activeElement"
    assert page.evaluate(f"{focused}.className") == "skip"
    assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(f"!!{focused}.closest('main')")


def test_on_paper_it_is_light_and_nothing_is_cut(open_page: Open, tmp_path: Path) -> None:
    page = open_page(scheme="dark", anchor=f"#{BOTH}")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    found = page.evaluate(
        """() => ({
            ground: getComputedStyle(document.body).backgroundColor,
            figures: [...document.querySelectorAll(".plot .main-svg")].map(
                (svg) => [svg.style.backgroundColor, svg.getBoundingClientRect().width]),
            tables: [...document.querySelectorAll("table")].map(
                (table) => table.getBoundingClientRect().width),
            hidden: ["nav", "#theme", ".picker", ".switch"].map(
                (selector) => getComputedStyle(document.querySelector(selector)).display),
        })"""
    )
    assert found["ground"] == "rgb(255, 255, 255)"
    colours = {colour for colour, _ in found["figures"]}
    assert colours <= {"rgb(255, 255, 255)", "white", ""}
    assert max(width for _, width in found["figures"]) <= PAPER
    assert max(found["tables"]) <= PAPER + 1
    assert set(found["hidden"]) == {"none"}
    assert shown_cards(page) == [str(BOTH)]
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    until(
        page,
        f"document.querySelector('#layers-1 .main-svg').getBoundingClientRect().width > {PAPER}",
    )
    pdf = page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")
