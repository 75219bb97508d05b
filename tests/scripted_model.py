"""A real HTTP server that speaks the OpenAI chat API and plays a scripted model, with faults.

    with ScriptedModel([turn("", calls=[("todo", {"action": "clear"})]), turn("<answer>42</answer>")], faults={0: "429", 2: "cut"}) as server:
        endpoint = ChatEndpoint(EndpointSettings(base_url=server.url, model=server.model))

The model is a list of turns, played in order (a turn is done when it was answered whole), or a function `messages -> turn`. `faults` maps the number of
a request (0, 1, ...) to what goes wrong with it, or is a function `number -> fault or None`. `requests` holds every request's JSON, `headers` its headers,
`billed` the tokens that the server reported (the bill is right if the client's count equals it), `spent` all it worked for.
With `limit` the model has that many positions and what does not fit is refused in the words of vLLM 0.32 (`kind="vllm"`), which cuts a reply that is within the limit to
what the prompt leaves; of vLLM before 0.12 (`"old vllm"`), which refuses that too; or of llama.cpp (`"llama.cpp"`), which refuses prompts alone. `tell` says whether /v1/models names the limit.
`own` maps further paths to their JSON.
"""
import asyncio
import json
import threading
from dataclasses import dataclass

from aiohttp import web

FAULTS = {  # name -> what it does
    "429": "busy; '429:0.2' asks to wait that many seconds by Retry-After", "500": "as any other three digits: that status with a JSON error",
    "cut": "the connection breaks in the middle of the stream", "cut_clean": "the stream ends in the middle as if it were whole",
    "cut_usage": "as cut, after the server reported the tokens so far", "garbage": "broken JSON in the middle of the stream", "html": "a proxy's page with status 200",
    "error_event": "an error in the middle of the stream", "slow": "a byte or two at a time, whole in the end", "hang": "headers, then nothing until the client goes",
    "drop": "the connection closes without an answer", "empty": "no choices, but tokens are reported", "no_usage": "all is well, but no tokens are reported",
    "wrong_types": "valid JSON whose fields have the wrong types", "endless": "a line that never ends"}


def turn(content="", calls=(), reasoning=None, finish=None, usage=None):
    "One turn: content, calls [(name, arguments as dict or raw text)], reasoning, finish reason, and (prompt, completion, cached) to report instead of the counted ones."
    return {"content": content, "calls": list(calls), "reasoning": reasoning, "finish": finish, "usage": usage}


