"""What a PDF says is what is read: raised figures, hyphens, turned pages, and lines that look like running heads."""
import pytest

from stepdr.tools.extract import parse_document
from stepdr.tools.document import ExtractSettings

INLINE = ExtractSettings(isolate=False)


def pdf(streams, rotate=0, encoding="/WinAnsiEncoding"):
    "A PDF with a page for each content stream; /F1 is Helvetica."
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", None, f"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding {encoding} >>"]
    kids = []
    for stream in streams:
        objects.append(f"<< /Length {len(stream.encode('latin-1'))} >>\nstream\n{stream}\nendstream")
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Rotate {rotate} /Contents {len(objects)} 0 R /Resources << /Font << /F1 3 0 R >> >> >>")
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    out, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{text}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    return out + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF".encode()


def page(lines): return "BT /F1 11 Tf 15 TL 72 720 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"


def read(streams, **more): return parse_document(pdf(streams, **more), "x.pdf", INLINE)


def words(document): return " ".join(p.text for p in document.paragraphs)


# ---------------------------------------------------------------- raised and lowered

@pytest.mark.parametrize("stream", [
    "BT /F1 11 Tf 72 720 Td (It fell to 5.2) Tj /F1 7 Tf 4 Ts (1) Tj /F1 11 Tf 0 Ts ( percent of 10) Tj /F1 7 Tf 4 Ts (9) Tj /F1 11 Tf 0 Ts ( cells in H) Tj /F1 7 Tf -2 Ts (2) Tj /F1 11 Tf 0 Ts (O.) Tj ET",
    "BT /F1 1 Tf 11 0 0 11 72 720 Tm (It fell to 5.2) Tj 7 0 0 7 125.8 724 Tm (1) Tj 11 0 0 11 129.7 720 Tm ( percent of 10) Tj 7 0 0 7 197 724 Tm (9) Tj 11 0 0 11 200.9 720 Tm ( cells in H) Tj 7 0 0 7 248.6 718 Tm (2) Tj 11 0 0 11 252.5 720 Tm (O.) Tj ET",
], ids=["rise", "scaled"])
def test_a_raised_mark_is_no_part_of_the_figure(stream):
    assert words(read([stream])) == "It fell to 5.2¹ percent of 10⁹ cells in H2O."


def test_a_raised_mark_on_a_turned_page_and_at_the_begin_of_a_note():
    turned = "BT /F1 11 Tf 0 1 -1 0 72 72 Tm (It fell to 5.2) Tj /F1 7 Tf 4 Ts (1) Tj /F1 11 Tf 0 Ts ( percent in the year.) Tj ET"
    assert words(read([turned], rotate=90)) == "It fell to 5.2¹ percent in the year."
    note = "BT /F1 10 Tf 72 120 Td (Debt was 71 percent, and it will fall to 65.) Tj ET BT /F1 6 Tf 72 103 Td (1) Tj ET BT /F1 9 Tf 75.5 100 Td (Provisional figures of the office.) Tj ET"
    assert "65. ¹ Provisional figures" in words(read([note]))


def test_raised_letters_ordinals_and_large_initials():
    stream = "BT /F1 11 Tf 72 720 Td (On the 19) Tj /F1 7 Tf 4 Ts (th) Tj /F1 11 Tf 0 Ts ( it was 5.2) Tj /F1 7 Tf 4 Ts (a) Tj /F1 11 Tf 0 Ts ( and e) Tj /F1 7 Tf 4 Ts (-2t) Tj /F1 11 Tf 0 Ts ( there.) Tj ET"
    assert words(read([stream])) == "On the 19th it was 5.2ᵃ and e^(-2t) there."
    initial = "BT /F1 36 Tf 72 700 Td (T) Tj ET BT /F1 11 Tf 94 715 Td (he sea rises and falls twice a day.) Tj ET"
    assert "^" not in words(read([initial])) and "he sea rises and falls" in words(read([initial]))


# ---------------------------------------------------------------- lines

@pytest.mark.parametrize("rotate, matrix", [(90, "0 1 -1 0 {0} 72"), (270, "0 -1 1 0 {1} 720"), (180, "-1 0 0 -1 540 {0}"), (0, "0 1 -1 0 {0} 72")])
def test_lines_of_turned_pages_stay_apart(rotate, matrix):
    lines = ("the first line of a text that goes on", "and the second line that is as long as", "this third line of them all.")
    stream = " ".join(f"BT /F1 11 Tf {matrix.format(100 + 15 * n, 500 - 15 * n)} Tm ({line}) Tj ET" for n, line in enumerate(lines))
    assert words(read([stream], rotate=rotate)) == " ".join(lines)


def test_text_outside_of_the_page_is_not_read():
    assert words(read(["BT /F1 11 Tf 72 720 Td (shown) Tj ET BT /F1 11 Tf 72 2000 Td (hidden) Tj ET"])) == "shown"


