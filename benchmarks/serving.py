"""The same weights in this process and behind a server: does `stepdr research` give the same episodes at temperature 0?

    python benchmarks/serving.py reports/quick-seed0 --vllm PROGRAM [--model sft] [--tasks 20] [--dtype float32]
    python benchmarks/serving.py reports/quick-seed0 --address http://127.0.0.1:8000/v1#NAME

The first starts a vLLM server (a program of another environment: its versions are not this project's) with a model of a run, and ends it;
the second asks a server that runs. Each of the run's first research tasks of a split is worked on twice over the run's closed web; the messages
are compared one by one, calls by name and arguments, and where a reply differs the log-probabilities of both next tokens are shown, as this process
computes them in fp32: a server that computes in another order, or in bf16, chooses another token where two are nearly as likely, and only there.
With --out episodes are kept, and the same command goes on where it was stopped.
"""
import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
NAME, CONTEXT = "checkpoint", 4096
EPISODE = ["--budget", "turns=8,tool_calls=8", "--reply-tokens", "256", "--context", str(CONTEXT), "--temperature", "0", "--quiet"]


@contextlib.contextmanager
def vllm_server(program, folder, dtype, port, log, seconds=600):
    "Start vLLM with a model's folder; the address once it answers. The server ends with the block."
    command = [program, "serve", str(folder), "--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port), "--dtype", dtype,
               "--enforce-eager", "--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--max-model-len", "8192"]
    own = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "2", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | own
    with open(log, "w") as file, tempfile.TemporaryDirectory() as elsewhere:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=elsewhere, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}/v1/models", server, log, seconds)
            yield f"http://127.0.0.1:{port}/v1#{NAME}"
        finally:
            server.send_signal(signal.SIGINT)  # to it alone: it ends its own processes
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for(url, server, log, seconds):
    "Until the server answers; exits with its last words if it ends before."
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"the server ended:\n{Path(log).read_text()[-2000:]}")
        try:
            return urllib.request.urlopen(url, timeout=2).read()
        except OSError:
            time.sleep(1)
    sys.exit(f"the server does not answer in {seconds} s:\n{Path(log).read_text()[-2000:]}")


def ended(folder) -> bool:
    "Whether the episode of a folder has come to its end."
    state = folder / ".stepdr/episode.json"
    return state.is_file() and bool(json.loads(state.read_text())["ended"])


def episode(model, run, protocol, place, numbered) -> dict:
    "Work on one task by `stepdr research`, unless it is done: what the episode's state holds, with the tokens of its prompts."
    from stepdr.run.cli import main
    number, task = numbered
    folder, said = place / str(number), io.StringIO()
    state, trace = folder / ".stepdr/episode.json", folder / ".stepdr/trace.jsonl"
    if not ended(folder):
        shutil.rmtree(folder, ignore_errors=True)
        command = ["research", task["query"], "--model", str(model), "--web", str(run), "--protocol", str(protocol), "--workspace", str(folder), *EPISODE]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            status = main(command)
        if status not in (0, 1):
            raise SystemExit(f"stepdr research gave {status}: {said.getvalue()[-1000:]}")
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    return {**json.loads(state.read_text()), "prompts": [event["usage"]["prompt"] for event in events if event["event"] == "model"]}


def plain(message) -> dict:
    "A message without the numbers of its calls."
    calls = [{key: call["function"].get(key) for key in ("name", "arguments", "error")} for call in message.get("tool_calls") or []]
    return {"role": message["role"], "content": message.get("content") or "", "reasoning_content": message.get("reasoning_content"), "calls": calls}


def first_difference(here, served):
    "Number of the first message that differs, None if none does."
    pairs = zip([*map(plain, here), None], [*map(plain, served), None])
    return next((number for number, (one, other) in enumerate(pairs) if one != other), None)


def gap(model, renderer, tools, here, served, at) -> str:
    "The two next tokens where a reply differs, with their log-probabilities in this process."
    import torch
    prompt = renderer.prompt(here[:at], tools)
    ours, theirs = (renderer.encode([text for text, own in renderer.pieces(rows[:at + 1], tools) if own][-1]) for rows in (here, served))
    same = next((number for number, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), None)
    if same is None:
        return "the same words, which were read in another way"
    with torch.inference_mode():
        logs_V = torch.log_softmax(model(torch.tensor([prompt + ours[:same]])).logits[0, -1].float(), -1)
    said = " against ".join(f"{renderer.tokenizer.decode([ids[same]])!r} {logs_V[ids[same]]:.4f}" for ids in (ours, theirs))
    return f"token {same + 1} of the reply: {said}, gap {logs_V[ours[same]] - logs_V[theirs[same]]:.4f}"


