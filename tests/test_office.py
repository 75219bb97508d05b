"""What an office file says is what is read: changes, forms, formulas, notes, boxes, merged cells; what is left out is counted."""
import datetime
import io
import zipfile

import pytest

from stepdr.tools.extract import parse_document
from stepdr.tools.document import ExtractSettings

INLINE = ExtractSettings(isolate=False)
SPACES = ('xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
          'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships" xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
          'xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing" xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape" '
          'xmlns:v="urn:schemas-microsoft-com:vml" xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"')


def word(*items, change=None, **parts):
    "A Word file whose body holds these pieces of XML; other parts by name: footnotes=XML."
    import docx
    from docx.opc.constants import RELATIONSHIP_TYPE
    from docx.opc.packuri import PackURI
    from docx.opc.part import Part
    from docx.oxml import parse_xml
    file = docx.Document()
    for item in items: file.element.body.insert(-1, parse_xml(item.replace(">", f" {SPACES}>", 1) if "/>" not in item[:item.index(">") + 1] else item.replace("/>", f" {SPACES}/>", 1)))
    for name, xml in parts.items():
        part = Part(PackURI(f"/word/{name}.xml"), f"application/vnd.openxmlformats-officedocument.wordprocessingml.{name}+xml", xml.replace(">", f" {SPACES}>", 1).encode(), file.part.package)
        file.part.relate_to(part, f"http://schemas.openxmlformats.org/officeDocument/2006/relationships/{name}")
    if change: change(file)
    out = io.BytesIO()
    file.save(out)
    return parse_document(out.getvalue(), "x.docx", INLINE)


def run(text, looks=""): return f'<w:r>{f"<w:rPr>{looks}</w:rPr>" if looks else ""}<w:t xml:space="preserve">{text}</w:t></w:r>'
def p(*inside): return f"<w:p>{''.join(inside)}</w:p>"
def cell(*inside, looks=""): return f"<w:tc><w:tcPr>{looks}</w:tcPr>{''.join(inside) or '<w:p/>'}</w:tc>"
def words(document): return "\n".join(text.text for text in document.paragraphs)


RAISED, LOWERED = '<w:vertAlign w:val="superscript"/>', '<w:vertAlign w:val="subscript"/>'


# ---------------------------------------------------------------- Word

def test_tracked_changes_are_read_as_accepted_and_said():
    document = word(p(run("Price rose by "), f'<w:ins w:id="1" w:author="A">{run("12")}</w:ins>', '<w:del w:id="2" w:author="A"><w:r><w:delText>15</w:delText></w:r></w:del>', run(" percent.")),
                    p(f'<w:moveTo w:id="3" w:author="A">{run("Moved here.")}</w:moveTo>'), p(f'<w:moveFrom w:id="4" w:author="A">{run("Moved away.")}</w:moveFrom>'),
                    p('<w:pPr><w:rPr><w:del w:id="5" w:author="A"/></w:rPr></w:pPr>', run("One sentence ")), p(run("in two paragraphs.")))
    assert words(document) == "Price rose by 12 percent.\nMoved here.\nOne sentence in two paragraphs."
    assert "left out: 2 tracked deletions" in document.warnings and "tracked insertions read as accepted: 2" in document.warnings


def test_content_controls_of_all_kinds_are_read():
    control = lambda inside, more="": f"<w:sdt>{more}<w:sdtContent>{inside}</w:sdtContent></w:sdt>"
    table = f"<w:tbl><w:tr>{control(cell(p(run('in a control'))))}{cell(p(run('Cell: '), control(run('filled'))))}</w:tr>{control('<w:tr>' + cell(p(run('a'))) + cell(p(run('row'))) + '</w:tr>')}</w:tbl>"
    document = word(control(p(run("A block"), control(control(run(" in three"))))), p(run("Name: "), control(run("Ada"))), table,
                    p(run("Date: "), control(run("Click here."), "<w:sdtPr><w:showingPlcHdr/></w:sdtPr>")), control(control(p(run("Nested twice.")))))
    assert words(document) == "A block in three\nName: Ada\nin a control | Cell: filled\na | row\nDate:\nNested twice."
    assert document.warnings == ("left out: 1 content control without an entry",)


