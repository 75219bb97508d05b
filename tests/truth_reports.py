"Perfect reports, made directly from the facts by the wording's sentences: what the truth about reports is tested with."
import random
from collections import defaultdict

from stepdr.world.facts import topic_type
from stepdr.world.pages import TRUSTED
from stepdr.world.wording import references, say

DISPUTED = ("Sources disagree on the {noun} of {name}: one gives {first} {cite}, another {second} {other}.",
            "Sources differ on the {noun} of {name}. One site names {first} {cite}, while another one names {second} {other}.",
            "The {noun} of {name} is disputed: {first} {cite} or {second} {other}.")
SILENT = ("None of the pages that I read names the {noun} of {name}.", "I found nothing on the {noun} of {name}.",
          "The {noun} of {name} could not be found.", "No page gives the {noun} of {name}.",
          "The {noun} of {name} is not stated on any of the pages.")


def source(web, entity, relation, value, trusted=True):
    "A paragraph that states the value, on a trusted site if it can be."
    found = [p for p in web.by_entity[entity] if any(s.value == value and not s.year for s in p.stated(entity, relation))]
    return min(found, key=lambda p: (p.site in TRUSTED) != trusted)


def capital(text): return text[:1].upper() + text[1:]


class Perfect:
    "Writes a report for a task; `read` holds what it cites, by id."
    def __init__(self, web, task, seed=0):
        self.web, self.graph, self.task, self.rng, self.read = web, web.graph, task, random.Random(seed), {}
        self.parts = defaultdict(list)  # heading -> sentences
        self.named = set()

    def cite(self, entity, relation, value):
        p = source(self.web, entity, relation, value)
        self.read[p.id] = p
        return f"\\cite{{{p.id}}}"

    def subject(self, entity, heading):
        "The name, or a word for it once the section has said the name."
        kind = self.graph.kinds.get(topic_type(self.graph, entity))
        alone = not self.task["meta"]["compare"] and entity == self.task["meta"]["entity"]
        first = (entity, heading) not in self.named
        self.named.add((entity, heading))
        return self.graph.names[entity] if first or not alone or not kind or self.rng.random() < 0.5 else self.rng.choice(references(kind, self.graph.names[entity]))

    def said(self, entity, relation, value, heading):
        "A sentence of the wording, without its full stop, that fits the word for the subject."
        word, forms = self.subject(entity, heading), self.graph.wording[relation].sentences
        if word in ("It", "They") or word.startswith("The "): forms = [f for f in forms if f.startswith("{S} ")] or forms
        return say(self.rng.choice(forms), word, self.graph.names[value])[:-1]

    def add(self, check):
        "The sentence or sentences that a check wants."
        if check["kind"] == "compare": return self.compare(check)
        entity, relation = check["entity"], check["relation"]
        words, name = self.graph.wording[relation], self.graph.names[entity]
        if check["kind"] == "silent": text = self.rng.choice(SILENT).format(noun=words.noun, name=name)
        elif check["kind"] == "disputed":
            first, second = (value["value"] for value in check["values"])
            text = self.rng.choice(DISPUTED).format(
                noun=words.noun, name=name, first=self.graph.names[first], second=self.graph.names[second],
                cite=self.cite(entity, relation, first), other=self.cite(entity, relation, second))
        else: text = f"{self.said(entity, relation, check['value'], words.section)} {self.cite(entity, relation, check['value'])}."
        self.parts[words.section].append(capital(text))

    def compare(self, check):
        section = self.graph.wording[check["relation"]].section
        one, two = ((f"{self.said(s['entity'], s['relation'], s['value'], section)}", self.cite(s["entity"], s["relation"], s["value"])) for s in check["sides"])
        if check["same"]: text = f"{one[0]} {one[1]}. {capital(two[0])} as well {two[1]}."
        else: text = self.rng.choice(("{0[0]} {0[1]}, whereas {1[0]} {1[1]}.", "{0[0]} {0[1]}, but {1[0]} {1[1]}.", "{0[0]} {0[1]}. By contrast, {1[0]} {1[1]}. Here the two differ.")).format(one, two)
        self.parts[section].append(capital(text))

    def write(self):
        checks = [r["check"] for r in self.task["rubrics"] if r["check"]["kind"] in ("fact", "disputed", "silent", "compare")]
        compared = {(side["entity"], side["relation"]) for check in checks for side in check.get("sides", [])}
        for check in checks:
            if check["kind"] == "compare" or (check["entity"], check["relation"]) not in compared: self.add(check)
        return "\n".join(f"## {heading}\n{' '.join(texts)}" for heading, texts in self.parts.items())
