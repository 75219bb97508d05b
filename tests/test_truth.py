"The truth about reports: perfect ones get all, and each way to fool it fails, on many tasks of the closed web."
import random
import re

import pytest
from truth_reports import Perfect, source

from stepdr.core.trajectory import CITE
from stepdr.synthesis.claims import Vocabulary, mentions, read_report, relation_cues
from stepdr.synthesis.tasks import research_tasks
from stepdr.synthesis.truth import oracle, reading, statements
from stepdr.world.closed_web import shipped_web
from stepdr.world.pages import TRUSTED
from stepdr.world.wording import say


@pytest.fixture(scope="module")
def web(): return shipped_web()


@pytest.fixture(scope="module")
def tasks(web): return research_tasks(web, "dev", 0)


@pytest.fixture(scope="module")
def perfect(web, tasks):
    "(task, report, what it cites) of all tasks."
    made = [Perfect(web, task, seed) for seed, task in enumerate(tasks)]
    return [(one.task, one.write(), one.read) for one in made]


def verdicts(task, report, read):
    "[(check, verdict)]."
    return list(zip([r["check"] for r in task["rubrics"]], oracle(task, report, read)))


def of(task, *kinds): return [r["check"] for r in task["rubrics"] if r["check"]["kind"] in kinds]


def facts(tasks, read=None):
    "(task, check) of the first-hop facts."
    return [(task, check) for task in tasks for check in of(task, "fact") if "via" not in check]


def verdict_on(task, check, report, read): return next(v for c, v in verdicts(task, report, read) if c is check)


def sentence(web, check, value=None, relation=None, number=0):
    "The wording's sentence for a check, with another value or relation perhaps, without its full stop."
    return say(web.graph.wording[relation or check["relation"]].sentences[number], check["subject"][0], value or check["name"])[:-1]


def proof(web, check):
    p = source(web, check["entity"], check["relation"], check["value"])
    return {p.id: p}, f"\\cite{{{p.id}}}"


def test_perfect_reports_meet_every_rubric(perfect):
    assert len(perfect) >= 200
    for task, report, read in perfect:
        wrong = [(c["kind"], c.get("relation"), v) for (c, v), r in zip(verdicts(task, report, read), task["rubrics"])
                 if v != ("not" if r["role"] == "negative" else "satisfied")]
        assert not wrong, (wrong, report)


def test_every_sentence_of_the_wording_is_read_back(web, tasks):
    for task, check in facts(tasks)[:150]:
        read, cite = proof(web, check)
        for number in range(len(web.graph.wording[check["relation"]].sentences)):
            text = f"{sentence(web, check, number=number)} {cite}."
            assert verdict_on(task, check, text, read) == "satisfied", text


def test_a_value_under_another_relation_is_not_the_fact(web, tasks):
    tried = 0
    for task, check in facts(tasks):
        read, cite = proof(web, check)
        for relation in list(next(c["cues"] for c in of(task, "unsourced")))[:6]:
            if relation == check["relation"] or any(s.relation == relation and s.value == check["value"] for p in read.values() for s in p.statements): continue
            text = f"{sentence(web, check, relation=relation)} {cite}."
            assert verdict_on(task, check, text, read) == "not", text
            assert not statements(task, text, read)[0].supported
            tried += 1
    assert tried > 1500


def test_values_dumped_in_one_sentence_with_all_citations_earn_little(web, perfect):
    for task, report, read in perfect:
        found = of(task, "fact", "compare")
        names = list(dict.fromkeys(side["name"] for check in found for side in check.get("sides", [check])))
        if len(names) < 3: continue
        cites = f"\\cite{{{','.join(read)}}}"
        for text in (f"{task['meta']['mention']}: {', '.join(names)} {cites}.", f"What matters are {', '.join(names[:-1])} and {names[-1]} {cites}.",
                     f"{sentence(web, of(task, 'fact')[0], ', '.join(names[:-1]) + ' or ' + names[-1])} {cites}."):
            assert all(v != "satisfied" for c, v in verdicts(task, text, read) if c["kind"] in ("fact", "compare")), text