@pytest.mark.parametrize("inside, shown", [
    ("<m:r><m:t>E=m</m:t></m:r><m:sSup><m:e><m:r><m:t>c</m:t></m:r></m:e><m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup>", "E=mc²"),
    ("<m:f><m:num><m:r><m:t>1</m:t></m:r></m:num><m:den><m:r><m:t>2</m:t></m:r></m:den></m:f>", "1/2"),
    ("<m:f><m:num><m:r><m:t>a+b</m:t></m:r></m:num><m:den><m:r><m:t>c</m:t></m:r></m:den></m:f>", "(a+b)/c"),
    ("<m:rad><m:radPr/><m:deg><m:r><m:t>3</m:t></m:r></m:deg><m:e><m:r><m:t>x</m:t></m:r></m:e></m:rad>", "³√(x)"),
    ("<m:sSub><m:e><m:r><m:t>v</m:t></m:r></m:e><m:sub><m:r><m:t>max</m:t></m:r></m:sub></m:sSub>", "v_max"),
    ("<m:d><m:dPr><m:begChr m:val='['/><m:endChr m:val=']'/></m:dPr><m:e><m:r><m:t>0,1</m:t></m:r></m:e></m:d>", "[0,1]"),
    ("<m:nary><m:naryPr><m:chr m:val='∑'/></m:naryPr><m:sub><m:r><m:t>i=1</m:t></m:r></m:sub><m:sup><m:r><m:t>n</m:t></m:r></m:sup><m:e><m:r><m:t>i</m:t></m:r></m:e></m:nary>", "∑_(i=1)^n i"),
    ("<m:r><m:t>\U0001d438=\U0001d45a</m:t></m:r>", "E=m"),
])
def test_formulas_are_readable_text(inside, shown):
    assert words(word(p(run("Math: "), f"<m:oMath>{inside}</m:oMath>"))) == f"Math: {shown}"
    assert words(word(p(f"<m:oMathPara><m:oMath>{inside}</m:oMath></m:oMathPara>"))) == shown


def test_raised_letters_of_runs_and_styles_are_set_apart():
    def style(file):
        from docx.enum.style import WD_STYLE_TYPE
        file.styles.add_style("Mark", WD_STYLE_TYPE.CHARACTER).font.superscript = True
    document = word(p(run("5.2"), run("1", RAISED), run(" percent of 10"), run("-", RAISED), run("9", RAISED), run(" m, CO"), run("2", LOWERED), run(" on the 19"), run("th", RAISED), run(", 7"), run("3", '<w:rStyle w:val="Mark"/>')), change=style)
    assert words(document) == "5.2¹ percent of 10⁻⁹ m, CO2 on the 19th, 7³"


def test_notes_comments_heads_and_links_are_read():
    def more(file):
        file.sections[0].header.paragraphs[0].text = "Draft of May"
        file.add_paragraph("See ")._p.append(link(file))
    def link(file):
        from docx.oxml import parse_xml
        key = file.part.relate_to("https://sea.example/x", "http://schemas.openxmlformats.org/officeDocument/2006/relationships/hyperlink", is_external=True)
        return parse_xml(f'<w:hyperlink {SPACES} r:id="{key}"><w:ins w:id="9" w:author="A">{run("the source")}</w:ins></w:hyperlink>')
    document = word(p(run("Sales rose by 5"), '<w:r><w:rPr><w:vertAlign w:val="superscript"/></w:rPr><w:footnoteReference w:id="7"/></w:r>', run(" percent"), '<w:r><w:endnoteReference w:id="3"/></w:r>', run(".")), change=more,
                    footnotes=f'<w:footnotes><w:footnote w:id="7">{p("<w:r><w:footnoteRef/></w:r>", run("In euros."))}</w:footnote></w:footnotes>',
                    endnotes=f'<w:endnotes><w:endnote w:id="3">{p(run("As of May."))}</w:endnote></w:endnotes>')
    assert "Sales rose by 5[1] percent[e1].\nSee the source" in words(document) and document.links == (("the source", "https://sea.example/x"),)
    found = {each.heading: each.text for each in document.paragraphs}
    assert found["Footnotes"] == "[1] In euros." and found["Endnotes"] == "[e1] As of May." and found["Headers and footers"] == "- Draft of May"


