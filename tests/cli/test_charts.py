# SPDX-License-Identifier: Apache-2.0
import math
import re
from xml.etree import ElementTree

from ns_diff3r.cli.charts import Chart, Mark, line_chart, stacked_charts

NAMES = {"title": "a & b", "x_label": "steps", "y_label": "dB"}


def paths(file) -> list[str]:
    root = ElementTree.parse(file).getroot()
    lines = [element for element in root.iter() if element.tag.endswith("path")]
    return [line.attrib["d"] for line in lines if line.attrib.get("stroke-width") == "1.6"]


def test_lines_go_through_their_points(tmp_path):
    file = line_chart(tmp_path / "new" / "chart.svg", {"one": [(0, 0), (10, 1)], "two": [(0, 1), (10, 0)]}, **NAMES)
    first, second = paths(file)
    numbers = [list(map(float, re.findall(r"[\d.]+", line))) for line in (first, second)]
    (x0, y0, x1, y1), (_, v0, _, v1) = numbers
    assert x0 < x1
    assert y0 > y1  # up is up
    assert (v0, v1) == (y1, y0)
    assert "a &amp; b" in file.read_text()


def test_gaps_and_what_a_logarithm_cannot_show_interrupt_a_line(tmp_path):
    line = [(1, 1), (10, math.nan), (100, 3), (1000, 0), (10000, 5)]
    (drawn,) = paths(line_chart(tmp_path / "chart.svg", {"one": line}, log_x=True, log_y=True, **NAMES))
    assert drawn.count("M") == 3
    assert drawn.count("L") == 0


def test_equal_decades_are_equally_far_apart(tmp_path):
    (drawn,) = paths(line_chart(tmp_path / "c.svg", {"one": [(1, 1), (10, 1), (100, 1)]}, log_x=True, **NAMES))
    places = [float(x) for x in re.findall(r"[ML]([\d.]+)", drawn)]
    assert abs((places[2] - places[1]) - (places[1] - places[0])) < 0.2


def test_nothing_to_draw_writes_nothing(tmp_path):
    assert line_chart(tmp_path / "chart.svg", {"one": [(1, math.nan)]}, **NAMES) is None
    assert not (tmp_path / "chart.svg").exists()


def test_charts_below_one_another_have_marks_and_room_for_their_names(tmp_path):
    marks = {"one": [Mark(10, 1, "ring"), Mark(0, math.nan, "square")]}
    first = Chart({"one": [(0, 0), (10, 1)], "a name " * 10: [(0, 1)]}, "first", "x", "y", marks=marks)
    second = Chart({"two": [(0, 5), (10, 7)]}, "second", "x", "y")
    empty = Chart({"three": [(0, math.nan)]}, "third", "x", "y")
    text = stacked_charts(tmp_path / "stack.svg", [first, empty, second]).read_text()
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', text).groups())
    assert height == 2 * 400
    assert width > 640 + 5 * 40
    assert (
        text.count('fill="none" stroke="#1f77b4" stroke-width="1.4"') == 1
    )  # the ring; what is not finite is not drawn
    assert text.count("translate(0 400)") == 1
    assert "third" not in text
    assert text.count('r="2.5"') == 2  # markers of the second alone
    assert stacked_charts(tmp_path / "none.svg", [empty]) is None
