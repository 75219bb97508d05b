"""Short answers by rule: what is the same, what is another, and what a rule leaves open."""
import pytest

from stepdr.core import answers as a

NUMBERS = [ # answer, right, verdict
    ("5", "-5", "other"), ("−5", "-5", "same"), ("–5", "-5", "same"), ("minus 5", "-5", "same"), ("negative five", "-5", "same"), ("+5", "5", "same"), ("-5", "5", "other"),
    ("5", "5%", "other"), ("5 percent", "5%", "same"), ("5 per cent", "5 %", "same"), ("5％", "5%", "same"), ("5%", "5", "open"), ("5‰", "5%", "other"), ("5", "5‰", "other"), ("92.71 percent", "92.71%", "same"),
    ("102", "10²", "other"), ("10^2", "10²", "same"), ("100", "10²", "same"), ("10<sup>2</sup>", "10²", "same"), ("$10^{2}$", "10²", "same"), ("1.5e3", "1500", "same"), ("1.5×10³", "1,500", "same"), ("10⁻³", "0.001", "same"), ("103", "10⁻³", "other"), ("10^9999", "5", "other"),
    ("1,000,000", "1000000", "same"), ("1.000.000", "1000000", "same"), ("1 000 000", "1,000,000", "same"), ("1\u202f000\u202f000", "1000000", "same"), ("1'000'000", "1000000", "same"), ("1 million", "1,000,000", "same"), ("10,00,000", "1000000", "same"), ("100万", "1000000", "same"),
    ("1.234", "1234", "open"), ("1.234", "1.234", "same"), ("1,5", "1.5", "same"), ("3.50", "3.5", "same"), ("0.5", "1/2", "same"), ("½", "0.5", "same"), ("2½", "2.5", "same"), ("21/2", "2½", "other"), ("35", "3.5", "other"),
    ("$5", "5 dollars", "same"), ("US$5", "$5", "same"), ("€5", "$5", "other"), ("5", "$5", "other"), ("5 km", "5 kilometres", "same"), ("5 km", "5 miles", "other"), ("5 km", "5 km²", "other"), ("24 medals", "24", "same"), ("24 million", "24", "other"),
    ("forty-two", "42", "same"), ("one hundred and five", "105", "same"), ("3rd", "third", "same"), ("3rd", "3", "open"), ("四种", "4种", "same"), ("一百二十三", "123", "same"), ("１２３", "123", "same"), ("007", "7", "other"), ("第三", "3rd", "same"),
    ("44 BC", "44 BCE", "same"), ("44", "44 BC", "other"), ("1960s", "1960", "other"), ("2008年", "2008", "same"), ("百分之五", "5%", "same"), ("零下5", "-5", "same"), ("5 or 6", "5", "other"), ("5-6", "5", "other")]
NAMES = [
    ("C", "C#", "other"), ("c#", "C#", "same"), ("C♯", "C#", "same"), ("C++", "C", "other"), ("C", "C++", "other"), ("NET", ".NET", "other"), (".net", ".NET", "same"), ("A", "A*", "other"), ("A*", "A*", "same"), ("**A***", "A*", "same"), ("F#", "F", "other"), ("A+", "A", "other"), ("A-", "A+", "other"), ("A−", "A-", "same"),
    ("A", "A", "same"), ("(a)", "A", "same"), ("The", "The", "same"), ("It", "It", "same"), ("who", "The Who", "same"), ("Vitamin", "Vitamin A", "other"), ("Yahoo", "Yahoo!", "same"), ("P!nk", "P!NK", "same"), ("AC DC", "AC/DC", "same"),
    ("Beyonce", "Beyoncé", "same"), ("Beyonce\u0301", "Beyoncé", "same"), ("Lodz", "Łódź", "same"), ("Strasse", "Straße", "same"), ("ISTANBUL", "İstanbul", "same"), ("か", "が", "other"), ("Wolf’s Prairie", "Wolf's Prairie", "same"), ("JK Rowling", "J. K. Rowling", "same"), ("AT&amp;T", "AT&T", "same"),
    ("York", "New York", "other"), ("New York City", "New York", "other"), ("《红楼梦》", "红楼梦", "same"), ("ＡＢＣ", "abc", "same"), ("na\u00advel", "navel", "same"), ("H₂O", "H2O", "same"), ("Oslo [1]", "Oslo", "same"), ("Oslo \\cite{web_00000001}", "Oslo", "same"), ("\\boxed{Oslo}", "Oslo", "same"), ("", "", "other"), ("...", "!!", "other")]