def test_text_boxes_pictures_symbols_fields_and_hidden_text():
    box = (f"<mc:AlternateContent><mc:Choice Requires='wps'><w:drawing><wp:inline><wp:docPr id='1' name='x'/><wps:txbx><w:txbxContent>{p(run('In a box.'))}</w:txbxContent></wps:txbx></wp:inline></w:drawing></mc:Choice>"
           f"<mc:Fallback><w:pict><v:textbox><w:txbxContent>{p(run('In a box.'))}</w:txbxContent></v:textbox></w:pict></mc:Fallback></mc:AlternateContent>")
    picture = lambda said: f'<w:r><w:drawing><wp:inline><wp:docPr id="2" name="y"{said}/></wp:inline></w:drawing></w:r>'
    field = lambda code, shown: f'<w:r><w:fldChar w:fldCharType="begin"/></w:r><w:r><w:instrText>{code}</w:instrText></w:r><w:r><w:fldChar w:fldCharType="separate"/></w:r>{shown}<w:r><w:fldChar w:fldCharType="end"/></w:r>'
    document = word(p(run("Before"), f"<w:r>{box}</w:r>", run(" it.")), p(picture(' descr="A map of the sea"'), picture("")),
                    p('<w:r><w:sym w:font="Symbol" w:char="F061"/></w:r>', run(" is alpha, "), '<w:r><w:sym w:font="Wingdings" w:char="F0FE"/></w:r>', run(" yes "), '<w:r><w:sym w:font="Odd" w:char="F0FE"/></w:r>'),
                    p(run("Total: "), field(" =SUM(ABOVE) ", run("42")), run(" and "), f'<w:fldSimple w:instr="DATE">{run("May 3")}</w:fldSimple>'),
                    p(run("Seen"), run(" unseen", "<w:vanish/>"), '<w:r><w:t>co</w:t><w:softHyphen/><w:t>operate</w:t><w:noBreakHyphen/><w:t>ly</w:t><w:tab/><w:t>far</w:t><w:br/><w:t>below</w:t></w:r>'))
    text = words(document)
    assert text.count("In a box.") == 1 and "Before it." in text and "[picture: A map of the sea]" in text and "α is alpha, ☑ yes \ufffd" in text
    assert "Total: 42 and May 3" in text and "Seencooperate-ly far\nbelow" in text
    assert set(document.warnings[0].removeprefix("left out: ").split(", ")) == {"1 picture without a description", "1 symbol of unknown fonts", "1 run of hidden text"}


def test_merged_and_nested_cells_keep_their_columns():
    across, down, same = '<w:gridSpan w:val="2"/>', '<w:vMerge w:val="restart"/>', "<w:vMerge/>"
    inner = f"<w:tbl><w:tr>{cell(p(run('a')))}{cell(p(run('1')))}</w:tr><w:tr>{cell(p(run('b')))}{cell(p(run('2')))}</w:tr></w:tbl>"
    document = word(f"<w:tbl><w:tr>{cell(p(run('Region')))}{cell(p(run('Sales')), looks=across)}</w:tr><w:tr>{cell(p(run('North')), looks=down)}{cell(p(run('2020')))}{cell(p(run('5')))}</w:tr>"
                    f"<w:tr>{cell(looks=same)}{cell(p(run('2021')))}{cell(inner, '<w:p/>')}</w:tr><w:tr><w:trPr><w:del w:id='1' w:author='A'/></w:trPr>{cell(p(run('gone')))}</w:tr></w:tbl>")
    assert words(document) == "Region | Sales | \nNorth | 2020 | 5\nNorth | 2021 | a, 1; b, 2".replace("| \n", "| \n") and document.warnings == ("left out: 1 tracked deletion",)


@pytest.mark.parametrize("item, size", [
    (p("<m:oMath>" + "<m:sSup><m:e>" * 60 + "<m:r><m:t>1</m:t></m:r>" + "</m:e><m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup>" * 60 + "</m:oMath>"), 61),
    (p(*[run("1", RAISED)] * 20_000), 20_000), (p(*['<w:r><w:footnoteReference w:id="7"/></w:r>'] * 20_000), 120_000)], ids=["formulas", "runs", "notes"])
def test_much_of_one_thing_takes_time_in_proportion(item, size):
    assert len(word(item).text) >= size   # it would take minutes, or not end


