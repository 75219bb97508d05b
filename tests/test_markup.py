"""A page's text says what a browser shows: figures, columns, questions and notes keep their place, and what is left out is told."""
import pytest

from stepdr.tools.extract import extract
from stepdr.tools.document import ExtractSettings

SETTINGS = ExtractSettings(isolate=False)
SENTENCES = "".join(f"<p>Sentence number {number} of the ordinary text, long enough to be kept by a reader of pages.</p>" for number in range(4))


def read(body, marked=True, title="T"):
    "A page with ordinary sentences before the body given: in <main>, or in a page that does not say what its main content is."
    begin, end = ("<main>", "</main>") if marked else ("<div class=wrap>", "</div>")
    page = f"<!doctype html><html lang=en><head><title>{title}</title></head><body>{begin}{SENTENCES}{body}{end}</body></html>"
    return extract(page.encode(), "text/html", "https://a.example/page", SETTINGS)


def text(body, marked=True):
    "What follows the ordinary sentences."
    whole = read(body, marked).text
    assert whole.count("Sentence number") == 4
    return whole.partition("Sentence number 3")[2].partition("\n\n")[2]


both = pytest.mark.parametrize("marked", [True, False], ids=["main", "unmarked"])


# ---------------------------------------------------------------- raised and lowered

@both
@pytest.mark.parametrize("source, shown", [
    ("5.2<sup>1</sup> percent", "5.2¹ percent"), ("10<sup>9</sup> cells", "10⁹ cells"), ("6.02&times;10<sup>-23</sup>", "6.02×10⁻²³"), ("10<sup>\u221223</sup>", "10⁻²³"), ("x<sub>1</sub>2", "x₁2"),
    ('5.2<sup><a href="#fn1">1</a></sup> percent', "5.2 [1] percent"), ("5.2<sup>[1]</sup> percent", "5.2 [1] percent"), ('5.2<a href="#fn1"><sup>1</sup></a> percent', "5.2 [1] percent"),
    ("5.2<sup><span><a href='#cite_note-2'><span>[</span>2<span>]</span></a></span></sup> percent", "5.2 [2] percent"), ('in 2019<a class="footnote-ref" href="#fn3">3</a> and', "in 2019 [3] and"),
    ("30<sup>1,2</sup> of", "30 [1,2] of"), ("30<sup>(1)</sup> of", "30 [1] of"), ("30<sup>*</sup> of", "30* of"), ("30<sup class=sr><span class=sr-only>Note </span><a href='#n1'>1</a></sup> of", "30 [1] of"),
    ("5.2<a href='#b12'>12</a> percent", "5.2 [12] percent"), ("5.2<a href='notes.html#n1'><span>1</span></a> percent", "5.2 [1] percent"), ('5.2<a role="doc-noteref" href="#x">1</a> percent', "5.2 [1] percent"),
    ('5.2<span style="font-size: 70%; vertical-align: top">1</span> percent', "5.2¹ percent"), ('5.2<span style="position: relative; top: -4px">1</span> percent', "5.2¹ percent"), ('5.2<span class="footnote">1</span> percent', "5.2 [1] percent"),
    ("1<sup>st</sup> of", "1st of"), ("m<sup>2</sup>, km<sup>2</sup>", "m², km²"), ("Word<sup>TM</sup>", "Word™"), ("H<sub>2</sub>O and CO<sub>2</sub>", "H2O and CO2"), ("101<sub>2</sub> is 5", "101₂ is 5"),
    ("V<sub>max</sub> and a<sub>i</sub>", "V_max and a_i"), ("2<sup>2<sup>3</sup></sup>", "2^(2³)"), ("x<sup>n+1</sup>", "x^(n+1)"), ("Ca<sup>2+</sup>", "Ca²⁺"), ("<SUP>14</SUP>C", "¹⁴C"),
    ('8,336<span style="font-size: 9px; vertical-align: super">2</span> people', "8,336² people"), ('5.2<span class="sup">1</span> percent', "5.2¹ percent"), ("10<b><sup>6</sup></b> cells", "10⁶ cells")])
