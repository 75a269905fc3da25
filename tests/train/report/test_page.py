import re
from html.parser import HTMLParser

import pytest

from train.report import ReportSettings, make, page

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Checker(HTMLParser):
    """Collects what a valid, self-contained page must not have."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.tags, self.fetches, self.tables = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if given.get("id"):
            self.ids.append(given["id"])
        self.fetches += [value for key, value in attrs if key in ("src", "href") and not value.startswith("#")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def html_of(runs, **more):
    report = make(ReportSettings(runs=runs, **more))
    return page.render(report, page.draw(report))


def checked(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def text_of(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_the_page_is_valid_and_fetches_nothing(comparison):
    html = html_of(comparison)
    found = checked(html)
    assert len(found.ids) == len(set(found.ids))
    assert found.fetches == []
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert "default-src 'none'" in html
    assert found.tags.count("table") == found.tags.count("caption")
    assert "<th>" not in html, "every header cell says what it heads"


def test_the_page_has_every_section_when_everything_is_there(comparison):
    html = html_of(comparison)
    for name in (
        "train-loss", "held-out-loss", "low-pd-loss", "high-pd-loss", "loss-differences", "benchmark-differences",
        "gain-held-out", "gain-benchmarks", "plan-0", "plan-1", "high-share", "mix-0", "mix-1", "pd-by-source", "speed",
    ):  # fmt: skip
        assert f'id="figure-{name}-title"' in html, name
    text = text_of(html)
    assert (
        "After 4.00k tokens (1 seed each), pdpc is 0.1000 nats per token (2.5%) above shuffled on held-out text, "
        "which may be chance: 4.1000 vs. 4.0000. No error bar: that needs" in text
    )
    assert "One seed per arm: no verdict on the order. The intervals cover only the choice of evaluation items" in text
    assert "? no verdict" in text
    assert not re.search(r'class="verdict (better|worse)"', html)
    assert "from standard errors, unpaired" in text
    words = re.search(r'id="figure-held-out-loss-words">([^<]*)<', html)
    assert words is not None
    assert "Below, the batches of pdpc: low from 100 to 5 percent" in words.group(1)
    assert "batches of shuffled" not in words.group(1), "one bucket is not a mixture"
    assert 'class="missing"' not in html


def test_the_same_runs_give_the_same_bytes(comparison):
    assert html_of(comparison) == html_of(comparison)


def test_a_gain_is_called_a_gain_with_its_seeds_and_its_interval(with_seeds):
    html = html_of(with_seeds(shuffled=3, pdpc=3))
    checked(html)
    text = text_of(html)
    found = re.search(
        r"\(3 seeds each\), pdpc is (0\.\d{4}) nats per token \(.*?%\) worse than shuffled on held-out text: [\d.]+ "
        r"vs\. [\d.]+\. The 95% confidence interval of the difference is \+(0\.\d{4}) to \+(0\.\d{4}) nats per token "
        r"\(paired by item, over seeds\)\.",
        text,
    )
    assert found is not None, text[:2000]
    difference, low, high = map(float, found.groups())
    assert 0.02 < low < difference < high < 0.18
    assert f"\u22120.{'0' * 4}" not in text
    assert "3 seeds each, paired by seed; at 4.00k tokens; intervals paired by item, over seeds" in text
    assert text.count("3 seeds") >= 5
    assert "pdpc seed 2" in text
    assert "One seed per arm: " not in text
    assert "With only 3 seeds the intervals are wide" in text


def test_a_failed_stage_is_noted_with_the_command_that_reruns_it(metrics, make_run):
    records = metrics("pdpc")
    stages = [record for record in records if record["kind"] == "stage"]
    stages[1] |= {"stage/failed": "boolq,heldout", "bench/boolq/error": "no data", "val/error": "out of memory"}
    folder = make_run("pdpc", records)
    text = text_of(html_of({"shuffled": str(make_run("shuffled")), "pdpc": str(folder)}))
    remedy = f"heldout (out of memory): run `pdpc evaluate run={folder} stages=failed`"
    assert f"stage 2 of pdpc failed in boolq (no data), {remedy}" in text


def test_missing_artifacts_are_replaced_by_a_sentence(make_run):
    runs = {arm: str(make_run(arm)) for arm in ("shuffled", "pdpc")}
    html = html_of(runs)
    checked(html)
    text = text_of(html)
    assert "The scores of shuffled are no longer at gone/scores." in text
    assert "The order of pdpc is no longer at gone/pdpc." in text
    assert 'id="figure-plan-1-title"' in html, "the plan is then taken from the metrics"
    assert "Reconstructed from the logged steps." in text
    assert 'id="figure-pd-by-source-title"' not in html


def test_names_and_settings_are_escaped(make_run):
    hostile = "</pre><script>alert(1)</script>"
    runs = {arm: str(make_run(arm, config={"note": hostile + arm})) for arm in ("shuffled", "pdpc")}
    html = html_of(runs, title="<b>title</b>")
    checked(html)
    assert "<script" not in html
    assert "<b>title" not in html
    assert "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;pdpc" in html


@pytest.mark.parametrize("many", [3, 8])
def test_with_more_than_two_arms_each_gets_its_columns(make_run, many):
    names = ["shuffled", *(f"arm{number}" for number in range(1, many))]
    html = html_of({name: str(make_run(name)) for name in names})
    checked(html)
    assert all(f"{name} is 0.1000 nats per token (2.5%) above shuffled" in text_of(html) for name in names[1:])
    rows = re.findall(r'<tr><th scope="row" data-label="Stage">\d+</th>.*?</tr>', html, flags=re.DOTALL)
    head = re.search(r"<thead><tr><th scope=\"col\">Stage.*?</tr>", html, flags=re.DOTALL)
    assert head is not None
    assert {row.count("<td") + 1 for row in rows} == {head.group().count("<th ")}
