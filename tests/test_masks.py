"Tool tokens are read, never learned from: in the loss, the KL, the entropy and the whitening. And the advantage is what the books say."
import copy
import random
import types
from dataclasses import replace

import pytest
import torch

from stepdr.model.base import make_model, train_tokenizer
from stepdr.model.engine import engine_for
from stepdr.model.batched import Context
from stepdr.core.config import PpoSettings
from stepdr.rl import actor_critic, ppo
from stepdr.rl.advantages import gae, monte_carlo_advantages, whiten
from stepdr.train.loop import pad_batch, token_loss
from stepdr.core.trajectory import END
from stepdr.model.renderer import chatml_text, renderer_for
from stepdr.train.examples import row_ids

torch.set_num_threads(1)
MESSAGES = [
    {"role": "system", "content": "Answer with sources ."},
    {"role": "user", "content": "Who made \"Ariel\" & <b>when</b> ?\n{{ not a template }} Café 東京"},
    {"role": "assistant", "reasoning_content": "plan : director", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "batch_web_surfer", "arguments": {"action": "batch_search", "queries": [" Ariel \"director\"", " Käthe's"], "topk": 2}}},
        {"type": "function", "function": {"name": "todo", "arguments": {"action": "create", "items": []}}}]},
    {"role": "tool", "content": "## Ariel director\nalmanac.example : was made by Aki Kaurismäki \\cite{web_00000001}"},
    {"role": "tool", "content": "nothing to do"},
    {"role": "assistant", "reasoning_content": "", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "batch_web_surfer", "arguments": {"action": "batch_open", "urls": ["films.example/q1"]}}}]},
    {"role": "tool", "content": "error : timed out"},
    {"role": "assistant", "content": "<answer> Aki Kaurismäki \\cite{web_00000001}</answer>"}]

TOOLS = [{"type": "function", "function": {"name": name, "description": f"The tool {name}.", "parameters": {
    "type": "object", "properties": {"action": {"type": "string"}}, "required": ["action"]}}} for name in ("batch_web_surfer", "todo")]


@pytest.fixture(scope="module")
def tokenizer(): return train_tokenizer([chatml_text(MESSAGES, TOOLS)] * 3, 600)


@pytest.fixture(scope="module")
def renderer(tokenizer): return renderer_for(tokenizer)


class Logits:
    "A stand-in for a model: its logits are a tensor that we hold, so that gradients with respect to each position can be read."
    def __init__(self, logits_BTV):
        self.logits_BTV = logits_BTV.clone().requires_grad_()
        self.lm_head, self.config = (lambda x: x), types.SimpleNamespace(model_type="qwen2")

    def model(self, input_ids, **more): return types.SimpleNamespace(last_hidden_state=self.logits_BTV)

    __call__ = model

    @property
    def base_model(self): return self

    def parameters(self): return iter([self.logits_BTV])            # as of any model: says which device it is on


def touched(model, loss): # -> which positions' logits have a gradient
    loss.backward()
    return (model.logits_BTV.grad != 0).any(-1)


def following(mask_T, width): # the position that predicts an own token
    return torch.tensor(mask_T[1:] + [0] * (width - len(mask_T) + 1), dtype=torch.bool)


# ---- one renderer

@pytest.mark.parametrize("count", range(1, len(MESSAGES) + 1))
@pytest.mark.parametrize("prompt", [False, True])
def test_the_tokenizer_and_no_tokenizer_write_the_same_text(tokenizer, renderer, count, prompt):
    text = "".join(text for text, _ in renderer.pieces(MESSAGES[:count], TOOLS, prompt))
    assert tokenizer.apply_chat_template(MESSAGES[:count], tools=TOOLS, tokenize=False, add_generation_prompt=prompt) == text
    if not prompt: assert chatml_text(MESSAGES[:count], TOOLS) == text