def test_superscripts_are_not_glued(source, shown, marked):
    assert text(f"<p>{source}</p>", marked) == shown


@both
def test_superscripts_in_headings_lists_and_tables(marked):
    assert text("<h2>The 10<sup>9</sup> cells</h2><ul><li>5.2<sup>1</sup></li></ul><table><tr><td>1.5<sup>3</sup></td><td>10<sup>6</sup></td></tr></table><pre>2<sup>8</sup></pre>", marked) == (
        "## The 10⁹ cells\n\n- 5.2¹\n\n| 1.5³ | 10⁶ |\n| --- | --- |\n\n```\n2⁸\n```")


@both
def test_a_letter_alone_in_its_element_is_kept(marked):
    assert text("<p>It costs <b>€</b> 5 <i>&rarr;</i> <b>–</b> <u>™</u> <b>水</b></p>", marked) == "It costs € 5 → – ™ 水"


def test_words_of_a_sentence_are_kept_whatever_their_class():
    source = "<p>On <time>1 May 2020</time> <a rel=author href=/x>Ann Lee</a> paid <span class=paid>5 euros</span> by <a class=email href=/e>mail</a> to <span itemprop=author>Bob</span>.</p>"
    assert text(source, False) == text(source) == "On 1 May 2020 Ann Lee paid 5 euros by mail to Bob."


def test_a_page_that_is_mostly_left_out_says_so():
    menus = "<div class=sidebar>" + "<p>Another text of the same site, which stands beside the one that is read.</p>" * 60 + "</div>"
    warnings = extract(f"<html><body><div class=text>{SENTENCES}</div>{menus}</body></html>".encode(), "text/html", "https://a.example/", SETTINGS).warnings
    assert len(warnings) == 1 and warnings[0].startswith("left out: ") and "as menus and other parts around the text" in warnings[0]


# ---------------------------------------------------------------- odd tags

@both
@pytest.mark.parametrize("between", [
    "<svg class='i'/>{}<svg><path d='M0'/></svg>", "<svg-icon name='x'></svg-icon>{}<svg><path d='M0'/></svg>", "<script>var a=1</script >{}<script>var b=2</script>", "<script src='a.js'/>{}<script>b</script>",
    "<script>1</SCRIPT>{}<script>2</script>", "<script>1</script\n>{}<script>2</script>", "<style/>{}<style>p{{}}</style>", "<style media='x' />{}", "<title/>{}", "<textarea/>{}", "<textarea name='x'/>{}<textarea></textarea>",
    "<iframe src='https://b.example/'/>{}", "<noscript/>{}", "<template/>{}", "<template-card></template-card>{}<template>t</template>", "<style-guide>x</style-guide>{}<style>y</style>", "<my-widget/>{}", "<nav/>{}", "<aside/>{}",
    "<button/>{}", "<select/>{}", "<video/>{}", "<canvas/>{}", "<!-- <script> -->{}<script>1</script>", "<!-- a --!>{}", "<!-->{}", "<!--->{}", "<script>'<!--'</script>{}<!-- b -->", "</p></br></span>{}", "<path d='M0'/><g/>{}",
    "<svg viewBox='0 0 1 1'><title>Icon</title>{}", "<div data-code=\"<script>\"></div>{}<script>1</script>", "<div title='a > <!-- b'></div>{}", "<![CDATA[ x ]]>{}", "<?php echo 1 ?>{}"])
def test_odd_tags_take_nothing_with_them(between, marked):
    found = read("<p>Before.</p>" + between.format("<p>IMPORTANT the middle paragraph of the article.</p>") + "<p>After it.</p>", marked).text
    assert "Before." in found and "IMPORTANT the middle" in found and "After it." in found and "var " not in found


@both
@pytest.mark.parametrize("source, what", [("<!-- never closed", "a comment"), ("<script>var a = 1;", "a <script>"), ("<style>p { }", "a <style>"), ("<textarea>", "a <textarea>")])
def test_what_is_never_closed_is_told(source, what, marked):
    warnings = read(f"{source}<p>{'Words that a browser hides. ' * 5}</p>", marked).warnings
    assert len(warnings) == 1 and f"characters behind {what.replace('<', '&lt;') if False else what} that is never closed" in warnings[0]