@pytest.mark.parametrize("lines, kept", [
    (["It is a long-", "term plan."], "It is a long-term plan."),
    (["All of the information is here, as infor-", "mation should be."], "All of the information is here, as information should be."),
    (["They were permit-", "ted to go."], "They were permitted to go."),
    (["The COVID-", "19 patients came."], "The COVID-19 patients came."),
    (["It has been so since mid-", "April of the year."], "It has been so since mid-April of the year."),
    (["A self-made man, and a self-", "made plan."], "A self-made man, and a self-made plan."),
    (["The pre-", "and post-war years."], "The pre- and post-war years."),
    (["All is OPTIONAL here, and OP-", "TIONAL there."], "All is OPTIONAL here, and OPTIONAL there."),
    (["The years 2019-", "2020 were long."], "The years 2019-2020 were long."),
    (["It is a state-of-the-", "art thing."], "It is a state-of-the-art thing."),
])
def test_hyphens_at_line_ends(lines, kept):
    assert words(read([page(lines)])) == kept


# ---------------------------------------------------------------- running heads

def test_lines_that_differ_in_their_figures_are_no_running_heads():
    years = read([page([f"Results for the year {2019 + n}", f"Revenue: {5 + n}.{n} million euros", f"Staff: 1,{200 + 37 * n} people"]) for n in range(5)])
    for n in range(5): assert f"Results for the year {2019 + n} Revenue: {5 + n}.{n} million euros Staff: 1,{200 + 37 * n} people" in words(years)
    steps = read([page([f"Step {n + 1}", f"Turn the wheel {n + 2} times."]) for n in range(5)])
    assert all(f"Step {n + 1}" in words(steps) and f"wheel {n + 2} times" in words(steps) for n in range(5)) and not steps.warnings


@pytest.mark.parametrize("foot", ["{0}", "Page {0}", "Page {0} of 6", "- {0} -", "Journal of Tides 45 | {0}", "Seite {0}"])
def test_page_numbers_and_heads_are_left_out_and_it_is_said(foot):
    body = "Sentence {0} of a long text about the sea that is on this page alone, with {1} boats."
    document = read([page(["The Sea and Its Tides", body.format(n, n * 7 + 3), foot.format(n + 120 if foot == "{0}" else n + 1)]) for n in range(6)])
    text = words(document)
    assert text.count("The Sea and Its Tides") == 1 and all(f"{n * 7 + 3} boats" in text for n in range(6))
    assert sum(p.text.endswith(foot.format(n + 120 if foot == "{0}" else n + 1)) for n, p in enumerate(document.paragraphs)) <= 1
    assert any("left out" in warning and "5 running heads" in warning or "running heads" in warning for warning in document.warnings)


def test_a_page_that_is_cut_for_the_most_part_is_named():
    same = ["The same words stand on every page of it", "and these words are the same as well", "so that little is left"]
    document = read([page([*same, f"but number{n * n * 31}"]) for n in range(5)])
    assert all(f"number{n * n * 31}" in words(document) for n in range(5)) and any("most of the text of 4 pages (2, 3, 4, 5)" in warning for warning in document.warnings)


def test_a_soft_hyphen_joins():
    from stepdr.tools.pdf import join_hyphens
    assert join_hyphens("a commu\u00ad\nnication and an inter-\nferon-free one") == "a communication and an inter-feron-free one"


# ---------------------------------------------------------------- columns

def rowwise(pairs): return " ".join(f"BT /F1 10 Tf 72 {700 - 13 * n} Td ({left}) Tj ET BT /F1 10 Tf 320 {700 - 13 * n} Td ({right}) Tj ET" for n, (left, right) in enumerate(pairs))


def test_columns_of_prose_are_read_one_after_the_other_and_tables_row_by_row():
    left = ["The sea rises and falls twice", "a day because the moon pulls", "the water of the sea towards", "it, and the earth turns under", "it once a day, so that each", "place has two high tides."]
    right = ["Farmers of the north grow rye", "and oats, since the summer is", "short and the soil is thin in", "most of the valleys, and they", "keep sheep on the hills where", "nothing else will grow."]
    assert words(read([rowwise(zip(left, right))])) == " ".join(left + right)
    table = [("Country of the north", "People that live there"), ("Norway and its islands", "5,400,000 people"), ("Sweden and its islands", "10,500,000 people"), ("Denmark with the Faroes", "5,900,000 people"), ("Finland with Aland", "5,600,000 people")]
    assert words(read([rowwise(table)])) == " ".join(" ".join(pair) for pair in table)


@pytest.mark.parametrize("line", ["{0} patients were treated", "{0} May 2023", "Table {0}", "Exercise {0}", "Results 20{0:02}"])
def test_lines_that_count_with_the_pages_but_say_something_stay(line):
    document = read([page([line.format(n + 1), f"Some words of page {'abcde'[n]} only."]) for n in range(5)])
    assert all(line.format(n + 1) in words(document) for n in range(5)) and not any("left out" in each for each in document.warnings)


def test_a_note_at_the_margin_does_not_turn_the_page():
    margin = "BT /F1 9 Tf 0 1 -1 0 30 200 Tm (preprint of May) Tj ET "
    text = "BT /F1 11 Tf 72 720 Td (Unemployment fell to 5.2) Tj /F1 7 Tf 4 Ts (1) Tj /F1 11 Tf 0 Ts ( percent in the year of the report.) Tj ET"
    assert "fell to 5.2¹ percent" in words(read([margin + text]))
