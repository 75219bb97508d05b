"""Real exchanges with a strong model, replayed with the replies that it gave: its honest work is kept, found, shown and cited.

The exchanges lie beside the checkout; each fault that they show has tests with material of their own where its code is tested.
"""
import json
import re
import shutil
import tarfile
from contextvars import ContextVar
from types import SimpleNamespace

import pytest

from scripted_model import ScriptedModel, turn
from stepdr.core.artifacts import root
from stepdr.core.teacher import TeacherClient
from stepdr.core.endpoint import ChatEndpoint
from stepdr.core.connection import EndpointSettings
from stepdr.core.usage import Usage
from stepdr.core.replies import Reply
from stepdr.agent.episode import ResearchResult
from stepdr.agent.budget import ResearchSettings, Spent
from stepdr.agent.drivers import ResearchAgent
from stepdr.agent.report import report_markdown
from stepdr.synthesis.attempts import attempt
from stepdr.synthesis.filters import apply_filters, citation_format, dead_ends
from stepdr.synthesis.rubrics import rubric_task
from stepdr.synthesis.edge_checks import check_edge
from stepdr.synthesis.verification import VerificationSettings, verification_row
from stepdr.synthesis.writing import cited_passages, drafted_report_row, findings_of
from stepdr.tools.tool import Toolbox, run_async
from stepdr.tools.toolset import KitSettings, open_kit, provider_kit
from stepdr.tools.providers import Provider, SearchHit, StoreProvider
from stepdr.tools.folder import FolderProvider, folder_store
from stepdr.tools.workspace import Workspace
from stepdr.core.trajectory import cited_ids
from stepdr.synthesis.documents import Corpus, corpus_build
from stepdr.world.paragraphs import Paragraph, paragraph_id

SHARED = root().parent / "shared"
EXCHANGES, PAGES = SHARED / "exchanges", SHARED / "data" / "docs_wikispeedia" / "plaintext_articles.tar.xz"
pytestmark = pytest.mark.skipif(not (EXCHANGES.is_dir() and PAGES.is_file()), reason="needs the exchanges and pages in ../shared")


def exchange(name): # words of its file's name -> the file
    [path] = EXCHANGES.glob(f"*{name}*.json")
    return json.loads(path.read_text())


def asked(shown, number): # exchange, number of a request -> what the model was given last
    return shown["exchanges"][number]["request"]["messages"][-1]["content"]


def replied(shown, number): return shown["exchanges"][number]["reply"]["content"]


def tagged(text, name): return re.search(rf"(?s)<{name}>\n(.*?)\n</{name}>", text)[1]


def paragraphs_in(text): # `[id] title > heading date address`, its text, an empty line -> paragraphs
    found = re.findall(r"(?ms)^\[(web_\w{8})\] ([^\n>]*?)(?: > ([^\n]*?))?(?: (\d{4}))? (\S+://\S+)\n(.*?)(?=\n\n\[web_|\Z)", text)
    return [Paragraph(name, url, title, body, heading, "en", date) for name, title, heading, date, url, body in found]


ASKED = ContextVar("prompt that is asked")


class Recorded(TeacherClient):
    "A teacher whose model gives the replies that were recorded for each prompt, in order, as texts or functions of the messages; all checks of a reply are the client's own."
    def __init__(self, **replies):
        super().__init__(SimpleNamespace(name="recorded", complete=self.complete))
        self.replies, self.prompts = {name: list(texts) for name, texts in replies.items()}, []

    async def request(self, messages, name, *more, **named):
        ASKED.set(name)
        return await super().request(messages, name, *more, **named)

    async def complete(self, messages, *_):
        self.prompts.append((ASKED.get(), messages))
        reply = self.replies[ASKED.get()].pop(0)
        return Reply({"role": "assistant", "content": reply(messages) if callable(reply) else reply}, Usage(), 0.0, "stop", 0.0)