def test_declared_shadow_content_and_noscript_are_read():
    assert text("<my-card><template shadowrootmode=open><p>Shadow text that is seen.</p></template></my-card><template><p>not seen</p></template>") == "Shadow text that is seen."
    whole = "A topic that is written here in full for all readers who have no scripts in their browser, as many have."
    assert text(f"<noscript><p>{whole}</p></noscript><noscript>Please enable JavaScript to view the comments.</noscript>") == whole


# ---------------------------------------------------------------- tables

@both
@pytest.mark.parametrize("rows, shown", [
    ("<tr><th>Year<th>City<th>Pop<tr><td rowspan=2>2020<td>Wien<td>1.9<tr><td>Graz<td>0.3", ["Year | City | Pop", "2020 | Wien | 1.9", "2020 | Graz | 0.3"]),
    ("<tr><th colspan=2>Name<th>Age<tr><td>Ann<td>Lee<td>30", ["Name |  | Age", "Ann | Lee | 30"]),
    ("<tr><td rowspan=0>a<td>1<tr><td>2<tr><td>3", ["a | 1", "a | 2", "a | 3"]), ("<tr><td rowspan=99999>a<td colspan=99999>b<tr><td>c", ["a | b", "a | c"]),
    ("<tr><td rowspan=no>a<td colspan=-3>b<td rowspan='2px'>c<tr><td>d<td>e", ["a | b | c", "d | e | c"]), ("<tr><td rowspan=2 colspan=2>sq<td>1<tr><td>2<tr><td>a<td>b<td>3", ["sq |  | 1", "sq |  | 2", "a | b | 3"]),
    ("<thead><tr><th rowspan=2>City<th colspan=2>Pop<tr><th>2010<th>2020<tbody><tr><td>Wien<td>1.7<td>1.9", ["City | Pop | ", "City | 2010 | 2020", "Wien | 1.7 | 1.9"]),
    ("<tr><td rowspan=3>r<td>1<tr><tr><td>3<tr><td>n<td>4", ["r | 1", "r | 3", "n | 4"]), ("<tr><td><td>2<td>3<tr><td>&nbsp;<td>5<td>6<tr><td> <td><td>9", [" | 2 | 3", " | 5 | 6", " |  | 9"]),
    ("<tr><td><p>a</p><p>b</p><td>c<br>d<td><ul><li>e<li>f</ul><tr><td><div>g</div><td>h<td><ol start=3><li>i</ol>", ["a b | c d | e f", "g | h | 3. i"])])
def test_cells_stay_in_their_columns(rows, shown, marked):
    lines = [line.strip("| ").split(" | ") for line in text(f"<table>{rows}</table>", marked).split("\n") if "---" not in line]
    assert [[cell.strip() for cell in line] for line in lines] == [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in shown]


def test_tables_in_tables_and_hostile_spans():
    assert "| in1 | in3 |\n| Out | x |" in text("<table><tr><td rowspan=2>Out<td><table><tr><td rowspan=2>in1<td>in2<tr><td>in3</table><tr><td>x</table>")
    found = read("<table>" + "<tr>" + "<td rowspan=65534 colspan=1000>a" * 50 + "</tr>" + "<tr><td>b" * 500 + "</table>")
    assert found.warnings and "cells that would span too much" in found.warnings[0]


# ---------------------------------------------------------------- lists, code, titles

@both
@pytest.mark.parametrize("source, shown", [
    ("<ol start=5><li>five<li>six</ol>", "5. five\n6. six"), ("<ol start=5 reversed><li>a<li>b</ol>", "5. a\n4. b"), ("<ol reversed><li>a<li>b<li>c</ol>", "3. a\n2. b\n1. c"), ("<ol type=a start=3><li>x<li>y</ol>", "c. x\nd. y"),
    ("<ol type=I><li>x<li value=9>y<li>z</ol>", "I. x\nIX. y\nX. z"), ("<ol start=-1><li>m<li>n</ol>", "-1. m\n0. n"), ("<ol start=x><li>a</ol>", "1. a"), ("<ol><li value=4>four<li>five</ol>", "4. four\n5. five"),
    ("<ol start=3><li><p>one</p><p>more</p></li><li>two<ol type=i><li>s</ol></li><li><b>b</b> x</li></ol>", "3. one\n  more\n4. two\n  i. s\n5. b x")])