def test_struck_out_words_and_form_fields_are_marked():
    box = lambda value: f'<w:r><w:fldChar w:fldCharType="begin"><w:ffData><w:checkBox><w:default w:val="{value}"/></w:checkBox></w:ffData></w:fldChar></w:r><w:r><w:instrText> FORMCHECKBOX </w:instrText></w:r><w:r><w:fldChar w:fldCharType="end"/></w:r>'
    assert words(word(p(run("It costs "), run("90", "<w:strike/>"), run(" 100.")), p(box(1), run(" yes "), box(0), run(" no")))) == "It costs ~~90~~ 100.\n☒ yes ☐ no"


@pytest.mark.parametrize("kind", ["ms-word.document.macroEnabled", "openxmlformats-officedocument.wordprocessingml.template", "ms-word.template.macroEnabledTemplate"])
def test_templates_and_files_with_macros_are_read(kind):
    import docx
    file, out, other = docx.Document(), io.BytesIO(), io.BytesIO()
    file.add_paragraph("Plain words.")
    file.save(out)
    with zipfile.ZipFile(out) as source, zipfile.ZipFile(other, "w") as target:
        for part in source.infolist(): target.writestr(part.filename, source.read(part).replace(b"openxmlformats-officedocument.wordprocessingml.document.main", f"{kind}.main".encode()))
    assert words(parse_document(other.getvalue(), "x.docm", INLINE)) == "Plain words."


# ---------------------------------------------------------------- Excel

def excel(change):
    import openpyxl
    book = openpyxl.Workbook()
    change(book)
    out = io.BytesIO()
    book.save(out)
    return parse_document(out.getvalue(), "x.xlsx", INLINE)


def rows(document): return [line for line in document.text.split("\n") if line.startswith("| ") and "---" not in line]


def test_formulas_without_a_stored_value_are_shown():
    def change(book):
        for row in (["a", "sum", "b"], [1, "=1+2", 7], [2, "=A3*2", None]): book.active.append(row)
    document = excel(change)
    assert rows(document) == ["| a | sum | b |", "| 1 | =1+2 | 7 |", "| 2 | =A3*2 |"] and any("2 formulas have no stored value" in each for each in document.warnings)


def test_numbers_are_shown_as_their_formats_say():
    def change(book):
        values = ((0.052, "0.0%"), (0.1 + 0.2, "General"), (1234.5, '"$"#,##0.00'), (501, "00000"), (1.5, '0.0" million"'), (datetime.date(2024, 5, 6), "yyyy-mm-dd"), (datetime.time(8, 30), "h:mm"), (True, "General"), ("#DIV/0!", "General"))
        for column, (value, form) in enumerate(values, 1):
            book.active.cell(1, column, value).number_format = form
    document = excel(change)
    assert rows(document) == ["| 5.2% | 0.3 | $1234.5 | 00501 | 1.5 million | 2024-05-06 | 08:30:00 | TRUE | #DIV/0! |"] and "cells that hold an error: 1" in document.warnings


def test_raised_letters_in_cells():
    from openpyxl.cell.rich_text import CellRichText, TextBlock
    from openpyxl.cell.text import InlineFont
    def change(book): book.active.append([CellRichText("5.2", TextBlock(InlineFont(vertAlign="superscript"), "1"), " percent"), "=1+2", 0.5])
    assert rows(excel(change)) == ["| 5.2¹ percent | =1+2 | 0.5 |"]


def test_merged_cells_hidden_parts_and_comments():
    from openpyxl.comments import Comment
    def change(book):
        sheet = book.active
        for row in (["Region", "year", "sales"], ["North", 2020, 5], [None, 2021, 6], ["South", 2020, 7]): sheet.append(row)
        sheet.merge_cells("A2:A3")
        sheet.row_dimensions[4].hidden = True
        sheet.column_dimensions["C"].hidden = True
        sheet["B2"].comment = Comment("estimated", "A")
        other = book.create_sheet("far"); other.append(["x", "y"]); other.sheet_state = "hidden"
    document = excel(change)
    assert rows(document)[1:3] == ["| North | 2020 | 5 |", "| North | 2021 | 6 |"] and "# sheet far (hidden)" in document.text and "- B2: estimated" in document.text
    assert any("1 hidden rows and 1 hidden columns" in each for each in document.warnings) and any("hidden sheets" in each and "far" in each for each in document.warnings)