def count(value):
    "Tokens of a JSON value by this server's own rule: one for every four characters begun of its text."
    return -(-len(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) // 4)


def dumps(value):
    "JSON with characters as they are, as most servers send it; half a character only fits as an escape."
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


@dataclass
class Bill:
    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def add(self, usage):
        self.prompt += usage["prompt_tokens"]; self.completion += usage["completion_tokens"]; self.cached += usage["prompt_tokens_details"]["cached_tokens"]


class ScriptedModel:
    def __init__(self, turns, faults=None, model="scripted", reasoning_field="reasoning_content", strict=None, key=None, piece=5, transcript="spoken words", models=None,
                 limit=0, kind="vllm", tell=True, own=None):
        self.turns, self.faults, self.model, self.field, self.strict, self.key, self.piece = turns, faults or {}, model, reasoning_field, strict or {}, key, piece
        self.transcript, self.models = transcript, models or [model]
        self.requests, self.headers, self.played, self.billed, self.spent, self.problems, self.audio = [], [], 0, Bill(), Bill(), [], []
        self.limit, self.server_kind, self.tell, self.own = limit, kind, tell, own or {}
        self.seen = ""  # longest prompt so far: its common beginning counts as cached

    # life
    def __enter__(self):
        self.loop, ready = asyncio.new_event_loop(), threading.Event()
        def run():
            asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(self._start()); ready.set(); self.loop.run_forever()
        self.thread = threading.Thread(target=run, daemon=True); self.thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop); self.thread.join(10)

    async def _start(self):
        app = web.Application(client_max_size=64_000_000)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/audio/transcriptions", self._speech)
        for path in self.own: app.router.add_route("*", path, self._own)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    @property
    def url(self): return f"http://127.0.0.1:{self.port}/v1"

    # answers
    def _refuse(self, status, text, fields=None, **headers):
        return web.json_response({"error": {"message": text, "type": "error", "code": status, **(fields or {})}}, status=status, headers=headers)

    def _too_much(self, body):
        "The refusal of a request that does not fit, or None."
        field = next((name for name in ("max_completion_tokens", "max_tokens") if body.get(name)), "")
        asked, prompt, limit = body.get(field, 0) if field else 0, self._prompt(body), self.limit
        if not limit: return None
        if self.server_kind == "llama.cpp":
            return self._refuse(400, f"request ({prompt} tokens) exceeds the available context size ({limit} tokens), try increasing it",
                                {"type": "exceed_context_size_error", "n_prompt_tokens": prompt, "n_ctx": limit}) if prompt >= limit else None
        if asked > limit and self.server_kind == "vllm":
            return self._refuse(400, f"{field}={asked} cannot be greater than max_model_len={limit}. Please request fewer output tokens. (parameter={field}, value={asked})", {"type": "BadRequestError", "param": field})
        if prompt > limit:
            return self._refuse(400, f"This model's maximum context length is {limit} tokens. However, your prompt contains at least {limit + 1} input tokens, which exceeds this limit even without any output "
                                     f"tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value={limit + 1})", {"type": "BadRequestError", "param": "input_tokens"})
        if prompt + asked > limit and self.server_kind == "old vllm":
            return self._refuse(400, f"'max_tokens' or 'max_completion_tokens' is too large: {asked}. This model's maximum context length is {limit} tokens and your request has {prompt} input tokens "
                                     f"({asked} > {limit} - {prompt}).", {"type": "BadRequestError"})
        return None

    def _prompt(self, body): return count(json.dumps([body["messages"], body.get("tools")], ensure_ascii=False))

    def _cut(self, body, played):
        "A turn as far as the reply's limit and the model's positions let it come; what is cut off a call is lost."
        asked = body.get("max_completion_tokens") or body.get("max_tokens") or self.limit
        most = min(asked, self.limit - self._prompt(body)) if self.limit else asked
        wrote = count(played["content"]) + count(played["reasoning"] or "") + sum(count(a) + count(n) for n, a in played["calls"])
        if not self.limit or wrote <= most: return played
        return {**played, "content": played["content"][:4 * max(0, most - count(played["reasoning"] or ""))], "calls": [], "finish": "length"}

    def _wrong(self, request, body):
        "What a strict server refuses: a wrong key, model, field or message; None if all is well."
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}": return self._refuse(401, f"Incorrect API key provided: {request.headers.get('Authorization', '')[7:]}")
        if body["model"] not in self.models: return self._refuse(404, f"The model `{body['model']}` does not exist.")
        if (refusal := self._too_much(body)) is not None: return refusal
        for field, text in self.strict.items():
            if field in body: return self._refuse(400, text)
        waiting = []
        for message in body["messages"]:
            if message["role"] == "tool":
                if message.get("tool_call_id") not in waiting or not isinstance(message["content"], str): return self._refuse(400, "a tool message answers no call")
                waiting.remove(message["tool_call_id"])
            elif waiting: return self._refuse(400, f"no tool message for {waiting}")
            for call in message.get("tool_calls") or []:
                json.loads(call["function"]["arguments"]); waiting.append(call["id"])
        return self._refuse(400, f"no tool message for {waiting}") if waiting else None

    def _usage(self, body, played):
        "Exact tokens of a request and its turn; the beginning shared with an earlier prompt is cached, in blocks of 16."
        if played["usage"]: prompt, completion, cached = played["usage"]
        else:
            text = json.dumps([body["messages"], body.get("tools")], ensure_ascii=False)
            shared = next((i for i, (a, b) in enumerate(zip(text, self.seen)) if a != b), min(len(text), len(self.seen)))
            prompt, cached = count(text), shared // 4 // 16 * 16
            completion = count(played["content"]) + count(played["reasoning"] or "") + sum(count(a) + count(n) for n, a in played["calls"])
            self.seen = text
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, "prompt_tokens_details": {"cached_tokens": cached}}

    def _report(self, usage):
        self.billed.add(usage)
        return usage

    async def _next(self, messages):
        "The turn to play; a function runs in a thread of its own, so that one that takes its time holds up nobody else, nor the end."
        if not callable(self.turns): return self.turns[min(self.played, len(self.turns) - 1)]
        done = self.loop.create_future()
        def settle(method, value):
            if not done.done(): getattr(done, method)(value)
        def work():
            try: outcome = "set_result", self.turns(messages)
            except Exception as error: outcome = "set_exception", error
            if not self.loop.is_closed(): self.loop.call_soon_threadsafe(settle, *outcome)
        threading.Thread(target=work, daemon=True).start()
        return await done

    async def _own(self, request): return web.json_response(self.own[request.path])

    async def _models(self, request):
        told = {"max_model_len": self.limit} if self.limit and self.tell and self.server_kind != "llama.cpp" else {}
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model", **told} for name in self.models]})

    async def _speech(self, request):
        form = await request.post()
        self.audio.append({"model": form["model"], "name": form["file"].filename, "bytes": form["file"].file.read(), "language": form.get("language")})
        usage = {"prompt_tokens": 20, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 0}}
        self._report(usage)
        return web.json_response({"text": self.transcript, "usage": {"type": "tokens", "input_tokens": 20, "output_tokens": 4, "total_tokens": 24}})

    async def _chat(self, request):
        body, number = await request.json(), len(self.requests)
        self.requests.append(body); self.headers.append(dict(request.headers))
        if (wrong := self._wrong(request, body)) is not None:
            self.problems.append(wrong.text)
            return wrong
        fault = (self.faults(number) if callable(self.faults) else self.faults.get(number)) or ""
        if fault[:3].isdigit():
            wait = fault.partition(":")[2]
            return self._refuse(int(fault[:3]), f"scripted fault {fault}", **({"Retry-After": wait} if wait else {}))
        if fault == "html": return web.Response(text="<html><body>Bad gateway, try again</body></html>", content_type="text/html")
        if fault == "drop": request.transport.abort(); return web.Response()
        played = self._cut(body, await self._next(body["messages"]))
        usage = self._usage(body, played)
        self.spent.add(usage)
        if body.get("stream"): return await self._stream(request, body, played, usage, fault)
        return await self._whole(request, played, usage, fault)

    def _calls(self, played):
        return [{"id": f"call_{self.played}_{i}", "type": "function", "function": {"name": name, "arguments": a if isinstance(a, str) else json.dumps(a, ensure_ascii=False)}}
                for i, (name, a) in enumerate(played["calls"])]

    def _finish(self, played): return played["finish"] or ("tool_calls" if played["calls"] else "stop")

    async def _whole(self, request, played, usage, fault):
        message = {"role": "assistant", "content": played["content"] or None}
        if played["reasoning"] is not None: message[self.field] = played["reasoning"]
        if played["calls"]: message["tool_calls"] = self._calls(played)
        answer = {"id": "x", "object": "chat.completion", "model": self.model, "choices": [{"index": 0, "message": message, "finish_reason": self._finish(played)}]}
        if fault != "no_usage": answer["usage"] = usage
        if fault == "empty": answer["choices"] = []
        if fault == "wrong_types": answer["choices"] = [{"message": ["x"], "finish_reason": 3}]
        data = json.dumps(answer).encode()
        if fault == "garbage": return web.Response(body=data[:len(data) // 2], content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(data))})
        await response.prepare(request)
        if fault == "hang": await asyncio.sleep(3600)
        if fault.startswith("cut"): await response.write(data[:len(data) // 2]); request.transport.abort(); return response
        if fault != "no_usage": self._report(usage)
        if fault not in ("empty", "wrong_types"): self.played += 1
        await self._write(response, data, fault)
        return response

    async def _write(self, response, data, fault):
        if fault != "slow": return await response.write(data)
        for start in range(0, len(data), 23): await response.write(data[start:start + 23]); await asyncio.sleep(0.002)

    def _deltas(self, played):
        "The pieces of a stream, as vendors send them: role, reasoning, content, then each call's name and its arguments in parts."
        def cut(text): return [text[i:i + self.piece] for i in range(0, len(text), self.piece)]
        yield {"role": "assistant", "content": ""}
        for text in cut(played["reasoning"] or ""): yield {self.field: text, "content": None}
        for text in cut(played["content"]): yield {"content": text}
        for index, call in enumerate(self._calls(played)):
            yield {"tool_calls": [{"index": index, **call, "function": {"name": call["function"]["name"], "arguments": ""}}]}
            for text in cut(call["function"]["arguments"]): yield {"tool_calls": [{"index": index, "function": {"arguments": text}}]}

    async def _stream(self, request, body, played, usage, fault):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async def event(data):
            await self._write(response, f"data: {data if isinstance(data, str) else dumps({'id': 'x', 'object': 'chat.completion.chunk', 'model': self.model, **data})}\n\n".encode(), fault)
        if fault == "hang": await asyncio.sleep(3600)
        if fault == "endless":
            while True: await response.write(b"x" * 1_000_000)
        deltas = list(self._deltas(played))
        for number, delta in enumerate(deltas if fault != "empty" else []):
            if number == len(deltas) // 2:
                if fault == "cut_usage": await event({"choices": [], "usage": self._report(usage)})
                if fault in ("cut", "cut_usage"): await asyncio.sleep(0.01); request.transport.abort(); return response
                if fault == "cut_clean": return response
                if fault == "garbage": await event('{"choices": [{"delta": {"content": "half')
                if fault == "error_event": await event({"error": {"message": "the engine died", "code": 500}})
                if fault == "wrong_types": await event({"choices": {"delta": 7}, "usage": [1]}); await event({"choices": ["x"]})
            await event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        if fault != "empty": await event({"choices": [{"index": 0, "delta": {}, "finish_reason": self._finish(played)}]})
        asked = (body.get("stream_options") or {}).get("include_usage")
        if asked and fault != "no_usage": await event({"choices": [], "usage": self._report(usage)})
        if fault not in ("empty", "garbage", "error_event", "wrong_types"): self.played += 1
        await event("[DONE]")
        return response
