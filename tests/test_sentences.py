"Where a sentence ends: abbreviations, figures, citations, quotations, line breaks, several scripts; nothing is lost on the way."
import random

import pytest

from stepdr.core.languages import pieces_of, sentence_spans, sentences

WHOLE = ["Dr. J. Hill of the U.S. came in Jan. 1883, e.g. by rail.", "It cost $3.5 million (cf. Fig. 2)!", '"Why?" he asked.',
         "No. 5 won, approx. 2.5 m ahead of St. Ives.", "See p. 7 of vol. 2.", "He said no.", "The firm (Hill Inc. of Rome) closed.",
         "The page example.com/a.b?c=d. stays whole.", "“It fell.”", "(It was rebuilt in 1900.)", "The end… or not?", "И т.д.", "Он ушёл!"]
WIDE = ["他说：“好。”", "然后走了。", "塔高3.5米；", "桥更长！", "この橋は古い。", "「新しい。」"]
SPACED = {"Hindi": ["वह आया।", "फिर गया।"], "Arabic": ["هل جاء؟", "نعم جاء."], "Korean": ["그는 왔다.", "비가 왔다."],
          "Greek": ["Ήρθε.", "Έφυγε."], "French": ["Il part.", "Élise reste."]}


def test_sentences_put_together_come_apart_again():
    assert sentences(" ".join(WHOLE)) == WHOLE
    assert sentences("".join(WIDE)) == WIDE
    assert sentences(WHOLE[0] + "".join(WIDE)) == [WHOLE[0], *WIDE]


@pytest.mark.parametrize("name", SPACED)
def test_other_scripts(name):
    assert sentences(" ".join(SPACED[name])) == SPACED[name]


def test_citations_belong_to_the_sentence_before():
    first, second = r"It opened in the U.S. \cite{web_00000001} \cite{web_00000002}", r"It closed \cite{web_00000003}."
    assert sentences(f"{first} {second}") == [first, second] and sentences(f"{second} {first}") == [second, first]
    assert sentences("它建于1883年。\\cite{web_00000001}后来重建。") == ["它建于1883年。\\cite{web_00000001}", "后来重建。"]
    assert sentences("It opened. [1] It closed [2].", cited=r"\[\d\]") == ["It opened. [1]", "It closed [2]."]


@pytest.mark.parametrize("host, rest", [
    ('A page says: "It was built in 1883." Who built it?', ""), ("On “What is the length of?” two pages differ.", ""),
    ("Il dit « Oui.» Puis il part.", ""), ("他说：“好。”然后走了。", ""), ("「新しい。」と言った。", ""),
    ('A page says: "It fell." It says more.', " Who built it?"), ("It fell.\" It rose.", ""), ("“It fell.”", "\nIt rose.")])
def test_a_quoted_sentence_may_belong_to_its_host(host, rest):
    "What a quotation holds ends nothing where the caller says so; a line break and what follows the host still do."
    assert sentences(host + rest, quoted=False) == [host, *filter(None, [rest.strip()])]


def test_lines():
    lines = "1. The bridge\nit stands.\n2. The tower\n\nAn end in\nRome"
    assert sentences(lines) == ["1. The bridge", "it stands.", "2. The tower", "An end in", "Rome"]
    assert sentences("Two\nlines [1]\nand more\n\nThe end", cited=r"\[\d\]", wrapped=True) == ["Two\nlines [1]", "and more", "The end"]
    assert sentences("Mt.\nIt fell.") == ["Mt.", "It fell."]


def test_nothing_is_lost():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice([*WHOLE, *WIDE, " ", "\n", "[…] ", ".", "…", "\\cite{web_00000001}", "a", "A"]) for _ in range(12))
        assert "".join(pieces_of(text)) == text
        assert [text[begin:end].strip() for begin, end in sentence_spans(text)] == sentences(text)
    assert sentences("") == sentences(" \n") == pieces_of("") == []


def test_long_runs_are_read_like_texts():
    "Each is split within a second or so; a reader that looks back from every character would never end."
    for run in ("\n" * 100_000 + " " * 100_000, "." * 200_000, ". " * 100_000, "1. " * 50_000, "a" * 200_000, "No. 5 " * 30_000):
        for found in (sentences(run), sentences(run, wrapped=True)):
            assert "".join("".join(found).split()) == "".join(run.split())