def test_lists_count_as_they_say(source, shown, marked):
    assert text(source, marked) == shown


@both
@pytest.mark.parametrize("source, shown", [
    ("<pre><div class=line>a = 1</div><div class=line>  b = 2</div></pre>", "a = 1\n  b = 2"), ("<pre>a<br>b<br/>  c</pre>", "a\nb\n  c"), ("<pre><code><p>a</p><p>b</p></code></pre>", "a\nb"),
    ("<pre><ol class=linenums><li><span>a = 1</span></li><li>b = 2</li></ol></pre>", "a = 1\nb = 2"), ("<pre><div>a &lt; b<br>c</div>\n\n<div>d</div></pre>", "a < b\nc\n\n\nd"), ("<pre><div>x<sup>2</sup></div><div>y</div></pre>", "x²\ny")])
def test_lines_of_code_stay_apart(source, shown, marked):
    assert text(source, marked) == f"```\n{shown}\n```"


@pytest.mark.parametrize("head, title", [
    ("<title>If x < y then what?</title>", "If x < y then what?"), ("<title>a <b>c</b> &amp; d</title>", "a <b>c</b> & d"), ("<!-- <title>Old</title> --><title>New</title>", "New"), ("<TITLE\n>Two\n lines</TITLE >", "Two lines"),
    ("<script>'<title>no</title>'</script><title>Yes</title>", "Yes"), ("<title></title><meta property=og:title content=Other>", "Other"), ("<title>Never closed<meta name=x>", "Never closed")])
def test_titles(head, title):
    assert extract(f"<html><head>{head}</head><body>{SENTENCES}</body></html>".encode(), "text/html", "https://a.example/", SETTINGS).title == title


# ---------------------------------------------------------------- what is kept and what is not

@both
@pytest.mark.parametrize("source, shown", [
    ("<h3><button aria-expanded=false>How do I reset it?</button></h3><div><p>Use the link.</p></div>", "### How do I reset it?\n\nUse the link."), ("<button type=button><h3>A heading</h3></button><p>Text.</p>", "### A heading\n\nText."),
    ("<button class=accordion>What is the price?</button><div class=panel><p>Five.</p></div><button class=share>Share this</button>", "What is the price?\n\nFive."),
    ("<table><tr><td><button>Why so?</button><td>Because.</table>", "| Why so? | Because. |\n| --- | --- |"), ("<ul><li><button>Is it in a list?</button></ul>", "- Is it in a list?"), ("<button aria-expanded=false>Toggle the table of contents</button><p>x</p>", "x"),
    ("<form><p>The answer is 42.</p><input></form>", "The answer is 42."), ("<H3><BUTTON>In upper case?</BUTTON></H3><ASIDE CLASS=note>Yes.</ASIDE>", "### In upper case?\n\nYes."),
    ("<details><summary>Why is that?</summary>So it is.</details>", "Why is that?\n\nSo it is."), ("<details><summary><h3>Why?</h3></summary>So.</details>", "### Why?\n\nSo."), ("<dl><dt><button>Term</button></dt><dd>Meaning.</dd></dl>", "Term\n\nMeaning."),
    ("<h3><label for=c>In a label?</label></h3><input type=checkbox id=c><p>Yes.</p>", "### In a label?\n\nYes."), ("<h3 aria-expanded=false>Folded?</h3><div class=answer hidden>An answer that is folded away at first.</div>", "### Folded?\n\nAn answer that is folded away at first."),
    ("<h3><a href=#x aria-expanded=false>A link?</a></h3><p>Yes.</p>", "### A link?\n\nYes."), ("<div role=button class=faq-question aria-expanded=false>Is it so?</div><div class=faq-answer aria-hidden=true>It is so, as all of them say.</div>", "Is it so?\n\nIt is so, as all of them say."),
    ("<aside class=note><p>Never unplug it.</p></aside>", "Never unplug it."), ("<aside role=doc-footnote>A footnote.</aside>", "A footnote."), ("<aside><p>A box in the middle of an article, of some length.</p></aside>", "A box in the middle of an article, of some length."),
    ("<div role=complementary class=tip>Save often.</div>", "Save often."), ("<aside class=related><a href=/a>Related one</a></aside>", ""), ("<aside class=sidebar><a href=/a>More</a></aside><p>x</p>", "x")])
