"""Real exchanges with a strong model, replayed with the replies that it gave: its honest work is kept, found, shown and cited.

The exchanges lie beside the checkout; each fault that they show has tests with material of their own where its code is tested.
"""
import json
import re
import tarfile
from types import SimpleNamespace

import pytest

from stepdr.artifacts import root
from stepdr.client import TeacherClient
from stepdr.llm import Usage
from stepdr.synthesis.seeking import check_edge
from stepdr.synthesis.verification import verification_row
from stepdr.synthesis.writing import findings_of
from stepdr.tools.base import run_async
from stepdr.tools.search import FolderProvider, Provider, SearchHit, folder_store
from stepdr.world.paragraphs import Paragraph

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


class Recorded(TeacherClient):
    "A teacher whose model gives the replies that were recorded for each prompt, in order; all checks of a reply are the client's own."
    def __init__(self, **replies):
        super().__init__(SimpleNamespace(name="recorded"))
        self.replies, self.prompts = {name: list(texts) for name, texts in replies.items()}, []

    async def fetch(self, request, name):
        self.prompts.append((name, request["messages"]))
        return {"request": request, "prompt": name, "model": "recorded", "reply": self.replies[name].pop(0), "finish": "stop", "usage": Usage(), "cost": 0.0}


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


# synthesis

def test_a_check_that_stays_open_becomes_a_row():
    shown = exchange("verification_crash")
    statement, paragraphs = tagged(asked(shown, 0), "statement"), paragraphs_in(tagged(asked(shown, 0), "paragraphs"))
    teacher = Recorded(extract_statements=[json.dumps({"statements": [{"quote": statement, "statement": statement, "worth": "check"}]})],
                       plan_checks=[json.dumps({"supports": "Accounts that name the victims.", "refutes": "Accounts of other victims.", "queries": ["Mount Unzen 1991 victims", "Unzen 43 deaths who"]})],
                       verify_statement=[replied(shown, 0)], report_checks=[replied(shown, 1)], judge_conclusion=[replied(shown, 2)])
    row = run_async(verification_row({"id": "unzen", "paragraph": statement}, teacher, Shown(paragraphs), rounds=1))
    assert "reason" not in row, row
    assert row["meta"]["verdict"] == "doubtful" and [one["verdict"] for one in row["meta"]["statements"]] == ["doubtful"]
    assert "Who the 43 were" in row["messages"][-1]["reasoning_content"]          # what is missing is kept with the thought


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
