"""Whether quotations stand in their sources, and how ids are read."""
import json
import random
import re
import tarfile
from pathlib import Path

import pytest

from stepdr.core.teacher import TeacherClient
from stepdr.core.reply_checks import judge_reply, shown_ids
from stepdr.core.usage import Usage
from stepdr.core.replies import Reply
from stepdr.core.prompts import SCHEMAS
from stepdr.core.quotes import quote_stands
from stepdr.core.scripted_teacher import OfflineTeacher
from stepdr.core.languages import sentences
from stepdr.tools.tool import run_async
from stepdr.core.trajectory import bare_id, cited_ids

PAGE = "Name: Immanuel Kant Birth: April 22, 1724 ( Königsberg, Kingdom of Prussia) (Now Kaliningrad, Russia) Death: February 12, 1804"
HONEST = [("Birth: April 22, 1724 (Königsberg, Kingdom of Prussia)", PAGE), ("birth: April 22, 1724", PAGE), ("Birth: April 22, 1724 ... Kingdom of Prussia) (Now Kaliningrad", PAGE),
 ("the “Emanuel” of 1724–1804", 'the "Emanuel" of 1724 - 1804'), ("the 'Emanuel' bridge", "the ‘‘Emanuel’’ bridge"), ("the final efficiency", "the ﬁnal efﬁciency"), ("coopera\u00adtion grew", "cooperation grew"),
 ("12\u00a0000 people", "some 12 000 people died"), ("12 000 people", "some 12\u2009000 people died"), ("桥于1883年通车，耗资１２，０００英镑", "大桥于 1883 年通车,耗资 12,000 英镑。"), ("他说：“桥很长”。", "他说:「桥很长」。"),
 ("a well-known bridge", "a well-\nknown bridge"), ("the volcanoes erupted", "the volca-\nnoes erupted"), ("temperatures of -5 °C", "temperatures of −5 °C"), ("It was opened in 1883.", "it was opened in 1883, and closed in 1969"),
 ("The bridge was opened", "The **bridge** was [opened](https://a.example/x) [3]"), ("opened in 1883 by the mayor", "opened in 1883 \\cite{web_0a1b2c3d} by the mayor"), ("growth of 3.5 % in 2019", "growth of 3.5% in 2019"),
 ("area of 40 m²", "an area of 40 m² in all"), ("a < b holds", "here a &lt; b holds"), ("don't", "they don’t know"), ("3½ years", "about 3½ years"), ("\u200bopened in 1883", "opened in 1883"), ("…opened in 1883…", "was opened in 1883 by"),
 ("长江大桥于1957年……全长1670米，是第一座", "长江大桥于1957年建成，公铁两用，全长1670米，是第一座"), ("U.S. banks", "the U. S. banks are"), ("ratio of 3:2", "a ratio of 3 : 2 here"),("10⁶ cells", "some 10⁶ cells"), ("rock 'n' roll","of rock ’n’ roll music")]
CHANGED = [("opened in 1884", "opened in 1883"), ("opened in 188", "opened in 1883"), ("5 million", "1.5 million"), ("8.5 million people", "18.5 million people"), ("12", "some 12 million people"), ("killed 12", "killed 12 million"), ("12,000 people", "some 12 000 people"), ("12000 people", "12,000 people"),
 ("in 1, 200 towns", "in 1,200 towns"), ("5 °C", "temperatures of −5 °C"), ("temperatures of 5 °C", "temperatures of -5 °C"), ("born in Königsberg", "he was not born in Königsberg"), ("是医生", "他不是医生"), ("notable to do", "not able to do"), ("not able to", "notable to"), ("was opened in the us", "was opened in the US"),
 ("10^6 cells", "106 cells"), ("106 cells", "10⁶ cells"), ("31/2 years", "3½ years"), ("The bridge was opened … in the year 1883 by", "The bridge was opened in the year 1884. In 1883 by"), ("The old bridge was … opened by the mayor", "The old bridge was never opened by the mayor"),
 ("bridge … 1883", "The bridge fell; 1883 came"), ("桥于1884年通车", "桥于1883年通车"), ("耗资12,000英镑", "耗资112,000英镑"), ("耗资12", "耗资12万英镑"), ("", "x"), ("…", "x"), ("...", "a ... b"), ("000 people", "12 000 people"), ("12", "12 000 people"), ("opened in 1883 closed", "opened in 1883 and closed"), ("m2", "m²"), ("the us", "the user"), ("3", "a ratio of 3:2"), ("growth was 3.5", "growth was 3.5%"), ("1803", "1804"), ("3.5 billion", "3.5 million"), ("by the mayor opened in 1883 yes", "opened in 1883 yes, by the mayor"), ("was opened in 1883 … by the old mayor", "by the old mayor it was opened in 1883")]


@pytest.mark.parametrize("quote, source", HONEST)
def test_honest_copies_stand(quote, source): assert quote_stands(quote, source)


@pytest.mark.parametrize("quote, source", CHANGED)
def test_changed_figures_and_words_do_not(quote, source): assert not quote_stands(quote, source)


OWN = ["The harbour wall at Lyme was finished in 1756 after 12 years; it is 183.5 m long and cost the town 4,120 pounds.", "Between 1881 and 1911 the number of looms rose from 312 to 2,480 – more than in any town nearby.",
       "“No ship,” the captain wrote, “can lie here in winter”; yet 37 ships did so in 1803.", "大桥于1957年10月15日通车，全长1670米，总投资1.38亿元。", "截至2019年底，全市常住人口1121.2万人，比上年末增加13.1万人。"]


