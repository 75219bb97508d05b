"Makers, clients and policies that the engine's tests send to other processes."
import asyncio
import json
import os
import signal
import sys
import time

from stepdr.core.artifacts import root
from stepdr.core.outcomes import Answer, SetAside, Work
from stepdr.core.config import InputError
from stepdr.core.usage import Usage
from stepdr.core.replies import Reply
from stepdr.tools.tool import ToolError
from stepdr.tools.providers import Provider


async def halve(item, rng, language, least=0):
    "Even numbers become a row that holds a draw, odd ones are set aside; the order in which they end is not theirs."
    await asyncio.sleep(0.0001 * (item["value"] % 7))
    if item["value"] < least: raise SetAside("unfit", "too small")
    if item["value"] % 2: return {"id": item["id"], "reason": "odd", "measure": item["value"]}
    return [{"id": f"{item['id']}-{part}", "half": item["value"] // 2, "draw": rng.random(), "language": language, "text": "半\ud800"} for part in range(1 + item["value"] % 3)]


def double(item, rng):
    "An ordinary function."
    return {"id": item["id"], "double": item["value"] * 2, "draw": rng.random()}


def slow(item, log, seconds=0.01):
    "Notes what it works on, and takes its time."
    with open(log, "a") as file: file.write(f"{item['id']} {os.getpid()}\n")
    time.sleep(seconds)
    return {"id": item["id"], "pad": "x" * 50}


async def deadly(item, when="always", folder=""):
    "Item n37 kills the process that works on it, each time or once."
    await asyncio.sleep(0.001)
    if item["id"] == "n37" and (when == "always" or not os.path.exists(f"{folder}/died")):
        if folder: open(f"{folder}/died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"id": item["id"]}


async def wrong(item, least=5, from_item=0):
    "Item n5 fails as makers must not; with `least=0` all from a number on do."
    if item["id"] == f"n{least}" or (not least and item["value"] >= from_item): return {"id": item["nothing"]}
    return {"id": item["id"]}


class Odd(Exception):
    "An exception that cannot be shown."
    def __str__(self): raise RuntimeError("no text")


def deeper(item): return deeper(item)


def raises_now(item):
    "The first dozen items fail, each in its own way."
    number = item["value"]
    if number == 0: return item["nothing"]
    if number == 1: return item + 1
    if number == 2: assert number > 2
    if number == 3: return deeper(item)
    if number == 4: raise InputError("client.key: is missing; set it")
    if number == 5: raise asyncio.CancelledError()
    if number == 6: sys.exit(3)
    if number == 7: return {"id": item["id"], "set": {1, 2}}
    if number == 8: return [3]
    if number == 9: raise ExceptionGroup("several", [ValueError("the first of two"), KeyError("the second")])
    if number == 10: return json.loads("{")
    if number == 11: raise Odd()
    return {"id": item["id"]}


async def raises(item):
    await asyncio.sleep(0)
    return raises_now(item)


def raises_once(item, log):
    "Item n23 fails the first time."
    with open(log, "a") as file: file.write(f"{item['id']}\n")
    with open(log) as file: assert item["id"] != "n23" or file.read().split().count("n23") > 1
    return {"id": item["id"]}


def broken_client(): return os.environ["SECRET_PLACE"]


async def asks(item, client, language, words=3):
    "Asks its teacher."
    reply = await client.ask("anything", None, language, text=item["id"])
    return {"id": item["id"], "reply": reply.value["text"], "words": words}


def steps(item, workspace, log, until=""):
    "Works in two steps; is killed after the first one of n3, if it was told so, and finds it again."
    first = workspace / "first"
    if not first.exists():
        with open(log, "a") as file: file.write(f"{item['id']}\n")
        first.write_text(item["id"])
        if item["id"] == until: os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)
    return {"id": item["id"], "first": first.read_text()}


def tries(item):
    "A task and two attempts at it."
    return [{"id": item["id"]}, *({"id": f"{item['id']}-{n}", "maker": "attempt"} for n in range(2))]


async def checks(item, client, language):
    "Asks a real prompt."
    reply = await client.ask("verify_statement", None, language, statement=item["statement"], paragraphs=[])
    return {"id": item["id"], **reply.value}


class Echo:
    "A teacher without a network."
    async def ask(self, name, schema=None, language="en", draw=0, **values):
        await asyncio.sleep(0)
        if values["text"].endswith("3"): raise SetAside("refusal", "the teacher refused", Work(replies=["I'm sorry."]))
        return Answer({"text": f"{language} {values['text']}"}, Work())


def is_small(item, least=0): return item if item.get("half", item.get("double", 0)) >= least else {**item, "reason": "small"}


class Guesses:
    "A policy that answers at once, always the same."
    name = "guesses"
    async def complete(self, messages, tools=None, max_tokens=None, temperature=None, on_text=None, **more):
        return Reply({"role": "assistant", "content": "<answer>\nAtlantis\n</answer>"}, Usage(10, 5), 0.0, "stop", 0.0, 1, "guesses")


class ClosedAndCorpus(Provider):
    "The closed web and, beside it, the corpus that TEST_CORPUS names."
    local = True
    def __init__(self):
        from stepdr.tools.providers import ClosedWebProvider, StoreProvider
        from stepdr.world.closed_web import ClosedWeb
        from stepdr.synthesis.documents import Corpus
        from stepdr.world.facts import load_graph
        self.both = [StoreProvider(Corpus(os.environ["TEST_CORPUS"]).store()), ClosedWebProvider(ClosedWeb(load_graph(root() / "data" / "kg")))]

    async def search(self, query, topk=10, **filters):
        found = [await one.search(query, topk, **filters) for one in self.both]
        return [hit for hits in found for hit in hits[:topk]][:topk]

    async def open(self, url):
        for one in self.both:
            try:
                if document := await one.open(url): return document
            except ToolError: pass
