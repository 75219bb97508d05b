"""Select the graph in data/kg from the CoDEx-M triples (Wikidata facts, CC0).

    python data/make_graph.py ../shared/data/kg_codex data/kg

Keeps people and films with at least three facts, the facts between them, and one object for a subject and
relation (the rarest one, so that an answer says something), in Wikidata5m's own file layout. Relations that
would put a false statement about a living person's private life into the closed web (religion, ethnic group,
health, politics, partners) are left out on purpose. Names and facts only: no descriptions, no sentences.
"""
import collections, gzip, json, re, sys
from pathlib import Path

RELATIONS = {  # Wikidata property: the one-word name used in stepdr
    "P106": "occupation", "P19": "birthplace", "P69": "school", "P551": "residence", "P20": "deathplace",
    "P737": "influence", "P264": "label", "P136": "genre", "P1303": "instrument", "P1412": "language",
    "P108": "employer", "P161": "star", "P57": "director", "P840": "setting", "P495": "origin",
    "P17": "country", "P30": "continent", "P159": "headquarters", "P131": "region"}
PERSON, FILM = {"P106"}, {"P161", "P57"}          # a subject of one of these is a person, a film
PERSON_VALUES = {"P737", "P161", "P57"}           # relations whose object is a person
NAME = re.compile(r"^[A-Za-z][A-Za-z.'-]*( [A-Za-z][A-Za-z.'-]*){0,2}$")
FACTS_PER_SUBJECT, NAME_LENGTH = 6, 22


def read_triples(folder):
    for part in ("train", "valid", "test"):
        with gzip.open(folder / f"triples/codex-m/{part}.txt.gz", "rt", encoding="utf-8") as lines:
            yield from (line.rstrip("\n").split("\t") for line in lines)


def good_names(entities):
    "Entities with a short ASCII label that no other entity has."
    count = collections.Counter(entity["label"].lower() for entity in entities.values())
    return {q: e["label"] for q, e in entities.items()
            if NAME.match(e["label"]) and len(e["label"]) <= NAME_LENGTH and count[e["label"].lower()] == 1}


def aliases(entity, taken):
    "Up to three short ASCII aliases that are nobody's label."
    found = [a for a in entity.get("aliases", []) if NAME.match(a) and len(a) <= NAME_LENGTH and a.lower() not in taken]
    return list(dict.fromkeys(found))[:3]


def select(folder):
    entities = json.load(gzip.open(folder / "DERIVED_entity_text_en_via_fb15k.json.gz", "rt", encoding="utf-8"))
    names = good_names(entities)
    triples = sorted({tuple(t) for t in read_triples(folder)
                      if t[1] in RELATIONS and t[0] in names and t[2] in names and t[0] != t[2]})
    subjects = collections.defaultdict(set)
    for head, relation, _ in triples: subjects[head].add(relation)
    people = {h for h, rs in subjects.items() if rs & PERSON}
    films = {h for h, rs in subjects.items() if rs & FILM}
    both = people & films
    people, films = people - both, films - both
    popularity = collections.Counter(t for _, _, t in triples)
    used_people = collections.Counter()
    chosen = collections.defaultdict(dict)
    for head, relation, tail in sorted(triples, key=lambda t: (t[0], t[1], popularity[t[2]], t[2])):
        if head in both or relation in chosen[head]: continue
        if head in people and relation in {"P161", "P57", "P840", "P495"}: continue
        if relation in PERSON_VALUES:
            options = [t for h, r, t in triples_of[head] if r == relation and t in people] if (triples_of := index(triples)) else []
            if not options: continue
            tail = min(options, key=lambda t: (used_people[t], t))   # spread the roles: small components
            used_people[tail] += 1
        chosen[head][relation] = tail
    return entities, names, people, films, chosen


def hidden_inside_other_names(topics, names, entities):
    "Topics whose name is part of somebody else's name or alias: it could not be told apart in a text."
    parts = collections.Counter()
    for q, name in names.items():
        for text in {name, *entities[q].get("aliases", [])}:
            words = text.split()
            spans = {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, min(i + 3, len(words)) + 1)}
            parts.update(spans - {name})
    return {q for q in topics if parts[names[q]]}


_index = {}
def index(triples):
    "Triples by subject, made once."
    if not _index:
        for triple in triples: _index.setdefault(triple[0], []).append(triple)
    return _index


def main(source, out):
    entities, names, people, films, chosen = select(Path(source))
    topics = {h for h in people | films if len(chosen[h]) >= 3}
    topics -= hidden_inside_other_names(topics, names, entities)
    order = list(RELATIONS)
    facts = {}
    for head in topics:
        kept = sorted(chosen[head], key=lambda r: (r not in PERSON_VALUES and r not in PERSON, order.index(r)))
        facts[head] = {r: chosen[head][r] for r in kept[:FACTS_PER_SUBJECT]}
    for head in topics:       # a film's people must be topics themselves, else the chain ends in a name without facts
        facts[head] = {r: t for r, t in facts[head].items() if r not in PERSON_VALUES or t in topics}
    facts = {h: rs for h, rs in facts.items() if len(rs) >= 3}
    facts = {h: {r: t for r, t in rs.items() if r not in PERSON_VALUES or t in facts} for h, rs in facts.items()}
    values = {t for rs in facts.values() for t in rs.values()} - set(facts)
    for value in sorted(values):   # places and companies: their own country, continent, headquarters
        if chosen.get(value) and value not in people | films:
            own = {r: t for r, t in chosen[value].items() if RELATIONS[r] in ("country", "continent", "region", "headquarters")}
            facts[value] = dict(sorted(own.items(), key=lambda item: order.index(item[0])))
    used = sorted({h for h in facts if facts[h]} | {t for rs in facts.values() for t in rs.values()}, key=lambda q: int(q[1:]))
    taken = {names[q].lower() for q in used}
    out = Path(out); out.mkdir(parents=True, exist_ok=True)
    lines = [f"{h}\t{r}\t{t}" for h in sorted(facts, key=lambda q: int(q[1:])) for r, t in sorted(facts[h].items())]
    (out / "triples.txt").write_text("\n".join(lines) + "\n")
    (out / "entity.txt").write_text("\n".join("\t".join([q, names[q], *aliases(entities[q], taken)]) for q in used) + "\n")
    (out / "relation.txt").write_text("\n".join(f"{p}\t{name}" for p, name in sorted(RELATIONS.items())) + "\n")
    print(len(used), "entities", len(lines), "triples", len(topics), "topics")


if __name__ == "__main__":
    main(*sys.argv[1:])