DATES = [
    ("Sept. 5, 2020", "September 5, 2020", "same"), ("5 Sep 2020", "September 5, 2020", "same"), ("5th of September 2020", "September 5, 2020", "same"), ("2020-09-05", "September 5, 2020", "same"), ("2020-09-05T10:00:00Z", "September 5, 2020", "same"), ("2020年9月5日", "September 5, 2020", "same"), ("二〇二〇年九月五日", "2020年9月5日", "same"),
    ("05.09.2020", "September 5, 2020", "same"), ("5. September 2020", "September 5, 2020", "same"), ("Sat, Sep 5, 2020", "September 5, 2020", "same"), ("on 5 September 2020", "September 5, 2020", "same"), ("5/9/2020", "September 5, 2020", "open"), ("9/5/2020", "September 5, 2020", "open"), ("13/9/2020", "September 13, 2020", "same"), ("5/5/2020", "May 5, 2020", "same"),
    ("September 6, 2020", "September 5, 2020", "other"), ("2020", "September 5, 2020", "other"), ("September 2020", "September 5, 2020", "other"), ("September 5, 2020", "2020", "same"), ("September 5, 2020", "September 2020", "same"), ("September 5, 2020", "5", "other"), ("Dec 2017", "December 2017", "same"), ("5 September", "September 5", "same"), ("May", "5", "other"), ("2 January 2019", "2 of January of 2019", "same")]


@pytest.mark.parametrize("answer, right, verdict", NUMBERS + NAMES + DATES)
def test_two_answers(answer, right, verdict): assert a.compare_answers(answer, right) == verdict


REFUSED = ["I do not know", "I do not know the answer", "I don’t know.", "N/A", "n/a", "None", "Unknown.", "not sure", "I'm not sure about that.", "无法确定", "抱歉，我不知道。", "no idea", "", "  ", None, "?!", "The answer is unknown.", "Sorry, I couldn't find any information about it.", "I am unable to determine the exact date.", "**I don't know**", "There is not enough information."]
NOT_REFUSED = ["None of them", "Not Fade Away", "Unknown Pleasures", "I Know What You Did Last Summer", "Nothing Compares 2 U", "No", "The Unknown Soldier"]


@pytest.mark.parametrize("answer", REFUSED)
def test_refusals_are_not_attempted(answer): assert a.grade_answer(answer, ["Paris"])[0] == "C"


@pytest.mark.parametrize("answer", NOT_REFUSED)
def test_words_of_refusals_in_an_answer(answer): assert a.grade_answer(answer, ["Paris"])[0] == "B" and a.grade_answer(answer, [answer])[0] == "A"


def test_the_right_answer_may_be_a_word_of_refusals():
    assert [a.grade_answer(text, [text])[0] for text in ("Unknown", "None", "N/A", "不详", "No")] == ["A"] * 5
    assert a.grade_answer("I don't know exactly, but it is Paris.", ["Paris"])[0] is None and a.grade_answer("I am not sure, but I think it is Rome", ["Paris"])[0] is None