def test_all_cues_beside_all_values_give_no_fact_twice(web, tasks):
    for task in tasks[:80]:
        checks = of(task, "fact")
        if len({c["value"] for c in checks}) < len(checks): continue
        cues, names = ", ".join(c["cues"][0] for c in checks), ", ".join(c["name"] for c in checks)
        read = {key: p for c in checks for key, p in proof(web, c)[0].items()}
        text = f"{task['meta']['mention']}, {cues}: {names} \\cite{{{','.join(read)}}}."
        assert sum(v == "satisfied" for c, v in verdicts(task, text, read) if c["kind"] == "fact") <= 1, text


def test_a_citation_proves_nothing_in_another_sentence(web, tasks):
    tried = 0
    for task in tasks:
        checks = [c for c in of(task, "fact") if c["entity"] == task["meta"]["entity"]]
        if len(checks) < 2: continue
        first, second = checks[:2]
        (one, cite), (two, other) = proof(web, first), proof(web, second)
        if any(p.stated(second["entity"], second["relation"]) for p in one.values()) or any(p.stated(first["entity"], first["relation"]) for p in two.values()): continue
        tried += 1
        swapped = f"{sentence(web, first)} {other}. {sentence(web, second)}. {cite}"
        assert [verdict_on(task, c, swapped, one | two) for c in (first, second)] == ["partially", "partially"]
        assert not any(row.supported for row in statements(task, swapped, one | two))
        behind = f"{sentence(web, first)}. {cite} {sentence(web, second)}. {other}"  # behind the full stop is well
        assert [verdict_on(task, c, behind, one | two) for c in (first, second)] == ["satisfied", "satisfied"]
        alone = f"{sentence(web, first)}. {sentence(web, second)}. {cite}{other}"  # both at the end of a paragraph
        assert [verdict_on(task, c, alone, one | two) for c in (first, second)] == ["partially", "satisfied"]
        unread = f"{sentence(web, first)} {cite}. {sentence(web, second)} \\cite{{web_99999999}}."
        assert [verdict_on(task, c, unread, {}) for c in (first, second)] == ["partially", "partially"]
    assert tried > 25


DENIALS = ("It is not true that {0} {1}.", "Nobody says that {0} {1}.", "None of the pages says that {0} {1}.", "It is false that {0} {1}.",
           "It isn't known whether {0} {1}.", "It is wrong to say that {0} {1}.")

@pytest.mark.parametrize("form", DENIALS)
def test_what_is_denied_is_not_stated(web, tasks, form):
    for task, check in facts(tasks)[:120]:
        read, cite = proof(web, check)
        text = form.format(sentence(web, check), cite)
        assert verdict_on(task, check, text, read) == "not", text
        both = f"{sentence(web, check)} {cite}. {text}"
        assert verdict_on(task, check, both, read) == "partially"  # said and denied


def test_not_this_but_that(web, tasks):
    for task in tasks:
        for check in of(task, "wrong"):
            fact = next((c for c in of(task, "fact") if (c["entity"], c["relation"]) == (check["entity"], check["relation"])), None)
            if fact is None or mentions(fact["name"], check["name"]) or mentions(check["name"], fact["name"]): continue
            read, cite = proof(web, fact)
            noun = web.graph.wording[check["relation"]].noun
            text = f"The {noun} of {check['subject'][0]} is not {check['name']} but {fact['name']} {cite}."
            assert (verdict_on(task, check, text, read), verdict_on(task, fact, text, read)) == ("not", "satisfied"), text
            text = f"The {noun} of {check['subject'][0]} is not {fact['name']} but {check['name']} {cite}."
            assert (verdict_on(task, check, text, read), verdict_on(task, fact, text, read)) == ("satisfied", "not"), text


def test_a_wrong_value_is_found_and_both_values_are_no_fact(web, tasks):
    tried = 0
    for task in tasks:
        for check in of(task, "wrong"):
            fact = next((c for c in of(task, "fact") if (c["entity"], c["relation"]) == (check["entity"], check["relation"])), None)
            if fact is None: continue
            page = next(p for p in web.by_entity[check["entity"]] if any(s.value == check["value"] for s in p.stated(check["entity"], check["relation"])))
            read, cite = proof(web, fact)
            read, other = read | {page.id: page}, f"\\cite{{{page.id}}}"
            text = f"{sentence(web, check)} {other}."
            assert (verdict_on(task, check, text, read), verdict_on(task, fact, text, read)) == ("satisfied", "not")
            text = f"{sentence(web, fact)} {cite}. {sentence(web, check)} {other}."
            assert (verdict_on(task, check, text, read), verdict_on(task, fact, text, read)) == ("satisfied", "partially")
            hedged = f"Sources disagree: {sentence(web, fact)} {cite}, or {sentence(web, check)} {other}."
            assert (verdict_on(task, check, hedged, read), verdict_on(task, fact, hedged, read)) == ("not", "partially"), hedged
            if check.get("year"):
                old = f"{sentence(web, fact)} {cite}. In {check['year']}, {check['name']} was given as the {web.graph.wording[check['relation']].noun} of {check['subject'][0]} {other}."
                assert (verdict_on(task, check, old, read), verdict_on(task, fact, old, read)) == ("not", "satisfied"), old
            tried += 1
    assert tried > 40