def test_render_is_lossless_and_marks_only_what_the_agent_wrote(tokenizer, renderer):
    ids, mask = renderer.render(MESSAGES, TOOLS)
    assert tokenizer.decode(ids) == chatml_text(MESSAGES, TOOLS)
    runs, start = [], 0
    for at in range(1, len(ids) + 1):
        if at == len(ids) or mask[at] != mask[start]: runs.append((mask[start], tokenizer.decode(ids[start:at]))); start = at
    own = [text for m, text in runs if m]
    assert len(own) == 3 and all(text.endswith(END) for text in own) and own[0].startswith("<think>\nplan : director\n</think>\n\n<tool_call>")
    context = "".join(text for m, text in runs if not m)
    for message in MESSAGES:
        if message["role"] != "assistant": assert message["content"] in context
    for tool in TOOLS: assert tool["function"]["description"] in context
    assert "tool_response" not in "".join(own)


# ---- SFT

@pytest.fixture
def batch(tokenizer, renderer):
    "A long and a short rendered row, padded."
    rows = [dict(zip(("input_ids", "labels"), row_ids({"messages": m, "tools": TOOLS}, renderer))) for m in (MESSAGES, MESSAGES[:3])]
    return pad_batch(rows, tokenizer.pad_token_id), [renderer.render(m, TOOLS)[1] for m in (MESSAGES, MESSAGES[:3])]


def test_labels_are_the_agents_tokens(batch):
    (ids_BT, labels_BT), masks = batch
    for ids_T, labels_T, mask in zip(ids_BT, labels_BT, masks):
        own = torch.tensor(mask + [0] * (len(ids_T) - len(mask)), dtype=torch.bool)
        assert torch.equal(labels_T != -100, own) and torch.equal(labels_T[own], ids_T[own])


def test_no_gradient_at_tool_positions_in_sft(batch, tokenizer):
    (ids_BT, labels_BT), masks = batch
    model = Logits(torch.randn(*ids_BT.shape, len(tokenizer), generator=torch.Generator().manual_seed(0)))
    loss, count = token_loss(model, ids_BT, labels_BT)
    assert int(count) == sum(map(sum, masks))
    assert torch.equal(touched(model, loss), torch.stack([following(mask, ids_BT.size(1)) for mask in masks]))


def test_tool_ids_are_no_targets_in_sft(batch, tokenizer):
    "Given the logits, other tool tokens give the same loss; another token of the agent's own does not."
    (ids_BT, labels_BT), masks = batch
    model = Logits(torch.randn(*ids_BT.shape, len(tokenizer), generator=torch.Generator().manual_seed(0)))
    loss, _ = token_loss(model, ids_BT, labels_BT)
    other_BT = torch.where(labels_BT == -100, (ids_BT + 5) % len(tokenizer), ids_BT)
    assert not torch.equal(other_BT, ids_BT) and torch.equal(token_loss(model, other_BT, labels_BT)[0], loss)
    wrong_BT = labels_BT.clone()
    at = (labels_BT[0] != -100).nonzero()[3]
    wrong_BT[0, at] = (wrong_BT[0, at] + 1) % len(tokenizer)
    assert token_loss(model, ids_BT, wrong_BT)[0] != loss


# ---- PPO

SETTINGS = PpoSettings(temperature=0.9, clip=0.2, max_gradient=0.5)


@pytest.fixture(scope="module")
def played():
    "Sampled episodes of several turns with tool text between them, and the small model that played them."
    model, rng = make_model(48, width=32, layers=2, heads=2, seed=0), random.Random(0)
    engine, left = engine_for(model, {2}, temperature=SETTINGS.temperature, seed=1), [3, 1, 2, 4, 2]
    rows, known = [Context() for _ in left], [[rng.randrange(3, 48) for _ in range(4 + 2 * n)] for n in range(5)]
    for number, ids in enumerate(known):
        rows[number].extend(ids)
        engine.add(number, ids, 9)
    while engine.waiting:
        for turn in engine.step():
            rows[turn.key].extend(turn.ids, turn.logprobs)
            left[turn.key] -= 1
            if left[turn.key]:
                more = [rng.randrange(3, 48) for _ in range(4 + turn.key)]
                rows[turn.key].extend(more)
                engine.add(turn.key, more, 9)
    return model, rows


def changed(rows, part): # "ids" or "logprobs" at positions that are not the agent's own
    rows = copy.deepcopy(rows)
    for row in rows:
        for at, own in enumerate(row.mask):
            if not own: getattr(row, part)[at] = (row.ids[at] + 7) % 48 if part == "ids" else 1e6
    return rows