# ---------------------------------------------------------------- PowerPoint

def slides(change):
    import pptx
    deck = pptx.Presentation()
    change(deck)
    out = io.BytesIO()
    deck.save(out)
    return parse_document(out.getvalue(), "x.pptx", INLINE)


def test_slides_with_raised_letters_groups_tables_and_charts():
    from pptx.chart.data import CategoryChartData, XyChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches
    def change(deck):
        slide = deck.slides.add_slide(deck.slide_layouts[5])
        slide.shapes.title.text = "Sales"
        group = slide.shapes.add_group_shape()
        paragraph = group.shapes.add_textbox(0, 0, 99, 99).text_frame.paragraphs[0]
        for text, height in (("It fell to 5.2", 0), ("1", 30000), (" percent of CO", 0), ("2", -25000)):
            run = paragraph.add_run(); run.text = text
            if height: run._r.get_or_add_rPr().set("baseline", str(height))
        table = slide.shapes.add_table(3, 2, 0, 0, 999, 999).table
        for (row, column), text in {(0, 0): "place", (0, 1): "year", (1, 0): "North", (1, 1): "2020", (2, 1): "2021"}.items(): table.cell(row, column).text = text
        table.cell(1, 0).merge(table.cell(2, 0))
        data = CategoryChartData(); data.categories = ["2020", "2021"]; data.add_series("north", (5, None)); data.add_series("south", (7, 8))
        slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(3), Inches(3), data)
        data = XyChartData(); series = data.add_series("curve"); series.add_data_point(1, 10); series.add_data_point(2, 40)
        slide.shapes.add_chart(XL_CHART_TYPE.XY_SCATTER, 0, 0, Inches(3), Inches(3), data)
        second = deck.slides.add_slide(deck.slide_layouts[6])
        second._element.set("show", "0")
        second.shapes.add_textbox(0, 0, 99, 99).text_frame.text = "Hidden words"
    document = slides(change)
    assert "- It fell to 5.2¹ percent of CO2" in document.text and rows(document)[:3] == ["| place | year |", "| North | 2020 |", "| North | 2021 |"]
    assert {"|  | north | south |", "| 2020 | 5 | 7 |", "| 2021 |  | 8 |", "| 1 | 10 |", "| 2 | 40 |"} <= {line.replace(".0 ", " ") for line in document.text.split("\n")}
    assert "# slide 2 (hidden)" in document.text and "Hidden words" in document.text and "1 hidden slides are read like the others" in document.warnings


def test_shapes_with_formulas_and_descriptions_are_read():
    from lxml import etree
    from PIL import Image
    def change(deck):
        slide = deck.slides.add_slide(deck.slide_layouts[6])
        tree = slide.shapes._spTree
        space = ('xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
                 'xmlns:a14="http://schemas.microsoft.com/office/drawing/2010/main" xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"')
        shape = lambda inside: f'<p:sp><p:nvSpPr><p:cNvPr id="9" name="x"/><p:cNvSpPr/><p:nvPr/></p:nvSpPr><p:spPr/><p:txBody><a:bodyPr/><a:p>{inside}</a:p></p:txBody></p:sp>'
        formula = "<a:r><a:t>Area: </a:t></a:r><a14:m><m:oMath><m:r><m:t>π</m:t></m:r><m:sSup><m:e><m:r><m:t>r</m:t></m:r></m:e><m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup></m:oMath></a14:m>"
        tree.append(etree.fromstring(f'<mc:AlternateContent {space}><mc:Choice Requires="a14">{shape(formula)}</mc:Choice><mc:Fallback>{shape("<a:r><a:t>no picture</a:t></a:r>")}</mc:Fallback></mc:AlternateContent>'))
        image = io.BytesIO(); Image.new("RGB", (9, 9)).save(image, "PNG")
        for said in ("A chart of the tides", ""):
            image.seek(0)
            slide.shapes.add_picture(image, 0, 0)._element.nvPicPr.cNvPr.set("descr", said)
    document = slides(change)
    assert "- Area: πr²" in document.text and "no picture" not in document.text and "[picture: A chart of the tides]" in document.text
    assert "left out: 1 picture without a description" in document.warnings
