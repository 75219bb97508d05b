"Teachers that raise, are late and lie, for runs of synthesis that have to go on; and the rules behind a server, which reads its prompts as a model would."
import asyncio
import hashlib
import json
import re
from urllib.parse import urlsplit

from stepdr.core.outcomes import Answer, Work
from stepdr.core.replies import EndpointError
from stepdr.core.prompts import PROMPTS, SCHEMAS, schema_in
from stepdr.core.scripted_teacher import RULES, OfflineTeacher
from stepdr.synthesis.makers import rule_teacher

NOWHERE = "web_ffffffff"  # an id that nobody was shown
LIES = {"verify_edge": {"findings": [{"paragraph": NOWHERE, "quote": "made up", "stance": "supports"}], "facts": [{"statement": "made up", "paragraph": NOWHERE}], "verdict": "supported"},
        "verify_statement": {"findings": [{"paragraph": NOWHERE, "quote": "made up", "stance": "supports"}], "missing": "nothing", "verdict": "support"},
        "question_from_graph": {"chain": [1, 99], "fuzzed": [{"exact": "made up", "vague": "x"}], "unique": "made up", "question": "Which is made up?", "answer": "Atlantis"},
        "question_from_walk": {"facts": [{"statement": "made up", "paragraph": NOWHERE}] * 2, "question": "Which is made up?", "answer": "Atlantis"},
        "report_checks": {"report": f"It is made up \\cite{{{NOWHERE}}}.", "verdict": "refute"}, "draft_report": {"thesis": "made up", "report": f"# Made up\n\nAll of it is made up \\cite{{{NOWHERE}}}."},
        "plan_alignment": {"steps": [{"number": 1, "evidence": "made up", "state": "followed"}], "strayed": [], "score": 0}}


class Unreliable(OfflineTeacher):
    "The rules; but for some requests, always the same, it raises, is too late, or lies without shame."
    def __init__(self):
        self.rules, self.did = rule_teacher(), {}
        super().__init__()

    async def ask(self, name, schema=None, language="en", draw=0, **values):
        await asyncio.sleep(0)
        number = int(hashlib.sha256(repr((name, sorted(map(str, values.values())), draw)).encode()).hexdigest(), 16) % 40
        if number == 0: raise {}["no such reply"]
        if number == 1: raise TimeoutError("the teacher took too long")
        if number == 2: raise EndpointError("the connection broke three times")
        if number in (3, 4, 5) and name in LIES: return Answer(LIES[name], Work())
        return await self.rules.ask(name, schema, language, draw, **values)


def paragraphs_in(text): # as they are shown -> list of dicts
    found = re.findall(r"(?sm)^\[(\S+)\] ([^\n]*)\n(.*?)(?=\n\n\[|\Z)", text)
    rows = [{"id": one, "title": re.sub(r"\s+\S*:\S+$", "", head).strip(), "url": (re.search(r"\S+:/\S+", head) or [""])[0], "date": "", "text": body} for one, head, body in found]
    return [{**row, "site": urlsplit(row["url"]).netloc or row["url"]} for row in rows]


def listed(text): return [] if not re.match(r"\d+\. ", text) else re.split(r"\n?^\d+\. ", text, flags=re.MULTILINE)[1:]


READ = {"paragraphs": paragraphs_in, "findings": lambda text: re.split(r"\n\n(?=\[)", text) if text.startswith("[") else [], **dict.fromkeys(("statements", "queries", "plan", "rubrics", "words", "links", "collected"), listed)}


def by_rule(messages): # chat rows of a request -> (prompt, reply of the rules or None)
    "What the rules say to a prompt as it was sent."
    schema = json.loads(next(line for line in messages[0]["content"].splitlines() if line.startswith("{") and '"properties"' in line))
    name = next(name for name, own in SCHEMAS.items() if schema in (own, schema_in("zh", own)))
    values = {}
    for tag, hole in re.findall(r"<(\w+)>\n\{(\w+)\}\n</\1>", PROMPTS[name]):
        text = re.search(rf"(?s)<{tag}>\n(.*?)\n</{tag}>", messages[1]["content"])[1]
        values[hole] = READ.get(hole, str)(text)
    return name, RULES[name](values, "zh" if schema != SCHEMAS[name] else "en", 0)