def test_actions_are_the_sampled_tokens(played):
    model, rows = played
    ids_BT, actions_BT = actor_critic.action_batch(rows, 0)
    assert torch.equal(actions_BT, torch.stack([following(row.mask, ids_BT.size(1)) for row in rows]))
    taken = ids_BT.roll(-1, 1)[actions_BT].tolist()
    assert taken == [i for row in rows for i, own in zip(row.ids, row.mask) if own]
    assert sum(len(row.mask) - sum(row.mask) for row in rows) > 40          # there is something to leave out


def test_log_probabilities_are_those_of_the_sampler(played):
    "With the sampler's own model the ratio of the first update is 1 on every action, so nothing is clipped."
    model, rows = played
    logits_NV, _ = actor_critic.action_outputs(model, rows, 0)
    logs_N, _ = actor_critic.action_logs(logits_NV, actor_critic.action_ids(rows), SETTINGS.temperature)
    sampled = torch.tensor([log for row in rows for log, own in zip(row.logprobs, row.mask) if own])
    assert torch.allclose(logs_N, sampled, atol=1e-4)


@pytest.mark.parametrize("quantity", ["policy loss", "entropy", "kl"])
def test_no_gradient_at_tool_positions_in_ppo(played, quantity):
    _, rows = played
    ids_BT, actions_BT = actor_critic.action_batch(rows, 0)
    model = Logits(torch.randn(*ids_BT.shape, 48, generator=torch.Generator().manual_seed(0)))
    logs_N, entropy_N = actor_critic.action_logs(actor_critic.action_outputs(model, rows, 0)[0], actor_critic.action_ids(rows), SETTINGS.temperature)
    count = int(actions_BT.sum())
    assert len(logs_N) == len(entropy_N) == count == sum(sum(row.mask) for row in rows)
    generator = torch.Generator().manual_seed(2)
    value = {"policy loss": lambda: ppo.policy_loss(logs_N, logs_N.detach(), torch.randn(count, generator=generator), SETTINGS.clip)[0],
             "entropy": entropy_N.sum, "kl": lambda: (torch.zeros(count) - logs_N).sum()}[quantity]()
    assert torch.equal(touched(model, value), actions_BT)


@pytest.mark.parametrize("part", ["ids", "logprobs"])
def test_tool_tokens_change_nothing_given_the_logits(played, part):
    "Loss, entropy and KL with other tool tokens, or with nonsense for their log-probabilities."
    _, rows = played
    def measured(rows):
        ids_BT, actions_BT = actor_critic.action_batch(rows, 0)
        model = Logits(torch.randn(*ids_BT.shape, 48, generator=torch.Generator().manual_seed(0)))
        logs_N, entropy_N = actor_critic.action_logs(actor_critic.action_outputs(model, rows, 0)[0], actor_critic.action_ids(rows), 1.0)
        old_N = torch.tensor([log for row in rows for log, own in zip(row.logprobs, row.mask) if own])
        loss, clipped = ppo.policy_loss(logs_N, old_N, torch.linspace(-1, 1, len(old_N)), 0.2)
        return [loss, clipped, entropy_N.sum(), (actor_critic.sampled_logs(rows) - logs_N).sum()]
    for before, after in zip(measured(rows), measured(changed(rows, part))): assert torch.equal(before, after)


def test_updates_do_not_see_the_tools_log_probabilities(played):
    "Whole optimiser steps of policy and critic: the same weights whatever stands in the rows' tool positions."
    model, rows = played
    def updated(rows):
        policy = copy.deepcopy(model)
        critic = actor_critic.Critic(policy)
        batch = [(row, (torch.linspace(-1, 1, sum(row.mask)), 0.5)) for row in rows]
        ppo.update_policy(policy, torch.optim.SGD(policy.parameters(), 0.1), [batch], settings=SETTINGS, pad=0)
        ppo.update_critic(critic, torch.optim.SGD(critic.parameters(), 0.1), [[(row, 0.5) for row in rows]], settings=SETTINGS, pad=0)
        return [*policy.parameters(), *critic.parameters()]
    before, after = updated(rows), updated(changed(rows, "logprobs"))
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