class Shown(Provider):
    "A search that finds the paragraphs that were shown."
    name, local = "shown", True
    def __init__(self, paragraphs): self.paragraphs = paragraphs
    async def search(self, query, topk=10, site="", language="", since="", until=""):
        return [SearchHit(p.url, p.title, p.text, p.date, p.language, 1.0, p) for p in self.paragraphs[:topk]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "The pages of the questions on volcanoes, with some others beside them, as a folder of documents."
    folder, wanted = tmp_path_factory.mktemp("pages"), re.compile(r"(?i)volcano|pinatubo|helens|unzen|koryaksky|etna|vesuvius|krakatoa|lava|lahar|tsunami|earthquake|yellowstone|igneous|geology|plate_tect|mount_|island")
    with tarfile.open(PAGES) as packed:
        for member in packed:
            name = member.name.rpartition("/")[2]
            if member.isfile() and wanted.search(name): (folder / name).write_bytes(packed.extractfile(member).read())
    return folder


@pytest.fixture(scope="module")
def pages(folder, tmp_path_factory): return FolderProvider(folder_store(folder, tmp_path_factory.mktemp("index") / "index", show=False))


def call(tools, **arguments): return run_async(tools.call_async({"name": "batch_web_surfer", "arguments": arguments})).text


# synthesis

def test_a_check_that_stays_open_becomes_a_row():
    shown = exchange("verification_crash")
    statement, paragraphs = tagged(asked(shown, 0), "statement"), paragraphs_in(tagged(asked(shown, 0), "paragraphs"))
    teacher = Recorded(extract_statements=[json.dumps({"statements": [{"quote": statement, "statement": statement, "worth": "check"}]})],
                       plan_checks=[json.dumps({"supports": "Accounts that name the victims.", "refutes": "Accounts of other victims.", "queries": ["Mount Unzen 1991 victims", "Unzen 43 deaths who"]})],
                       verify_statement=[replied(shown, 0)], report_checks=[replied(shown, 1)], judge_conclusion=[replied(shown, 2)])
    row = run_async(verification_row({"id": "unzen", "paragraph": statement}, teacher, Shown(paragraphs), settings=VerificationSettings(rounds=1)))
    assert "reason" not in row, row
    assert row["meta"]["verdict"] == "doubtful" and [one["verdict"] for one in row["meta"]["statements"]] == ["doubtful"]
    assert "Who the 43 were" in row["messages"][-1]["reasoning_content"]          # what is missing is kept with the thought


def test_a_flagged_rubric_falls_out_and_the_task_stays():
    shown = exchange("rubric_task_discarded")
    def rubrics_in(text): return [re.sub(r" \(weight -?\d, [^)]*\)$", "", one) for one in re.findall(r"(?m)^\d+\. (.*)$", tagged(text, "rubrics"))]
    def numbered(number, part): # of the recorded entries those of the rubrics that are shown, by their places there
        entries = dict(zip(rubrics_in(asked(shown, number)), json.loads(replied(shown, number))[part], strict=True))
        return lambda messages: json.dumps({**json.loads(replied(shown, number)), part: [{**entries[one], "number": place} for place, one in enumerate(rubrics_in(messages[-1]["content"]), 1)]})
    teacher = Recorded(rubrics_from_material=[replied(shown, 0)], task_from_rubrics=[numbered(1, "roles")], judge_consistency=[numbered(2, "rubrics")])
    row = run_async(rubric_task({"id": "banks", "material": tagged(asked(shown, 0), "material")}, teacher))
    assert "reason" not in row, row
    kept, dates = [one["criterion"] for one in row["rubrics"]], ("March 27, 2023 as the evaluation date", "April 2024 as the evaluation date")
    assert len(kept) >= 12 and sum(date in one for one in kept for date in dates) == 1       # both sides of one date are one rubric
    assert row["meta"]["untested"] == [rubrics_in(asked(shown, 1))[5]] and [list(one["faults"]) for one in row["meta"]["rubrics_dropped"]] == [["independent"], ["role"]]


def test_a_deeper_draft_is_kept_though_a_small_point_is_missing():
    shown = exchange("deeper_draft_not_kept")
    query, plan, findings = (tagged(asked(shown, 0), name) for name in ("query", "plan", "findings"))
    read = "\n\n".join(re.sub(r"(?s)^\[(web_\w{8})\]\n(.*)$", r"\2 \\cite{\1}", one) for one in findings.split("\n\n"))
    row = {"id": "volcanoes", "kind": "research", "query": query, "success": True, "tools": [], "meta": {"plan": re.findall(r"(?m)^\d+\. (.*)$", plan)},
           "messages": [{"role": "user", "content": query}, {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "batch_web_surfer", "arguments": {"action": "batch_search", "queries": ["Decade Volcanoes"]}}}]},
                        {"role": "tool", "name": "batch_web_surfer", "content": read}, {"role": "assistant", "content": f"<answer>{tagged(asked(shown, 1), 'first')}</answer>"}]}
    def weighed(text): # a verdict -> the same, and what each point is worth, which the model was not yet asked: nothing of it changes the answer
        return json.dumps({name: [{"point": one, "reason": "The query does not ask for it.", "need": "useful"} for one in value] if name.startswith("only") else value for name, value in json.loads(text).items()})
    teacher = Recorded(draft_report=[replied(shown, 0)], deeper_report=[weighed(replied(shown, 1)), weighed(replied(shown, 2))])
    made = run_async(drafted_report_row(row, teacher))
    assert "reason" not in made and made["meta"]["draft"]["kept"] and "contacts" in str(made["meta"]["draft"]["lost"])
    assert "The two cases fail in different ways" in made["messages"][-1]["content"]