def variants(text): # honest copies of a sentence
    yield text
    yield re.sub(r"(?<=[,;:，；])\s?(?!\d)", " ", text).replace("“", '"').replace("”", '"').replace("–", "-")
    yield text.replace(" ", "\u00a0").replace("-", "–").replace('"', "”")
    yield text.replace("fi", "ﬁ").replace("(", "( ").replace(",", "，")
    yield "\u200b".join(text.split("e"))if "e" not in text else text.replace("e", "e\u00ad")


def changes(text, rng): # copies that say something else
    for found in re.finditer(r"\d", text):
        yield text[:found.start()] + str((int(found[0]) + rng.randint(1, 9)) % 10) + text[found.end():]
    for found in re.finditer(r"[A-Za-z]{4,}|[\u4e00-\u9fff]", text):
        other = "不" if found[0] > "\u4e00" else found[0][::-1] + "x"
        yield text[:found.start()] + other + text[found.end():]


def check_sentences(texts, rng):
    around = " ".join(texts)
    for text in texts:
        assert all(quote_stands(one, around) for one in variants(text)), text
        false = [one for one in changes(text, rng) if one not in around]
        assert not [one for one in false if quote_stands(one, around)], text


def test_any_digit_or_word_changed_is_found(): check_sentences(OWN, random.Random(0))


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not here (../shared/data)")
def test_any_digit_or_word_changed_is_found_in_real_reports():
    rng = random.Random(1)
    with tarfile.open(SHARED / "reports_human" / "liveresearchbench_reports.tar.gz") as archive:
        reports = [archive.extractfile(member).read().decode("utf-8", "replace") for member in archive if member.name.endswith(".md")][:40]
    found = [one for report in reports for one in sentences(report) if 40 <= len(one) <= 300 and re.search(r"\d", one) and not re.search(r"[|#\[\]*_`]|https?:", one)]
    assert len(found) > 200
    check_sentences(rng.sample(found, 120), rng)


@pytest.mark.parametrize("text", ["web_0a1b2c3d", "[web_0a1b2c3d]", " (web_0a1b2c3d) ", "\\cite{web_0a1b2c3d}", "`web_0a1b2c3d`", "【web_0a1b2c3d】", "\"web_0a1b2c3d\"", "[web_0a1b2c3d]."])
def test_an_id_is_read_in_any_brackets(text):
    assert bare_id(text) == "web_0a1b2c3d"
    shown = [{"id": "web_0a1b2c3d", "title": "Kant", "text": "Birth: April 22, 1724 ( Königsberg, Kingdom of Prussia)"}]
    reply = {"findings": [{"paragraph": text, "quote": "April 22, 1724 (Königsberg, Kingdom of Prussia)", "stance": "Supports"}], "facts": [{"statement": "It is so.", "paragraph": text}], "verdict": "supported"}
    for value in (run_async(TeacherClient(Says(reply)).ask("verify_edge", triple="a | b | c", paragraphs=shown)).value, run_async(OfflineTeacher(verify_edge=reply).ask("verify_edge", triple="a | b | c", paragraphs=shown)).value):
        assert value["findings"][0] == {"paragraph": "web_0a1b2c3d", "quote": reply["findings"][0]["quote"], "stance": "supports"} and value["facts"][0]["paragraph"] == "web_0a1b2c3d"


class Says:
    "A policy that always says the same."
    name = "says"
    def __init__(self, reply): self.reply = reply
    async def complete(self, messages, tools=None, max_tokens=None, temperature=None): return Reply({"role": "assistant", "content": json.dumps(self.reply)}, Usage(1, 1), 0.0, "stop", 0.0, 1, "says")


def test_ids_that_were_not_shown_stay_faults():
    shown = [{"id": "web_0a1b2c3d", "text": "Built in 1883."}, {"id": "web_ffffffff", "text": "Built in 1884."}]
    reply = {"findings": [{"paragraph": "[web_0a1b2c3e]", "quote": "Built in 1883.", "stance": "supports"}, {"paragraph": "[web_0a1b2c3d]", "quote": "Built in 1884", "stance": "supports"}], "missing": "nothing", "verdict": "support"}
    with pytest.raises(AssertionError, match="no paragraph 'web_0a1b2c3e' was shown.*but in web_ffffffff"): run_async(OfflineTeacher(verify_statement=reply).ask("verify_statement", statement="s", paragraphs=shown))


@pytest.mark.parametrize("number", [1, "1", "[1]", " 1 ", "#1", "(1)", 1.0])
def test_a_number_is_read_in_any_brackets(number):
    raw = json.dumps({"steps": [{"number": number, "evidence": "the agent searched for it", "state": "Followed"}], "strayed": [], "score": "9"})
    kind, value, _ = judge_reply(raw, "stop", SCHEMAS["plan_alignment"])
    assert kind is None and value["steps"][0] == {"number": 1, "evidence": "the agent searched for it", "state": "followed"} and value["score"] == 9


@pytest.mark.parametrize("number", ["one or two", "1, 2", "", "1e3", None])
def test_what_is_no_number_is_none(number):
    assert judge_reply(json.dumps({"steps": [{"number": number, "evidence": "it was done", "state": "followed"}], "strayed": [], "score": 9}), "stop", SCHEMAS["plan_alignment"])[0] == "invalid"


def test_cited_ids_are_read_in_brackets(): assert cited_ids("x \\cite{[web_1]; (web_2)} \\cite{https://a.example/b_(c)}") == ["web_1", "web_2", "https://a.example/b_(c)"]


def test_texts_that_begin_with_their_id_are_shown_ids(): assert set(shown_ids({"findings": ["[web_1] archive.example: supports", "without"], "paragraphs": [{"id": "p", "text": "x"}]})) == {"web_1", "p"}