def test_disputed_values_need_each_other_their_sources_and_a_word(web, tasks):
    tried = 0
    for task in tasks:
        for check in of(task, "disputed"):
            one, two = ({**check, **value} for value in check["values"])
            (read, cite), (more, other) = proof(web, one), proof(web, two)
            read = read | more
            noun, name = web.graph.wording[check["relation"]].noun, check["subject"][0]
            texts = {f"Sources disagree on the {noun} of {name}: {one['name']} {cite} or {two['name']} {other}.": "satisfied",
                     f"{sentence(web, one)} {cite}, but {sentence(web, two)} {other}.": "satisfied",
                     f"Sources disagree on the {noun} of {name}: {one['name']} or {two['name']}.": "partially",
                     f"{sentence(web, one)} {cite}. {sentence(web, two)} {other}.": "partially",
                     f"{sentence(web, one)} {cite}.": "partially", f"Sources disagree on the {noun} of {name}.": "not", "": "not",
                     f"Sources disagree on the {noun} of {name}: {one['name']} {other} or {two['name']}.": "partially"}
            if cite == other: continue
            for text, wanted in texts.items(): assert verdict_on(task, check, text, read) == wanted, (text, wanted)
            tried += 1
    assert tried > 20


def test_not_found_and_yet_a_value(web, tasks):
    tried = 0
    for task in tasks:
        for check in of(task, "silent"):
            noun, name = web.graph.wording[check["relation"]].noun, check["subject"][0]
            said = f"None of the pages that I read names the {noun} of {name}."
            assert verdict_on(task, check, said, {}) == "satisfied"
            assert verdict_on(task, check, f"No page says anything about {name}.", {}) == "not"
            assert verdict_on(task, check, f"The {noun} of {name} is of interest.", {}) == "not"
            invented = "Xanadu Hall" if check["name"][:1].isupper() else next(iter(check["common"]))
            for value in (check["name"], invented):
                assert verdict_on(task, check, f"{said} {sentence(web, check, value)}.", {}) == "not", value
                assert verdict_on(task, check, f"{said[:-1]}, but it is {value}.", {}) == "not", value
            tried += 1
    assert tried > 20


def test_a_fact_that_is_also_called_not_found_is_no_fact(web, tasks):
    for task, check in facts(tasks)[:80]:
        read, cite = proof(web, check)
        text = f"{sentence(web, check)} {cite}. The {web.graph.wording[check['relation']].noun} of {check['subject'][0]} could not be found."
        assert verdict_on(task, check, text, read) == "partially"


def test_a_name_inside_a_longer_name_is_another_name(web, tasks):
    tried = 0
    for task, check in facts(tasks):
        read, cite = proof(web, check)
        longer = check.get("longer", []) + ([f"{check['name']} Minster", f"Upper {check['name']}"] if all(w.isalpha() and w[:1].isupper() for w in check["name"].split()) else [])
        for name in longer[:6]:
            text = f"{sentence(web, check, name)} {cite}."
            assert verdict_on(task, check, text, read) == "not", text
            tried += 1
    assert tried > 300


def test_other_names_count(web, tasks):
    tried = 0
    for task, check in facts(tasks):
        read, cite = proof(web, check)
        for name in check["names"][1:]:
            assert verdict_on(task, check, f"{sentence(web, check, name)} {cite}.", read) == "satisfied", name
            tried += 1
        for name in check["subject"][1:]:
            text = say(web.graph.wording[check["relation"]].sentences[0], name, check["name"])
            assert verdict_on(task, check, f"{text[:-1]} {cite}.", read) == "satisfied", text
    assert tried > 100