def test_questions_and_notes_are_kept(source, shown, marked):
    assert text(source, marked) == shown


def test_forms():
    prose = "These data were last checked by the office in May and are correct as far as it knows."
    assert text(f"<form id=aspnetForm action=x><h2>Record</h2><p>{prose}</p></form>") == f"## Record\n\n{prose}"
    assert text(f"<form><table><tr><td>Name<td><input value='Ann Lee' readonly><tr><td>City<td><select><option>Graz<option selected>Wien</select></table><p>{prose}</p><button>Send</button></form>") == (
        f"| Name | Ann Lee |\n| --- | --- |\n| City | Wien |\n\n{prose}")
    page = f"<html><body><main><form runat=server>{SENTENCES}</form></main></body></html>"
    assert extract(page.encode(), "text/html", "https://a.example/", SETTINGS).text.count("Sentence number") == 4
    controls = read("<form><label>Your name <input></label><label>Your mail <input></label><button>Send it</button></form>")
    assert "Your name" not in controls.text and controls.warnings == ("left out: 1 form",)


def test_what_is_left_out_is_counted():
    found = read("<aside class=sidebar><p>What else the author of this page wrote, in a few words of his own.</p></aside><svg><text>2019</text><text>2020</text></svg><iframe src='https://b.example/film'></iframe>"
                 f"<div aria-hidden=true>{'Words that are not shown. ' * 6}</div>")
    assert "what else" not in found.text.lower() and len(found.warnings) == 1
    for part in ("1 sidebar", "2 texts in drawings", "1 embedded page", "1 hidden part"): assert part in found.warnings[0], found.warnings


@both
@pytest.mark.parametrize("source, shown", [
    ("Price <del>100</del><ins>80</ins> euros", "Price ~~100~~ 80 euros"), ("<q>Wet</q>, he said", "“Wet”, he said"), ("<ruby>潮<rt>しお</rt></ruby>", "潮(しお)"), ("<ruby>潮<rp>(</rp><rt>しお</rt><rp>)</rp></ruby>", "潮(しお)"),
    ("long<wbr>word soft&shy;ened", "longword softened"), ("one<br>two", "one\ntwo"), ("up<img alt='5 stars' src=x>down", "up 5 stars down"), ("<math><mfrac><mn>1</mn><mn>2</mn></mfrac></math> l", "1/2 l"),
    ("<math><msup><mi>x</mi><mn>2</mn></msup><mo>=</mo><msqrt><mi>y</mi></msqrt></math>", "x^2=√(y)"), ("see <script type='math/tex'>x^2</script> here", "see $x^2$ here"),
    ("<span class=katex><span class=katex-mathml><math><semantics><mi>E</mi><annotation encoding='application/x-tex'>E=mc^2</annotation></semantics></math></span><span class=katex-html aria-hidden=true>E=mc2</span></span>", "$E=mc^2$")])
def test_words_in_a_line(source, shown, marked):
    assert text(f"<p>{source}</p>", marked) == shown


# ---------------------------------------------------------------- pages that scripts fill

@pytest.mark.parametrize("body", [
    "<noscript>You need to enable JavaScript to run this app.</noscript><div id=root></div>", "<app-root></app-root><script src=main.js></script>", "<div id=__next></div><script id=__NEXT_DATA__ type=application/json>{\"text\": \"in here\"}</script>",
    "<div id=app><p>Loading, please wait ...</p></div><script src=m.js></script>", "<h1>Welcome</h1><SCRIPT SRC=x></SCRIPT>", "<p>This site requires JavaScript. Please enable it in your browser and come back.</p><script src=a.js></script>", "<script>1</script>"])