@pytest.mark.parametrize("lower", [0, 1])
def test_openings_computed_once_update_alike(played, lower):
    "Whole optimiser steps of policy and critic end with the same weights, whether episodes that begin alike share that or not."
    model, rows = played
    begin = {"ids": [5, 6, 7, 8, 9, 10], "mask": [0, 0, 0, 1, 1, 0], "logprobs": [0.0, 0.0, 0.0, -3.0, -4.0, 0.0]}
    rows = [replace(row, **{name: part + getattr(row, name) for name, part in begin.items()}, lower=None, states=[]) for row in rows]
    actor_critic.complete_states(model, rows, 0, actor_critic.Saving(lower))
    def updated(share):
        policy, saving = copy.deepcopy(model), actor_critic.Saving(lower, share)
        critic = actor_critic.Critic(policy, saving)
        worth = [(row, (torch.linspace(-1, 1, sum(row.mask)), 0.5 / number)) for number, row in enumerate(rows, 1)]
        ppo.update_policy(policy, torch.optim.SGD(policy.parameters(), 0.1), [worth], settings=SETTINGS, pad=0, saving=saving)
        ppo.update_critic(critic, torch.optim.SGD(critic.parameters(), 0.1), [[(row, pay) for row, (_, pay) in worth]], settings=SETTINGS, pad=0)
        return [*policy.parameters(), *critic.parameters()]
    apart, shared = updated(0), updated(4)
    assert len(actor_critic.in_one_sequence([actor_critic.unlearned(row) for row in rows], 4)[0]) < sum(len(row.ids) for row in rows)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(apart, shared))
    assert any(not torch.equal(a, b) for a, b in zip(apart, model.parameters()))


def test_the_critic_speaks_only_before_actions(played):
    model, rows = played
    values = actor_critic.estimate_values(actor_critic.Critic(model), rows, 0, tokens=80)
    assert [len(v) for v in values] == [sum(row.mask) for row in rows]


def test_whitening_is_over_actions_alone(played):
    "Mean 0 and deviation 1 over the actions; padding or tool positions counted as zeros would give other numbers."
    _, rows = played
    generator = torch.Generator().manual_seed(3)
    parts = [torch.randn(sum(row.mask), generator=generator) * 3 + 1 for row in rows]
    flat = torch.cat(parts)
    white = whiten(flat)
    assert torch.allclose(white, (flat - flat.mean()) / flat.std(unbiased=False), atol=1e-5)
    with_tools = torch.cat([flat, torch.zeros(sum(len(row.mask) - sum(row.mask) for row in rows))])
    assert not torch.allclose(whiten(with_tools)[:len(flat)], white, atol=1e-2)


# ---- advantages

@pytest.mark.parametrize("length", [1, 2, 7, 200])
def test_advantage_equals_the_closed_form(length):
    generator = torch.Generator().manual_seed(length)
    rewards, values = torch.randn(2, length, generator=generator, dtype=torch.double)
    assert torch.allclose(gae(rewards, values), monte_carlo_advantages(rewards, values), atol=1e-9)
    by_hand = torch.stack([rewards[t:].sum() - values[t] for t in range(length)])
    assert torch.allclose(gae(rewards, values, 1.0, 1.0), by_hand, atol=1e-9)


def test_a_terminal_reward_reaches_every_action():
    values = torch.tensor([0.1, -0.4, 0.3, 0.9])
    assert torch.allclose(gae(torch.tensor([0.0, 0, 0, 0.7]), values), 0.7 - values)


@pytest.mark.parametrize("gamma", [1.0, 0.99, 0.5, 0.0])
@pytest.mark.parametrize("lam", [1.0, 0.95, 0.3, 0.0])
def test_recursion_equals_the_double_sum(gamma, lam):
    "Equation 16 of Schulman et al. 2016, term by term; the value after the last action is 0."
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 25, generator=generator, dtype=torch.double)
    following = values.tolist()[1:] + [0.0]
    wanted = [sum((gamma * lam) ** (later - t) * (rewards[later] + gamma * following[later] - values[later]) for later in range(t, 25)) for t in range(25)]
    assert torch.allclose(gae(rewards, values, gamma, lam), torch.stack(wanted), atol=1e-9)
