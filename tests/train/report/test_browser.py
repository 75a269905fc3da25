"""The page in a real browser: no requests, no console messages, nothing cut off, and the numbers of the files."""

import json

import pytest
from rich.console import Console

from tests.train.report.browser import NONE_FOUND, Browser, find_chromium
from train.report import ReportSettings, run

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NONE_FOUND)

OPEN_ALL = "document.querySelectorAll('details').forEach(one => one.open = true)"
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CUT_OFF = """
[...document.querySelectorAll('figure svg text')].filter(text => {
  const inner = text.getBoundingClientRect(), outer = text.closest('section').getBoundingClientRect();
  return inner.width && (inner.left < outer.left - 1 || inner.right > outer.right + 1);
}).map(text => text.closest('figure').querySelector('figcaption').innerText + ': ' + text.textContent)
"""
OVERLAPPING = """
[...document.querySelectorAll('figure svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  return texts.flatMap(([one, a], index) => texts.slice(index + 1).filter(([other, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4
  ).map(([other]) => svg.querySelector('title').textContent + ': ' + one + ' / ' + other));
})
"""
FAINT = """
(() => {
  const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parts = colour => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
                            return [...paint.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const [x, y, z] = [r, g, b].map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * x + 0.7152 * y + 0.0722 * z; };
  const behind = one => { for (let up = one; up; up = up.parentElement) {
    const found = parts(getComputedStyle(up).backgroundColor); if (found[3] > 250) return found; }
    return [255, 255, 255]; };
  return [...document.querySelectorAll('body *')].filter(one => !one.closest('svg') || one.tagName === 'text')
    .filter(one => [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()))
    .filter(one => one.getClientRects().length && !['title', 'desc'].includes(one.tagName))
    .map(one => { const style = getComputedStyle(one);
      const pair = [light(parts(one.tagName === 'text' ? style.fill : style.color)), light(behind(one))].sort();
      return [(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), one.textContent.trim().slice(0, 40)]; })
    .filter(([ratio]) => ratio < 4.5);
})()
"""
CUT_COLUMNS = """
[...document.querySelectorAll('.scroll')]
  .filter(one => one.getClientRects().length && one.scrollWidth > one.clientWidth + 1)
  .map(one => one.getAttribute('aria-label'))
"""
HEADLINE_WIDTH = """
(() => { const range = document.createRange(); range.selectNodeContents(document.querySelector('.headline'));
  return range.getBoundingClientRect().width / document.querySelector('main').clientWidth; })()
"""
UNNAMED = """
[...document.querySelectorAll('svg')].filter(svg => svg.getAttribute('role') !== 'img' || !svg.querySelector('title'))
  .length + [...document.querySelectorAll('th')].filter(head => !head.scope).length
  + (document.documentElement.lang === 'en' && document.querySelectorAll('main').length === 1 ? 0 : 1)
"""
HEADLINES = """
Object.fromEntries(
  [...document.querySelectorAll('td[data-measure]')].map(
    cell => [cell.dataset.arm + ' ' + cell.dataset.measure, cell.innerText])
)
"""


@pytest.fixture
def browser(tmp_path):
    with Browser(CHROMIUM, tmp_path / "profile") as opened:
        yield opened


def test_the_page_in_a_browser(browser, comparison, with_seeds, tmp_path):
    runs = comparison | with_seeds(several=3)
    page = run(ReportSettings(runs=runs, output=str(tmp_path / "report.html")), Console(quiet=True))
    browser.open(page)
    for width in (390, 1280):
        for dark in (False, True):
            where = (width, "dark" if dark else "light")
            browser.view(width=width, dark=dark)
            browser.evaluate(OPEN_ALL)
            assert browser.evaluate(TOO_WIDE) <= 0, where
            assert browser.evaluate(CUT_OFF) == [], where
            assert width > 390 or browser.evaluate(CUT_COLUMNS) == [], where  # wider: many arms scroll
            assert browser.evaluate(HEADLINE_WIDTH) > 0.7, where
            assert browser.evaluate(OVERLAPPING) == [], where
            assert browser.evaluate(FAINT) == [], where
    assert browser.evaluate(UNNAMED) == 0
    check_headlines(browser, page)
    assert browser.requests() == []
    assert browser.complaints() == []
    check_the_checks(browser)


def check_headlines(browser, page):
    """The numbers at the top of the page are those of the JSON file."""
    shown = browser.evaluate(HEADLINES)
    value = json.loads(page.with_suffix(".json").read_text("utf-8"))
    rows = {(row["arm"], row["measure"]): row for row in value["gains"] if row["stage"] == 4}
    measures = ("val/loss", "val/low_pd/loss", "val/high_pd/loss", "bench/avg")
    assert shown.keys() == {f"{arm} {measure}" for arm in ("pdpc", "several") for measure in measures}
    for name, text in shown.items():
        arm, _, measure = name.partition(" ")
        row = rows[arm, measure]
        scale, digits = (100, 1) if row["unit"] == "share" else (1, 4)
        ends = [row["difference"], *(end for end in (row["low"], row["high"]) if end is not None)]
        for number in ends:
            assert f"{scale * number:+.{digits}f}".replace("-", "\u2212") in text, (name, text)
        assert row["verdict"] in text


def check_the_checks(browser):
    """The checks detect a broken page."""
    browser.view(width=1280, dark=False)
    browser.evaluate("document.querySelector('.headline').style.color = '#999'")
    browser.evaluate("document.querySelectorAll('figure svg text').forEach(text => text.style.fontSize = '90px')")
    browser.evaluate("document.querySelector('th').removeAttribute('scope')")
    assert browser.evaluate(FAINT)
    assert browser.evaluate(OVERLAPPING)
    assert browser.evaluate(CUT_OFF)
    assert browser.evaluate(UNNAMED) == 1
    browser.evaluate("document.querySelector('main').style.minWidth = '3000px'")
    assert browser.evaluate(TOO_WIDE) > 0
    browser.evaluate("document.body.append(Object.assign(new Image(), {src: 'https://nowhere.invalid/x.png'}))")
    assert browser.complaints(), "the page's CSP forbids fetching anything"
