"""What is printed of a name is that name, to a spreadsheet, in Markdown, in HTML, on a terminal."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth3d.files import from_csv_cell, html_page, markdown_cell, markdown_page, write_csv

HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'=1", "''", "=cmd|'/c calc'!A0", "a\r\nb", ""]


def through_csv(values):
    text = io.StringIO()
    write_csv(text, [{"name": value, "score": -0.5} for value in values], ("name", "score"))
    return list(csv.DictReader(io.StringIO(text.getvalue())))


@pytest.mark.parametrize("value", HOSTILE)
def test_no_cell_is_a_formula_and_numbers_stay_numbers(value):
    (row,) = through_csv([value])
    assert not row["name"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert "\n" not in row["name"]
    assert float(row["score"]) == -0.5


@given(st.lists(st.text(st.characters(exclude_categories=("C", "Z")), max_size=9), max_size=4))
def test_what_was_quoted_is_read_back_as_it_was(values):
    assert [from_csv_cell(row["name"]) for row in through_csv(values)] == values


def test_markdown_gets_no_tag_no_link_no_cell_and_no_line():
    cell = markdown_cell("a|b\n| forged | \x1b[31m")
    assert cell == r"a\|b\n\| forged \| \x1b[31m"
    page = markdown_page("<img src=x> [a](javascript:b) </p>\n<!-- 3 < 4 \x07\n")
    assert page == "\\<img src=x> [a]\\(javascript:b) \\</p>\n\\<!-- 3 < 4 \\x07\n"


def test_html_gets_no_control_characters():
    page = "<p>\t1\n\x1b[31m\x00\x9b\u202e</p>"
    assert html_page(page) == "<p>\t1\n\ufffd[31m\ufffd\ufffd\ufffd</p>"
