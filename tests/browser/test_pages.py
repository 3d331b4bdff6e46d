"""Every page: opens offline, asks for nothing, is accessible, fits a phone, prints, is read without a script."""

import re

import pytest

from tests.browser.conftest import ARTIFACTS, wait_until_ready
from tests.browser.pages import MAKERS
from tests.host.report import runs
from tests.test_package import CHECKOUT

pytestmark = pytest.mark.browser
AXE = CHECKOUT / "node_modules" / "axe-core" / "axe.min.js"
PHONE = {"width": 390, "height": 844}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_page_opens_offline_and_asks_for_nothing(visit, shoot, name, scheme):
    page = visit(name, color_scheme=scheme)  # whose end says that there was no request and no error
    page.wait_for_timeout(50)
    shoot(page, f"{name}-{scheme}")
    with (ARTIFACTS / "ready-ms.txt").open("a") as timings:  # for a person: a shared machine proves nothing
        timings.write(
            f"{name} {scheme}: interactive after {page.evaluate('document.documentElement.dataset.ready')} ms\n"
        )


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_every_key_works_on_every_page(visit, name):
    page = visit(name)
    for key in ("ArrowRight", "Shift+ArrowLeft", "+", "-", "n", "p", "f", "t", "Escape", "r"):
        page.keyboard.press(key)
    page.wait_for_timeout(50)  # its end says that there was no error


@pytest.mark.axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["long", "hostile", "noisy", "comparison", "empty"])
def test_page_is_accessible(visit, name, scheme):
    page = visit(name, color_scheme=scheme, bypass_csp=True)  # axe is a script that the policy does not know
    build_everything(page)
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    assert [(v["id"], [node["html"][:120] for node in v["nodes"][:3]]) for v in found["violations"]] == []
    assert len(found["passes"]) > 20


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_page_fits_a_phone(visit, shoot, name):
    page = visit(name, viewport=PHONE)
    build_everything(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    shoot(page, f"{name}-phone")


@pytest.mark.parametrize("name", ["short", "hostile", "comparison"])
def test_tables_say_it_all_without_a_script(visit, shoot, name):
    page = visit(name, scripts=False)
    assert page.locator(".tools").is_hidden()
    assert page.locator("table").first.is_visible()
    assert page.locator("tbody tr").count() >= 8
    shoot(page, f"{name}-unscripted")


def test_the_unscripted_tables_have_the_figures_of_the_run(visit):
    page = visit("short", scripts=False)
    last = runs.records(1000, 3)[-1]
    row = page.locator(".summary tr", has_text="answer")
    assert f"{last.scalars['answer/ema_short']:.3g}" in row.inner_text()
    page.locator("details", has_text="The course in figures").first.locator("summary").click()
    assert "900 to 999" in page.locator("main").inner_text()
    link = page.locator(".alerts a").first
    assert re.fullmatch(r"#steps=-?\d+--?\d+&reward=\d", link.get_attribute("href"))


@pytest.mark.parametrize("name", ["short", "comparison"])
def test_print_has_every_chart_on_white_and_gives_the_screen_back(visit, name):
    page = visit(name, "#reward=0", color_scheme="dark")
    width = page.locator("canvas").first.bounding_box()["width"]
    paper = page.pdf(format="A4")
    (ARTIFACTS / f"{name}.pdf").write_bytes(paper)
    assert paper.startswith(b"%PDF")
    assert page.locator("canvas").count() >= page.locator("section.reward").count()
    assert page.evaluate("document.documentElement.dataset.theme") == ""
    assert page.locator("canvas").first.bounding_box()["width"] == width


def test_printed_charts_are_as_wide_as_the_paper_lets_them(visit):
    page = visit("short")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    body, plots = page.locator("body").bounding_box(), page.locator(".plot canvas").all()
    assert body["width"] <= 700
    assert plots
    assert all(plot.bounding_box()["width"] <= page.locator(".charts").first.bounding_box()["width"] for plot in plots)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_hostile_name_is_text(visit):
    page = visit("hostile")
    build_everything(page)
    name = runs.HOSTILE[0]
    assert page.locator("h2", has_text=name).count() == 1
    assert page.locator(".summary a", has_text=name).count() == 1
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 3  # the data, uPlot, and the page's own
    long = page.locator("h2", has_text="long_xxx")
    assert len(long.inner_text()) <= 60
    assert long.get_attribute("title") == runs.HOSTILE[6]


def test_the_policy_stops_a_script_that_is_not_the_pages_own(visit, file_of, tmp_path, chromium):
    injected = file_of("short").read_text(encoding="utf-8").replace("<main>", "<main><script>window.ran = 1</script>")
    path = tmp_path / "injected.html"
    path.write_text(injected, encoding="utf-8")
    context = chromium.new_context()
    page = context.new_page()
    page.goto(path.as_uri())
    wait_until_ready(page)
    assert page.evaluate("window.ran") is None
    context.close()


def test_alerts_by_the_hundred_are_a_few_lines(visit):
    page = visit("noisy")
    assert page.locator("table.alerts tbody tr").count() <= 6
    group = page.locator("table.alerts tr", has_text="OUTLIER").first
    assert group.locator("summary").inner_text() == "250"
    assert group.locator(".episodes").is_hidden()
    group.locator("summary").click()
    assert group.locator(".episodes a").count() == 40
    assert "and 210 more" in group.inner_text()


def build_everything(page):
    """Scroll through the page, so that every chart is drawn."""
    page.evaluate(
        """async () => {
          for (const section of document.querySelectorAll("section.reward")) {
            section.scrollIntoView();
            await new Promise((done) => setTimeout(done, 30));
          }
          scrollTo(0, 0);
        }"""
    )