def test_compared_topics_that_are_swapped(web, perfect):
    tried = 0
    for task, report, read in perfect:
        for check in of(task, "compare"):
            one, two = check["sides"]
            if check["same"] or one["value"] == two["value"]: continue
            cites = f"\\cite{{{','.join(read)}}}"
            for form in ("{0} {2}, whereas {1} {2}.", "{0} {2}. {1} {2}. They differ in this.", "## {3}\n{0} {2}.\n## {4}\n{1} {2}. The two differ."):
                right = form.format(sentence(web, one), sentence(web, two), cites, one["subject"][0], two["subject"][0])
                swapped = form.format(sentence(web, one, two["name"]), sentence(web, two, one["name"]), cites, one["subject"][0], two["subject"][0])
                assert verdict_on(task, check, right, read) == "satisfied", right
                assert verdict_on(task, check, swapped, read) == "not", swapped
                assert not any(v != "not" for c, v in verdicts(task, swapped, read) if c["kind"] == "fact" and c["relation"] == check["relation"])
            mixed = f"{sentence(web, one)} {cites}. {sentence(web, two, one['name'])} {cites}."
            assert verdict_on(task, check, mixed, read) == "not"
            tried += 1
    assert tried > 40


def test_second_hops_belong_to_their_own_subject(web, tasks):
    tried = 0
    for task in tasks:
        for check in (c for c in of(task, "fact") if "via" in c):
            read, cite = proof(web, check)
            first = next(c for c in of(task, "fact") if c["entity"] == check["via"][0] and c["relation"] == check["via"][1])
            more, other = proof(web, first)
            said = say(web.graph.wording[check["relation"]].sentences[0], "X", check["name"])[2:-1]
            chained = f"{sentence(web, first)} {other}, which {said} {cite}." if sentence(web, first).endswith(first["name"]) else None
            if chained: assert verdict_on(task, check, chained, read | more) == "satisfied", chained
            assert verdict_on(task, check, f"{sentence(web, check)} {cite}.", read) == "satisfied"
            topic = f"{say(web.graph.wording[check['relation']].sentences[0], task['meta']['mention'], check['name'])[:-1]} {cite}."
            assert verdict_on(task, check, topic, read) == "not", topic
            tried += 1
    assert tried > 60


def test_sources_and_form(web, perfect):
    for task, report, read in perfect[:80]:
        def found(kind, text): return next(v for c, v in verdicts(task, text, read) if c["kind"] == kind)
        bare = re.sub(r" ?" + CITE.pattern, "", report)
        rows = statements(task, report, read)
        assert found("unsourced", bare) == "satisfied" if len(rows) > 1 else True
        assert found("trusted", bare) == "not"
        assert all(row.supported and row.trusted and all(row.helps) for row in rows)
        lines = "\n".join(f"- {line}" for line in report.splitlines() if not line.startswith("#"))
        assert found("form", lines) == "not"
        assert found("form", " ".join(line for line in report.splitlines() if not line.startswith("#"))) == "partially"
        for table in ("## Life\nBorn in: Leeds.", "## Life\nLeeds\nYork", "## Life\n| Born in | Leeds |", "Born in: Leeds | Died in: York"):
            assert found("form", table) in ("not", "partially")


@pytest.mark.parametrize("report", [None, "", "##", "# \n\\cite{}", "\\cite{web_00000001}", "noise", "." * 500, "Paris " * 400, "a, " * 2000, "## ## ##\n" * 50])
def test_hopeless_reports(web, tasks, report):
    for task in tasks[:20]:
        found = verdicts(task, report, {})
        assert all(v == "not" for c, v in found if c["kind"] not in ("unsourced", "form"))
        assert dict((c["kind"], v) for c, v in found)["unsourced"] == "satisfied"  # it gives no sourced statement


def test_low_sites_support_but_are_not_trusted(web, tasks):
    tried = 0
    for task, check in facts(tasks):
        low = [p for p in web.by_entity[check["entity"]] if p.site not in TRUSTED and any(s.value == check["value"] for s in p.stated(check["entity"], check["relation"]))]
        if not low: continue
        rows = statements(task, f"{sentence(web, check)} \\cite{{{low[0].id}}}.", {low[0].id: low[0]})
        assert rows[0].supported and not rows[0].trusted
        tried += 1
    assert tried > 50