def report_of(messages) -> str:
    from stepdr.agent.episode import find_answer
    return find_answer(messages[-1]) or "" if messages[-1]["role"] == "assistant" else ""


def compare(folder, tasks, here, served):
    "Print what is the same, and why the rest is not."
    from stepdr.model.base import load_causal
    from stepdr.model.renderer import renderer_for
    from stepdr.tools.toolset import KitSettings, kit_in, open_kit
    from stepdr.agent.protocol import protocol_of
    from stepdr.tools.workspace import Workspace
    places = [first_difference(one["messages"], other["messages"]) for one, other in zip(here, served)]
    reports = [report_of(one["messages"]) == report_of(other["messages"]) for one, other in zip(here, served)]
    prompts = [(one, other) for at, *both in zip(places, here, served) for one, other in common_prompts(at, *both)]
    print(f"transcripts: {places.count(None)} of {len(tasks)} the same, message by message; reports: {sum(reports)} of {len(tasks)}")
    print(f"prompts of the common turns: {sum(one == other for one, other in prompts)} of {len(prompts)} have the same number of tokens")
    if places.count(None) == len(tasks):
        return
    model, tokenizer = load_causal(folder, "cpu")
    renderer = renderer_for(tokenizer)
    with tempfile.TemporaryDirectory() as place, open_kit(Workspace(place), kit_in(KitSettings(), protocol_of(folder))) as kit:
        for task, at, same, one, other in zip(tasks, places, reports, here, served):
            if at is None:
                continue
            rows = one["messages"], other["messages"]
            replies = all(at < len(row) and row[at]["role"] == "assistant" for row in rows)
            why = gap(model.eval(), renderer, kit.schemas, *rows, at) if replies else "no reply of the model: the tools or the loop differ"
            print(f"{task['id']}: message {at}{'; the same report all the same' if same else ''}; {why}")


def common_prompts(at, here, served) -> list[tuple[int, int]]:
    "(tokens here, tokens there) of the prompts that come before the first message that differs."
    turns = sum(row["role"] == "assistant" for row in here["messages"][:at]) + (at is not None)
    return list(zip(here["prompts"], served["prompts"]))[:turns]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run (`stepdr run`)")
    parser.add_argument("--model", default="sft", help="name of a model of the run (default: sft)")
    parser.add_argument("--split", default="dev", help="tasks of this split (default: dev)")
    parser.add_argument("--tasks", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--address", help="a server that runs with this model, as URL#NAME")
    parser.add_argument("--vllm", default="vllm", metavar="PROGRAM", help="vLLM's program (default: vllm)")
    parser.add_argument("--dtype", default="float32", help="type that vLLM computes in (default: float32, as this process does)")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--out", type=Path, help="keep the episodes there (default: they are gone afterwards)")
    parser.add_argument("--parallel", type=int, default=4, help="tasks that the server is asked at a time (default: 4)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends too
    folder = options.run / "models" / options.model
    if not (folder / "config.json").is_file():
        parser.error(f"{folder}: no model here; RUN is the folder of a run, --model the name of one of its models")
    if not options.address and not shutil.which(options.vllm):
        parser.error(f"--vllm {options.vllm}: no such program; install vLLM in an environment of its own and name its program, or give --address")
    rows = [json.loads(line) for line in (options.run / f"data/tasks_{options.split}.jsonl").read_text().splitlines()]
    tasks = [row for row in rows if row["rubrics"]][:options.tasks]
    with tempfile.TemporaryDirectory() as temporary:
        place = (options.out or Path(temporary)).absolute()
        about = {"run": str(options.run.absolute()), "model": options.model, "dtype": options.dtype, "address": options.address}
        if (place / "about.json").is_file() and json.loads((place / "about.json").read_text()) != about:
            parser.error(f"--out {options.out}: holds another comparison; give another folder")
        place.mkdir(parents=True, exist_ok=True)
        (place / "about.json").write_text(json.dumps(about))
        done = all(ended(place / "served" / str(number)) for number in range(len(tasks)))
        server = contextlib.nullcontext(options.address) if options.address or done else vllm_server(
            options.vllm, folder.absolute(), options.dtype, options.port, place / "server.log")
        with server as address, ProcessPoolExecutor(options.parallel, get_context("spawn")) as several:
            served = list(several.map(partial(episode, address, options.run, folder, place / "served"), enumerate(tasks)))
        begun = time.process_time()
        here = [episode(folder, options.run, folder, place / "here", numbered) for numbered in enumerate(tasks)]
        print(f"{len(tasks)} tasks, {sum(len(one['prompts']) for one in here)} replies; CPU time of this process alone: {time.process_time() - begun:.0f} s")
        compare(folder, tasks, here, served)


if __name__ == "__main__":
    main()
