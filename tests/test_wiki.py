"""Templates, tables and formulas of wiki markup keep their facts; what is not known is marked and counted."""
from collections import Counter

import pytest

from stepdr.tools.document import block_text
from stepdr.synthesis.wiki import read_wiki

ABOUT = {"base": "https://wiki.example/wiki/", "language": "en", "first_letter": True, "namespaces": {"6": "File", "14": "Category", "0": ""}}


def read(source, count=None): return block_text(read_wiki(source, ABOUT, count)[0])


@pytest.mark.parametrize("source, text", [
    ("It needs 5{{frac|1|2}} cups.", "It needs 5 1/2 cups."),
    ("It needs {{frac|5|1|2}} or {{sfrac|3|4}} cups.", "It needs 5 1/2 or 3/4 cups."),
    ("{{convert|2|to|3|mi|km}} deep", "2 to 3 mi deep"), ("{{convert|454|km2|sqmi|0|abbr=on}} wide", "454 km² wide"),
    ("{{cvt|5|ft|10|in|m|2}} tall", "5 ft 10 in tall"), ("{{convert|10|x|20|x|30|m}} box", "10 × 20 × 30 m box"), ("{{convert|-5|C|F}} cold", "-5 °C cold"), ("{{convert|1,200.5|-|1,300|ha}} of it", "1,200.5–1,300 ha of it"),
    ("born {{birth date and age|1973|10|17|df=yes}} in Wien", "born 17 October 1973 in Wien"), ("{{Birth date|1973|10}} it was", "October 1973 it was"), ("founded {{start date|2004}}", "founded 2004"),
    ("died {{death date and age|1955|4|18|1879|3|14}}", "died April 18, 1955 (aged 76)"),
    ("{{quote|text=All is well.|author=Ada|source=''Letters''}}", "“All is well.” — Ada, Letters"), ("{{Blockquote\n|Two\nlines\n|Ada}}", "“Two lines” — Ada"), ("{{rquote|right|Said.|Ada}}", "“Said.” — Ada"),
    ("{{val|1.602|0.001|e=-19|ul=C}} of charge", "1.602±0.001×10⁻¹⁹ °C of charge"),
    ("10<sup>9</sup> m<sup>2</sup> of H<sub>2</sub>O", "10⁹ m² of H2O"), ("3{{e|8}} m/s, {{10^|6}}, x{{sup|n}}", "3×10⁸ m/s, 10⁶, xⁿ"), ("fell to 5.2<sup>[[#n|1]]</sup> percent", "fell to 5.2¹ percent"),
    ("{{nowrap|{{lang|fr|été {{small|2020}}}}}}", "été 2020"), ("{{lang-de|Köln}} on the Rhine", "Köln on the Rhine"), ("{{nihongo|Tokyo|東京|Tōkyō}}", "Tokyo (東京, Tōkyō)"),
    ("{{formatnum:1234567.8}} people", "1234567.8 people"), ("{{formatnum:{{val|5}}}} people", "5 people"), ("{{#if:x|yes|no}}, {{#ifeq:a|b|one|two}}", "yes, two"),
    ("{{as of|2020|5}}, it rose by {{US$|5}}", "As of May 2020, it rose by US$5"), ("{{circa|1048}} at {{coord|59|57|N|10|45|E|display=inline,title}}", "c. 1048 at 59°57′N 10°45′E"),
    ("{{ubl|one|two}} and {{hlist|a|b}}", "one; two and a · b"), ("{{sortname|Ada|Lovelace}} won", "Ada Lovelace won"), ("{{height|ft=5|in=10}}", "5 ft 10 in"), ("{{chem|SO|4|2-}} ions", "SO4²⁻ ions"),
    ("an area of <math>\\pi r^{{2}}</math> here", "an area of \\pi r^{{2}} here"), ("use <code>a {{b}}</code> or <nowiki>{{frac|1|2}}</nowiki>", "use a […] or {{frac|1|2}}"),
    ("all{{citation needed|date=May 2020}} of it.{{sfn|A|2}}{{efn|Note.}}", "all of it."), ("{{Use dmy dates|date=May}}\n{{Short description|x}}\nWords.", "Words."),
    ("{{cquote|All.|20px|20px|Ada}}", "“All.” — Ada"), ("{{val|1.2|+0.1|-0.2|u=s}}", "1.2+0.1−0.2 s"), ("{{columns-list|\n* one\n* two\n}}", "- one - two"), ("{{age|1990|1|1|2020|1|1}} years", "30 years"),
    ("{{Template:Frac|1|2}} and {{ frac | 1 | 2 }} and {{Nowrap|1=a=b}}", "1/2 and 1/2 and a=b"), ("<s>90</s> 100 euros", "~~90~~ 100 euros"),
])
def test_templates_print_their_words(source, text): assert " ".join(read(source).split()) == text


def test_what_is_not_known_is_marked_and_counted():
    count = Counter()
    text = read("{{Infobox city|name=Oslo|pop={{formatnum:7}}}}\n{{Unknown box\n|a=b}}\nIt has {{population of|Oslo}} people.<ref>A</ref><ref name=x/>\n\n{{quote|It is {{mystery|9}} so.}}\n<gallery>\na.jpg\n</gallery>", count)
    assert text == "It has […] people.\n\n“It is […] so.”"
    assert count["infoboxes"] == 1 and count["references"] == 2 and count["galleries and drawings"] == 1 and sum(number for name, number in count.items() if name.startswith("templates (")) == 3
    count = Counter()
    read("Plain words with {{frac|1|2}} of them.", count)
    assert not count


def test_cells_that_span_and_breaks_and_tables_in_cells():
    source = """{| class="wikitable"
|+ Sales by region
! rowspan="2" | Region !! colspan="2" | Sales
|-
! 2020 !! 2021
|-
| rowspan=2 | North || 5<br>million || {{val|6}}
|-
| 7 || 8
|-
| South || 9 ||
{|
| a || b
|-
| c || d
|}
|}
{|
| x || y
|}"""
    blocks = read_wiki(source, ABOUT)[0]
    assert blocks == [("p", 0, "Sales by region"), ("row", 0, ["Region", "Sales", ""]), ("row", 0, ["Region", "2020", "2021"]), ("row", 0, ["North", "5 million", "6"]), ("row", 0, ["North", "7", "8"]),
                      ("row", 0, ["South", "9", "a, b; c, d"]), ("row", 1, ["x", "y"])]


def test_code_stays_as_it_is():
    blocks = read_wiki('Before.\n<syntaxhighlight lang="python">\nx = {"a": [[1]]}\n  y = "<b>"\n</syntaxhighlight>\nAfter.', ABOUT)[0]
    assert blocks == [("p", 0, "Before."), ("pre", 0, 'x = {"a": [[1]]}\n  y = "<b>"'), ("p", 0, "After.")]


@pytest.mark.parametrize("source", ["{{convert|" * 20_000, "{{frac|1|" + "2|" * 100_000 + "}}", "{{quote|" * 5000 + "x" + "}}" * 5000, "{|\n| rowspan=1000 colspan=100 | x\n" + "|-\n| y\n" * 3000 + "|}", "<math>" * 20_000, "{{#if:|" * 10_000 + "}}" * 10_000,
                                    "{{a b=" * 20_000 + "}}" * 20_000, "<sup>" * 30_000, "{{ " + "a " * 40_000 + "}}"], ids=range(9))
def test_hostile_markup_is_read_to_its_end(source):
    assert len(read(source + "\n\nThe end.", Counter())) < 10 * len(source) + 4_000_000   # quadratic reading would take minutes