def test_any_text_is_read(web, tasks):
    rng = random.Random(0)
    task = next(t for t in tasks if t["meta"]["compare"])
    pieces = [w for r in task["rubrics"] for w in r["criterion"].split()] + ["\\cite{web_1}", "## ", "\n", "and", "not", ",", "or", "(", ":", "I", "They", "’s", "\x00", "é"]
    for _ in range(400): reading(task["rubrics"], " ".join(rng.choice(pieces) for _ in range(rng.randrange(60))), {})


NATURAL = {  # a sentence as somebody might write it -> {(relation, value, subject)} that it states; subjects: the topic, the other, a place
    "Born in Newton, Ann Lee studied at Harvard University and later worked as an actor.": {("birthplace", "Newton", "Ann Lee"), ("school", "Harvard University", "Ann Lee"), ("occupation", "actor", "Ann Lee")},
    "Ann Lee, who was born in Newton and educated at Harvard, died in Paris.": {("birthplace", "Newton", "Ann Lee"), ("school", "Harvard University", "Ann Lee"), ("deathplace", "Paris", "Ann Lee")},
    "Newton, where Ann Lee was born, lies in the region of Yorkshire.": {("birthplace", "Newton", "Ann Lee"), ("region", "Yorkshire", "Newton")},
    "Her place of birth, Newton, belongs to the region of Yorkshire.": {("birthplace", "Newton", "Ann Lee"), ("region", "Yorkshire", "Newton")},
    "She was born and died in Newton.": {("birthplace", "Newton", "Ann Lee"), ("deathplace", "Newton", "Ann Lee")},
    "It was in Newton that Ann Lee was born; Paris is where she died.": {("birthplace", "Newton", "Ann Lee"), ("deathplace", "Paris", "Ann Lee")},
    "While Ann Lee was born in Newton, Bob Ray was born in Paris.": {("birthplace", "Newton", "Ann Lee"), ("birthplace", "Paris", "Bob Ray")},
    "Both Ann Lee and Bob Ray were born in Newton.": {("birthplace", "Newton", "Ann Lee"), ("birthplace", "Newton", "Bob Ray")},
    "Ann Lee was born in Newton; the birthplace of Bob Ray is Paris.": {("birthplace", "Newton", "Ann Lee"), ("birthplace", "Paris", "Bob Ray")},
    "Like Bob Ray, Ann Lee was born in Newton.": {("birthplace", "Newton", "Ann Lee")},
    "As for her education, Harvard is named.": {("school", "Harvard University", "Ann Lee")},
    "Where was she born? In Newton.": {("birthplace", "Newton", "Ann Lee")},
    "Lee worked as an actor (Harvard University had been her place of study).": {("occupation", "actor", "Ann Lee"), ("school", "Harvard University", "Ann Lee")},
    "She was not born in Paris but in Newton.": {("birthplace", "Newton", "Ann Lee")},
    "Contrary to what one site says, she never studied at Harvard.": set(),
    "She never lived in Paris and died in Newton.": set(),  # what a denial reaches is not sure, so nothing is stated
    "She visited Newton, Paris and Yorkshire.": set(),
    "Newton University was her place of study.": set(),
    "Paris Newton was born.": set(),
    "Ann Lee and Newton.": set(),
}

@pytest.mark.parametrize("text", NATURAL)
def test_sentences_as_people_write_them(web, text):
    known = Vocabulary(topics=["Ann Lee", "Bob Ray"])
    for name in ("Ann Lee", "Bob Ray", "Newton"): known.subject(name, name)
    for relation, value in (("birthplace", "Newton"), ("birthplace", "Paris"), ("deathplace", "Paris"), ("deathplace", "Newton"), ("school", "Harvard University"), ("occupation", "actor"), ("region", "Yorkshire")):
        known.value(relation, value, value)
    known.name("Harvard University", "Harvard")
    for relation in ("birthplace", "deathplace", "school", "occupation", "region", "residence"): known.cue(relation, relation_cues(web.graph.wording[relation]))
    wanted, subjects = NATURAL[text], {"Ann Lee", "Bob Ray", "Newton"}
    found = {(relation, value, subject) for s in read_report(text, known) for c in s.claims if not c.denied and c.how in ("own", "listed")
             for value in c.values for relation in c.relations for subject in c.subjects & subjects}
    assert wanted <= found, found
    # nothing else of another subject of the same kind; a place may stand beside the topic as a possible subject
    assert {one for one in found if one[2] != "Newton" and not (one[0] == "region")} <= wanted, found
