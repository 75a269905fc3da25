import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from train.report import axes, charts, panels, theme
from train.report.views import Exposure, Plan

SERIES = {"shuffled": ([100.0, 200.0, 300.0], [5.0, 4.5, 4.0]), "pdpc": ([100.0, 200.0], [5.1, 4.4])}


def curve(name="curve", series=SERIES):
    with theme.drawing():
        return charts.curves(name, "Held-out loss", series, unit="nats per token", markers=True)


def test_a_picture_is_the_same_bytes_every_time_and_holds_no_date():
    first, second = curve(), curve()
    assert first.svg == second.svg
    assert "<metadata>" not in first.svg
    assert not re.search(r"20\d\d-\d\d", first.svg)


def test_the_users_own_matplotlib_settings_change_nothing():
    import matplotlib

    plain = curve().svg
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert curve().svg == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_text_stays_text_and_colours_become_variables():
    inline = curve().inline()
    assert ">tokens trained on</text>" in inline
    assert "var(--arm-0)" in inline
    assert "var(--arm-1)" in inline
    assert not re.search(r"#[0-9a-f]{6}\b", inline), "a colour outside the roles would not follow light and dark"
    assert "DejaVu" not in inline


def test_inline_figures_are_labelled_and_self_contained():
    inline = curve().inline()
    root = ET.fromstring(inline)
    assert root.get("role") == "img"
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    assert set(str(root.get("aria-labelledby")).split()) <= ids
    assert root.findtext("title") == "Held-out loss"
    assert "shuffled from 5.000 to 4.000; pdpc from 5.100 to 4.400" in str(root.findtext("desc"))
    assert "http" not in inline
    assert "<style" not in inline
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', inline)
    assert {one or other for one, other in used} <= ids


def test_ids_of_two_figures_never_collide():
    first, second = (set(re.findall(r'\bid="([^"]+)"', curve(name).inline())) for name in ("one", "two"))
    assert first
    assert not first & second


def test_names_from_the_data_are_always_rendered_as_text():
    names = ["</svg><script>alert(1)</script>", "$x^2$", "_hidden", "\x1b[2Jgone"]
    table = np.tile([0.4, 0.3, 0.2, 0.1], (4, 1))
    view = Exposure(np.linspace(0, 1, 4), None, table, (4, 0))
    with theme.drawing():
        inline = charts.source_mix("pdpc", 1, view, names, [0, 1, 2, 3]).inline()
    root = ET.fromstring(inline)
    texts = {element.text for element in root.iter("text")}
    assert {"$x^2$", "_hidden", "\\x1b[2Jgone"} <= texts
    assert "\x1b" not in inline
    assert not list(root.iter("script"))


@pytest.mark.filterwarnings("error")
def test_names_in_other_scripts_are_drawn_without_warnings():
    name = "\u4e2d\u6587\u7ef4\u57fa\u767e\u79d1\u5168\u6587\u6587\u672c"
    inline = curve(series={name: ([0, 1], [1, 2]), "shuffled\x1b[2J": ([0, 1], [1, 2])}).inline()
    texts = [element.text for element in ET.fromstring(inline).iter("text")]
    assert {name, "shuffled\\x1b[2J"} <= set(texts)
    assert axes.shortened(name, 9) == f"{name[:4]}\u2026"  # such letters are twice as wide


def test_a_plan_of_many_buckets_and_of_one_can_be_drawn():
    for count in (1, 2, 40):
        shares = np.full((5, count), 1 / count)
        view = Plan([f"q{index + 1}" for index in range(count)], np.linspace(0.1, 0.9, 5), shares, shares, "order")
        with theme.drawing():
            words = charts.plan("pdpc", 1, view).words
        assert "differ by at most 0.0 percentage points" in words
    assert "and 28 more" in words


def test_a_long_curve_is_thinned_to_means_that_keep_its_mean():
    x, y = list(range(12_345)), [float(value % 7) for value in range(12_345)]
    thin_x, thin_y = charts.thinned(x, y)
    assert len(thin_x) == len(thin_y) == charts.CURVE_POINTS
    assert np.mean(thin_y) == pytest.approx(np.mean(y), rel=0.01)
    assert charts.thinned([1.0], [2.0]) == ([1.0], [2.0])


def test_beyond_the_number_of_colours_the_smallest_sources_are_merged():
    table = np.tile(np.arange(12, 0, -1) / 78, (3, 1))
    names, merged = axes.largest_sources([f"s{index}" for index in range(12)], table, list(range(12)))
    assert names == ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "5 others"]
    assert merged.sum(axis=1) == pytest.approx(1.0)
    assert merged[0, -1] == pytest.approx((5 + 4 + 3 + 2 + 1) / 78)


@pytest.mark.parametrize(
    ("tokens", "text"), [(0, "0"), (500_000, "500k"), (1_500_000, "1.5M"), (2_000_000, "2M"), (100, "100")]
)
def test_ticks_have_no_trailing_zeros(tokens, text):
    assert axes.tick(tokens) == text


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_lines_stand_out_from_the_paper(dark):
    paper = theme.ROLES["paper"][dark]
    for role, pair in theme.ROLES.items():
        if role in ("ink", "muted"):
            assert contrast(pair[dark], paper) >= 4.5, role
        elif role.startswith("arm"):
            assert contrast(pair[dark], paper) >= 3.0, role


@pytest.mark.parametrize("buckets", [1, 2, 8])
def test_the_labels_of_buckets_lie_on_their_bands(buckets):
    progress = np.linspace(0.01, 0.99, 50)
    wish = np.exp(8 * (2 * progress[:, None] - 1) * np.linspace(-1, 1, buckets)[None, :])
    share = wish / wish.sum(axis=1, keepdims=True)
    names = [f"q{number}" for number in range(1, buckets + 1)]
    with theme.drawing():
        figure = Figure()
        drawn = figure.add_subplot()
        panels.bucket_shares(drawn, Plan(names, progress, share, share, "order"))
    edges = np.concatenate([np.zeros((50, 1)), np.cumsum(share, axis=1)], axis=1)
    inside = [text for text in drawn.texts if text.get_position()[0] <= 1]
    assert inside
    for text in inside:
        x, y = text.get_position()
        at, index = int(np.argmin(np.abs(progress - x))), names.index(text.get_text())
        assert edges[at, index] <= y <= edges[at, index + 1], text.get_text()
    assert len(drawn.texts) >= min(buckets, 2)