def test_a_quote_without_a_space_and_an_id_in_brackets_are_taken():
    shown = exchange("quote_rejected")
    head, relation, tail = tagged(asked(shown, 0), "triple").split(" | ")
    paragraphs = paragraphs_in(tagged(asked(shown, 0), "paragraphs"))
    teacher = Recorded(verify_edge=[replied(shown, 0)])
    names = SimpleNamespace(names={"a": [head], "b": [tail]}, relations={"r": [relation]})
    edge = run_async(check_edge(("a", "r", "b"), names, teacher, Shown(paragraphs)))
    assert edge["verdict"] == "supported" and len(teacher.prompts) == 1 and edge["findings"][0]["paragraph"] == "web_1f8b46c5"


def test_a_finding_keeps_all_its_lines():
    shown = exchange("result_hidden")
    row = {"messages": [m for m in shown["exchanges"][1]["request"]["messages"] if m["role"] in ("user", "tool")] + [{"role": "assistant", "content": "<answer>Sixteen \\cite{web_51553dc5}.</answer>"}]}
    first = findings_of(row)[0]
    assert first["id"] == "web_51553dc5" and first["text"].count("\n- ") == 15 and "Mount Rainier" in first["text"] and "Vesuvius" in first["text"]

# the agent and its tools


def test_the_closed_web_answers_a_query_that_no_page_has_in_all_its_words(tmp_path):
    shown = exchange("closed_web_no_results")
    first = next(m for m in shown["exchanges"][0]["request"]["messages"] if m.get("tool_calls"))
    with open_kit(Workspace(tmp_path), KitSettings(tools="batch_web_surfer,todo")) as tools:
        for one in (json.loads(c["function"]["arguments"]) for c in first["tool_calls"] if c["function"]["name"] == "batch_web_surfer"):
            text = call(tools, **one)
            assert "no results" not in text and text.count("Jack Lemmon") > len(one["queries"])
        run_async(tools.call_async({"name": "todo", "arguments": {"action": "create", "texts": ["Family", "Education"]}}))
        answers = [run_async(tools.call_async({"name": c["name"], "arguments": c["arguments"]})).text for c in shown["exchanges"][1]["reply"]["tool_calls"]]
    assert "[x] 2. Education" in answers[0] and "Jack Lemmon" in answers[1] and "error" not in " ".join(answers)   # `status` and `query`, as models write them


def test_search_over_a_folder_gives_passages_and_each_once(pages, tmp_path):
    shown = exchange("captions")
    before = next(m["content"] for m in shown["exchanges"][0]["request"]["messages"] if "climate effect" in str(m["content"]) and m["role"] == "tool" and "\n## " in m["content"])
    queries = re.findall(r"(?m)^## (.*)$", before)
    with provider_kit(Workspace(tmp_path), pages) as tools: text = call(tools, action="batch_search", queries=queries, topk=4)
    said = [line for line in text.splitlines() if len(line) > 60 and not line.startswith("## ")]
    assert queries and all(f"## {query}" in text for query in queries)
    assert not [line for line in said if re.match(r"(?:\S+ ){0,12}Enlarge ", line) or "#copyright" in line]                # captions, navigation
    assert not re.search(r"(?m)^\s*Enlarge\b", text)
    assert len(set(said)) == len(said) and "0.5 °C" in text and ("57 people" in text or "Fifty-seven people" in text)
    assert text.count("file:///Mount_Pinatubo.txt") <= len(queries)


def answer_and_read(pages):
    "The report with one wrong letter in one id, and the paragraphs that had been read: as the pages have them, or as a tool showed them."
    report, said = (exchange("strict_repair")["exchanges"][0]["request"]["messages"][n]["content"] for n in (-2, -1))
    known = dict(re.findall(r"(?m)^(web_\w{8})  (\S+)$", said))
    texts = {one["id"]: one["text"] for m in exchange("captions")["exchanges"][0]["request"]["messages"] if m["role"] == "tool" for one in cited_passages(m["content"])}
    for name in set(known.values()):
        read = run_async(pages.open(f"file:///{name}.txt")).paragraphs
        texts |= {p.id: p.text for p in read}
        texts |= {paragraph_id(p.url, f"{p.text} {after.text}"): p.text for p, after in zip(read, read[1:])} # ids of when a caption at its end was part of it
    return report, {name: Paragraph(name, f"file:///{title}.txt", title, texts.get(name, f"Another passage of {title}.")) for name, title in known.items()}


