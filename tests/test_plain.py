"""Tables in Markdown and tables of text keep every cell in its column."""
import pytest

from stepdr.tools.extract import parse_document
from stepdr.tools.document import ExtractSettings
from stepdr.tools.plain import find_delimiter, read_csv, read_markdown


def rows(source): return [value for kind, _, value in read_markdown(source)[0] if kind == "row"]


@pytest.mark.parametrize("source, cells", [
    ("||2020|2021|\n|---|---|---|\n|GDP|1|2|\n|Debt||3|\n||4|5|", [["", "2020", "2021"], ["GDP", "1", "2"], ["Debt", "", "3"], ["", "4", "5"]]),
    ("A | B\n--|--\n1 | 2\n3 |", [["A", "B"], ["1", "2"], ["3", ""]]),
    ("| a | b |\n|:--|--:|\n| x \\| y | 2 |", [["a", "b"], ["x | y", "2"]]),
    ("| a | b |\n| - | - |\n| `x || y` | 2 |", [["a", "b"], ["`x || y`", "2"]]),
    ("| a | b |\n|---|---|\n| `x` | `y` |", [["a", "b"], ["`x`", "`y`"]]),
    ("| a |\n|---|\n| 1 |", [["a"], ["1"]]),
    ("text before\na | b\n:-:|:-:\n1 | 2\n\nafter | it", [["a", "b"], ["1", "2"]]),
    ("> | a | b |\n> |---|---|\n> | 1 | 2 |", [["a", "b"], ["1", "2"]]),
    ("| a | b | c |\n|---|---|---|\n| 1 | 2 |\n| 1 | 2 | 3 | 4 |", [["a", "b", "c"], ["1", "2", ""], ["1", "2", "3", "4"]]),
    ("+---+---+\n| a | b |\n+===+===+\n| 1 | 2 |\n+---+---+", [["a", "b"], ["1", "2"]]),
    ("| [x](y.md) | 10<sup>9</sup> |\n|---|---|\n| a<br>b | H<sub>2</sub>O |", [["x", "10⁹"], ["a b", "H2O"]]),
    ("|a|b|\n|-|-|\n|-|3|\n|-|-|\n", [["a", "b"], ["-", "3"], ["-", "-"]]),
    ("| a | b |\n|---|---|\n| 1 | 2 |\nA sentence right after it.", [["a", "b"], ["1", "2"]]),
    ("no table | here\n\nbut words", []),
    ("a | b\n---\n", []),
    ("```\na | b\n--|--\n```", []),
])
def test_cells_of_markdown_tables(source, cells): assert rows(source) == cells


def test_two_tables_in_a_row_stay_two():
    document = parse_document(b"| a | b |\n|---|---|\n| 1 | 2 |\n\nc | d\n--|--\n3 | 4\n", "x.md")
    assert document.text == "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n| c | d |\n| --- | --- |\n| 3 | 4 |" and [p.text for p in document.paragraphs] == ["a | b\n1 | 2", "c | d\n3 | 4"]


def test_links_with_blanks_and_brackets_and_raised_letters():
    blocks, links, _ = read_markdown('It fell to 5.2<sup>1</sup>, see [a](<C# notes.md>), [b](x_(y).md "title") and [c](<>).')
    assert blocks == [("p", 0, "It fell to 5.2¹, see a, b and c.")] and links == [("a", "C# notes.md"), ("b", "x_(y).md"), ("c", "")]


@pytest.mark.parametrize("source, mark", [
    ('name;note\n"Smith, John, Jr.";"a, b, c"\n"Lee, Ann";"d, e"\n', ";"),
    ("a,b\nx|y|z|w,1\nu|v|w|q,2\n", ","),
    ("Preis;Menge\n1,5;2,5\n3,5;4,5\n", ";"),
    ("Name, Vorname;Preis\nHuber, A;1,5\nMaier, B;2,5\n", ";"),
    ("a\tb\n1,5\t2,5\n", "\t"),
    ("a|b|c\n1|x, y|3\n", "|"),
    ("sep=;\na;b\n1,2,3;4\n", ";"),
    ('a,b\n"x;y;z;w","1\n2"\n"u;v",3\n', ","),
    ("time,event\n10:30:00,a; b; c; d\n11:00:00,e; f; g\n", ","),
    ("Title of the table\n\nyear;north;south\n2020;1,5;2\n2021;2,5;3\n2022;3,5;4\n", ";"),
    ("a,b\n", ","), ("one column\nof words\n", ","),
])
def test_the_mark_between_columns(source, mark): assert find_delimiter(source, "x.csv") == mark


def test_quotes_of_tables():
    read = lambda source, name="x.csv": ([value for _, _, value in read_csv(source, name, ExtractSettings())[0]], read_csv(source, name, ExtractSettings())[1])
    assert read('\ufeff"a","b"\n"say ""hi""","1\n2"\n') == ([["a", "b"], ['say "hi"', "1 2"]], [])
    assert read('a, b\n1, "x, y"\n') == ([["a", "b"], ["1", "x, y"]], [])
    assert read('a,b\n"say \\"hi\\", all",2\n') == ([["a", "b"], ['say "hi", all', "2"]], [])
    assert read('a\tb\n"odd\t1\nx\t2\n', "x.tsv")[0] == [["a", "b"], ['"odd', "1"], ["x", "2"]]
    assert read("a,b\n1,2,3\n4,5\n6,7\n")[1] == ["rows with more or fewer columns than most: 1"]
    assert "never closed" in read('a,b\n"1,2\n3,4\n')[1][-1]
    assert read_csv("a,b,c\n1,2,3\n", "x.csv", ExtractSettings(max_columns=2))[1] == ["only the first 2 columns were kept"]