WALES = "What is the capital of Wales?"
SAID = [ # answer, right, question, grade
    *((text, "Cardiff", WALES, "A") for text in ("The capital of Wales is Cardiff.", "Cardiff is the capital of Wales.", "It's Cardiff.", "Its capital is Cardiff, a port in the south.", "Answer: Cardiff", "Final answer: **Cardiff**", "The answer is \"Cardiff\".", "The capital of Wales is Cardiff [1].", "The capital is the city of Cardiff.", "Cardiff. It lies on the coast.")),
    *((text, "Cardiff", "", "A") for text in ("The capital of Wales is Cardiff.", "Cardiff is the capital of Wales.")),
    *((text, "Cardiff", WALES, None) for text in ("It is not Cardiff.", "It isn't Cardiff", "Cardiff or Swansea", "Cardiff and Swansea", "Swansea, Cardiff", "Cardiff/Swansea", "Either Cardiff or Swansea.", "Is it Cardiff?", "Cardiff University", "The Cardiff Bay area", "Swansea is larger than Cardiff.", "Perhaps Cardiff", "It was Cardiff, but now it is Swansea.", "Swansea, not Cardiff", "The capital is Swansea. Cardiff is a city.", "It is never Cardiff.", "Some say Cardiff, others Swansea.")),
    *((text, "Cardiff", WALES, "B") for text in ("Swansea", "The capital of Wales is Swansea.", "Cardigan is the capital.")),
    ("New York City", "New York", "Which state?", None), ("It is New York City.", "New York", "Which state?", None), ("It is New York.", "York", "Which city?", None), ("York", "New York", "Which state?", "B"),
    ("It had 24 medals.", "24", "How many medals did it have?", "A"), ("It had 5 million people.", "5", "How many?", "B"), ("About 24", "24", "How many?", None), ("More than 24 medals", "24", "How many?", None), ("It grew by 5 percent.", "5", "By how much?", None), ("It grew by 5%.", "5%", "By how much?", "A"), ("It grew by 5.", "5%", "By how much?", "B"), ("It was -5 °C.", "5", "How cold?", "B"), ("It was 5.", "-5", "How cold?", "B"),
    ("Between 24 and 30", "24", "How many?", None), ("He won 5 in 1996.", "5", "How many did he win?", None), ("He won 5 in 1996.", "5", "How many did he win in 1996?", "A"), ("He was born on September 5, 2020.", "Sept 5, 2020", "When?", "A"), ("He was born on September 5, 2020.", "5", "How many?", "B"), ("It was founded in 1996.", "1996", "When?", "A"), ("From 1996 to 1999", "1996", "When?", None),
    ("The blood group was A.", "A", "What blood group did he have?", "A"), ("A city in Wales", "A", "What?", None), ("He asked who came.", "The Who", "Which band?", None), ("Yes, it does.", "Yes", "Does it?", "A"), ("No, it does not.", "Yes", "Does it?", "B"), ("No.", "No", "Does it?", "A"), ("The language is C#.", "C#", "Which language?", "A"), ("The language is C#.", "C", "Which language?", "B"), ("The language is C++.", "C#", "Which language?", "B"),
    ("威尔士的首都是加的夫。", "加的夫", "威尔士的首都是哪里？", "A"), ("答案是：加的夫", "加的夫", "", "A"), ("加的夫", "加的夫", "", "A"), ("威尔士的首都不是加的夫。", "加的夫", "", None), ("加的夫或斯旺西", "加的夫", "", None), ("加的夫大学", "加的夫", "", None), ("威尔士的首都是斯旺西。", "加的夫", "", "B"), ("他出生于2020年9月5日", "2020年9月5日", "", None),
    ("大卫·布鲁克斯", "大卫·布鲁克斯(David Brooks)", "", "A"), ("David Brooks", "大卫·布鲁克斯(David Brooks)", "", "A"),
    ("The larger one is Oslo.", "Oslo", "Which is larger, Oslo or Bergen?", "A"), ("Oslo and Bergen differ in size.", "Oslo", "Which is larger, Oslo or Bergen?", None)]


@pytest.mark.parametrize("answer, right, question, grade", SAID)
def test_an_answer_in_a_sentence(answer, right, question, grade): assert a.grade_answer(answer, [right], question)[0] == grade


def test_any_alias_counts_and_long_answers_end_in_time():
    assert a.grade_answer("It is the Big Apple.", ["New York", "Big Apple"], "Which?")[0] == "A" and a.grade_answer("x", [])[0] == "B"
    long = "The river flows through many towns and valleys. " * 4000
    assert a.grade_answer(long + "Cardiff", ["Cardiff"] * 20)[0] is None and a.grade_answer(long, ["Cardiff"])[0] == "B"
    for text in ("(" * 20000, "*" * 20000, "\\boxed{" * 5000, "1,000" * 5000, "five " * 5000, "$" * 9999, "a." * 9999, "<sup>" * 5000, "^" * 9999): assert a.grade_answer(text, ["Cardiff"])[0] in ("B", "C", None)