def test_a_wrong_letter_costs_a_sentence(pages, tmp_path):
    report, read = answer_and_read(pages)
    reply, sent = replied(exchange("strict_repair"), 0), []

    class Model:
        name, settings = "model", SimpleNamespace()
        async def complete(self, messages, tools, max_tokens=None, temperature=None, **more):
            sent.append((list(messages), tools))
            text = report if len(sent) == 1 else reply
            return Reply({"role": "assistant", "content": text}, Usage(10, 10), 0.0, "stop", 0.1)

    tools = Toolbox([], Workspace(tmp_path))
    tools.read = dict(read)
    result = run_async(ResearchAgent(Model(), tools, Workspace(tmp_path), ResearchSettings(strict=True)).run("Compare the eruptions of Pinatubo and St. Helens."))
    assert not result.unknown and len(result.answer) > 0.9 * len(report) and "web_fd72012f" in result.answer and "web_fd72012e" not in result.answer
    if len(sent) > 1:
        wanted = sent[1][0][-1]["content"]
        assert "web_fd72012f" in wanted and "northern hemisphere" in wanted and wanted.count("web_") < 20          # the nearest, with its text; not all 77


def test_sources_show_the_facts_that_are_cited(pages):
    shown = exchange("sources_cut")
    report, read = answer_and_read(pages)
    answer = report.replace("web_fd72012e", "web_fd72012f").removeprefix("<answer>").removesuffix("</answer>")
    sources = [read[name] for name in cited_ids(answer)]
    assert re.search(r"57 deaths", shown["report_claim"])
    text = report_markdown(ResearchResult("Compare the two eruptions.", answer, sources, [], "answered", Spent(), len(read), 0, []))
    quoted = {p.title + p.id: part for p, part in zip(sources, re.split(r"(?m)^\d+\. ", text.partition("## Sources")[2])[1:])}
    passage = " ".join(quoted.values())
    assert "57 people" in passage and re.search(r"0\.4 ?°", passage) and "60,000 people" in passage


@pytest.fixture(scope="module")
def corpus(folder, tmp_path_factory):
    "The same pages as a corpus, under their addresses on the web."
    wiki = tmp_path_factory.mktemp("wiki")
    shutil.copytree(folder, wiki / "plaintext_articles")
    names = sorted(path.stem for path in folder.iterdir())
    (wiki / "articles.tsv").write_text("\n".join(names) + "\n")
    (wiki / "links.tsv").write_text("")
    corpus_build(wiki, wiki / "corpus", workers=1, show=False)
    return StoreProvider(Corpus(wiki / "corpus").store())


def test_the_policy_reads_the_page_that_its_search_found(corpus, tmp_path):
    "The result was hidden behind a tool that was not there and the page refused; the same turns now read it, and the old row is dropped."
    shown = exchange("result_hidden_and_open_refused")
    old = shown["exchanges"][1]["request"]
    first = next(m for m in old["messages"] if m["role"] == "assistant")
    turns = [turn(first["content"], [(call["function"]["name"], call["function"]["arguments"]) for call in first["tool_calls"]])]
    turns += [turn(one["reply"]["content"], [(call["name"], call["arguments"]) for call in one["reply"].get("tool_calls", [])]) for one in shown["exchanges"]]
    task = {"id": "decade", "query": old["messages"][1]["content"], "plan": ["the programme's aims"]}
    with ScriptedModel(turns) as server:
        policy = ChatEndpoint(EndpointSettings(base_url=server.url, model=server.model, backoff=0.0))
        row = run_async(attempt(task, policy, lambda room: provider_kit(room, corpus), tmp_path))
    asked, offered = server.requests[0], [tool["function"]["name"] for tool in row["tools"]]
    assert row["meta"]["ended"] == "answered" and not server.problems and offered == [tool["function"]["name"] for tool in asked["tools"]] and {"file", "todo"} <= set(offered)
    opened = next(m["content"] for m in row["messages"] if m["role"] == "tool" and m["content"].startswith("## https://en.wikipedia.org/wiki/Decade_Volcanoes"))
    assert "The Decade Volcanoes are 16 volcanoes" in opened and "diversion of a lava flow" in opened and not any(m.get("failed") for m in row["messages"])
    kept, dropped = apply_filters([row, {**row, "id": "old", "messages": [*old["messages"], row["messages"][-1]], "tools": [tool for tool in row["tools"] if tool["function"]["name"] in old["tools"]]}], [dead_ends], "rows")[:2]
    assert kept == [row] and dropped[0]["reason"] == "a result names a tool that is not there" and not citation_format([row])[1]
