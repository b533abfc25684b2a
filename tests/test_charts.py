"""Charts: what is drawn is where it belongs, text is text, and equal charts are equal files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from granet_cli.charts import render
from granet_cli.charts.palette import LIGHT
from granet_cli.charts.parts import Curve, Spec, axis, curve_layers, end_labels, heat_map, panel


def chart(label: str = "a", title: str = "loss") -> Spec:
    x, y = axis("epoch", 0, 10), axis(title, 0, 1)
    curves = [
        Curve(points=[(0, 1), (5, 0.5), (10, 0)], number=0, label=label, markers=True, deviations=[0.1, None, 0.1])
    ]
    return panel("title", x, y, curve_layers(curves, legend={"orient": "right"}), width=100, height=100)


def test_points_are_drawn_where_they_belong() -> None:
    (group,) = re.findall(r'<g class="mark-symbol role-mark [^>]*>(.*?)</g>', render.svg(chart()))
    assert re.findall(r"translate\(([\d.]+),([\d.]+)\)", group) == [("0", "0"), ("50", "50"), ("100", "100")]


def test_labels_stand_at_the_ends_of_curves() -> None:
    x, y = axis("epoch", 0, 10), axis("loss", 0, 1)
    curves = [Curve(points=[(0, 0), (10, 0.5)], number=n, label=str(n)) for n in range(2)]
    *_, labels = end_labels(curves, x, y, width=100, height=100)
    assert [row["text"] for row in labels["data"]["values"]] == ["0", "1"]
    assert [row["py"] for row in labels["data"]["values"]] == [44, 56]
    assert all(row["px"] > 100 for row in labels["data"]["values"])


@pytest.mark.parametrize("suffix", render.SUFFIXES)
def test_equal_charts_are_equal_files(suffix: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        render.write(tmp_path / f"{name}{suffix}", chart())
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_text_is_shown_as_it_is_and_steers_nothing(tmp_path: Path) -> None:
    render.write(tmp_path / "a.svg", chart(label="<b>&\u202e\x00\ud800", title="$x$ datum.x \u4e2d"))
    text = (tmp_path / "a.svg").read_text()
    assert "&lt;b&gt;&amp;\\u202e\\x00\\ud800" in text
    assert "$x$ datum.x \u4e2d" in text
    assert "<b>" not in text


def test_a_file_has_plain_colours_and_a_page_has_those_of_its_theme(tmp_path: Path) -> None:
    render.write(tmp_path / "a.svg", chart())
    assert "var(--" not in (tmp_path / "a.svg").read_text()
    assert LIGHT["c0"] in (tmp_path / "a.svg").read_text()
    assert 'stroke="var(--c0)"' in render.svg(chart())
    assert not set(LIGHT.values()) & set(re.findall(r"#\w{6}", render.svg(chart())))


def test_equal_cells_of_a_heat_map_are_one_rectangle() -> None:
    found = heat_map([[1, 1, 0.1, 0]], axis("epoch", 0, 8), titles=("layer", "%"), width=80, height=10)
    cells = found["vconcat"][0]["data"]["values"]
    assert [(cell["x"], cell["x2"], cell["level"]) for cell in cells] == [(0, 4, 15), (4, 8, 0)]