def test_a_shell_says_that_it_is_one(body):
    found = extract(f"<html><head><title>App</title></head><body>{body}</body></html>".encode(), "text/html", "https://a.example/", SETTINGS)
    assert len(found.warnings) == 1 and found.warnings[0].startswith("almost no text; the page may need a browser (JavaScript)")
    assert ("characters of data in its scripts were not read" in found.warnings[0]) == ("__NEXT_DATA__" in body)


def test_other_pages_without_text():
    read_page = lambda page: extract(page.encode(), "text/html", "https://a.example/", SETTINGS).warnings
    assert read_page("<html><body></body></html>") == ("no text was found",) and "2 frames, read them instead: a.html, b.html" in read_page("<html><frameset><frame src=a.html><frame src=b.html></frameset></html>")[0]
    assert read_page("<html><body><p>Short, but whole.</p></body></html>") == () and read_page(f"<html><body><main>{SENTENCES}</main><script src=x></script></body></html>") == ()


def test_an_article_in_the_data_alone_is_read():
    body = "The sea rises and falls twice a day, as the moon pulls its water. " * 5
    page = '<html><head><title>T</title><script type="application/ld+json">{"@type": "NewsArticle", "articleBody": "' + body + '\\nAnd so on, for ever."}</script></head><body><div id=app></div></body></html>'
    found = extract(page.encode(), "text/html", "https://a.example/", SETTINGS)
    assert found.text.startswith("The sea rises") and found.text.endswith("\n\nAnd so on, for ever.") and "articleBody" in found.warnings[0]


def test_a_page_that_only_sends_on_says_where():
    assert extract(b"<html><head><meta http-equiv=refresh content='0; url=/new'></head><body></body></html>", settings=SETTINGS).warnings == ("almost no text; the page only sends its reader on to /new",)


# ---------------------------------------------------------------- which part is the main one

@pytest.mark.parametrize("page, kept, told", [
    ("<main><main-menu>m</main-menu>{0}<p>IMPORTANT</p></main>", True, ""), ("<main>{0}<p>IMPORTANT</p><article><h3>Card</h3>{0}</article></main>", True, ""), ("<main>{0}</main><main>{0}<p>IMPORTANT</p></main>", True, ""),
    ("<div id=content><div-x></div-x>{0}<p>IMPORTANT</p></div>", True, ""), ("<MAIN>{0}<P>IMPORTANT</P></MAIN>", True, ""), ("<main data-x='a>b'>{0}<p>IMPORTANT</p></main>", True, ""), ("<!-- <main> --><main>{0}<p>IMPORTANT</p></main>", True, ""),
    ("<script>'<main>'</script><div>{0}<p>IMPORTANT</p></div>", True, ""), ("<main>{0}<p>IMPORTANT</p>", True, ""), ("<main><p>IMPORTANT</p><article>{0}{0}</article></main>", False, "1 paragraph that stands beside")])
def test_the_main_part(page, kept, told):
    found = extract(f"<html><body>{page.format(SENTENCES)}</body></html>".encode(), "text/html", "https://a.example/", SETTINGS)
    assert ("IMPORTANT" in found.text) == kept and (told.split(" that")[0] in " ".join(found.warnings)) and bool(found.warnings) == bool(told)


@pytest.mark.parametrize("part", ["<style/>" * 5000, "<script/>" * 5000, "<sup>" * 500 + "1", "<p>x" + "<sup><a href=#fn1>1</a></sup>" * 1000, "<table><tr><td>" + "<div>" * 2000 + "deep</table>", "<p><math>" + "<mrow>" * 2000 + "<mi>x</mi></math>",
                                  "<ol start=3>" * 500 + "<li>x", "<table>" + "<tr><td rowspan=9>a</td><td>b</td></tr>" * 1000 + "</table>"])
def test_much_of_anything_is_read(part):
    assert extract(f"<html><body><main>{SENTENCES}{part}</main></body></html>".encode(), "text/html", "https://a.example/", SETTINGS).text.count("Sentence number") == 4
