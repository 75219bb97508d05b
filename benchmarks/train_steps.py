"""Ways to the same step: what a token costs, and whether loss and gradients are the same.

    python benchmarks/train_steps.py [--model DIR] [--freeze 2] [--rounds 2]

Steps of a plan (rows of like length, `--tokens` at most) go forward and backward in each way, in turns, in one
process; no weight is changed. Without `--model` the model has the shape of SmolLM2-135M with 4 of its 30 blocks and
as small a share of its words, random, so that the parts of a step keep their proportions at 2/15 of the cost; rows
are random ids that begin alike. Each way's best round counts, in seconds of the process's CPU time with one thread;
tokens are those of the rows, an opening counted in each. Loss and gradients are held against those of transformers'
own forward pass, a row at a time.
"""
import argparse
import os
import random
import time

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def random_rows(vocabulary, opening, count=400, seed=0):
    "Rows of 400 to 1,500 tokens that begin alike; after that runs of tokens are learned, 28 % of all."
    rng = random.Random(seed)
    begin, rows = [rng.randrange(vocabulary) for _ in range(opening)], []
    for _ in range(count):
        ids, labels = list(begin), [-100] * opening
        while len(ids) < max(400, rng.gauss(880, 260)) and len(ids) < 1500:
            own = [rng.randrange(vocabulary) for _ in range(rng.randint(60, 140))]
            cut = round(0.64 * len(own))
            ids += own
            labels += [-100] * cut + own[cut:]
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def small_model():
    "SmolLM2-135M's shape with 4 of 30 blocks and 6,553 of 49,152 words."
    from transformers import LlamaConfig, LlamaForCausalLM
    return LlamaForCausalLM(LlamaConfig(vocab_size=6553, hidden_size=576, intermediate_size=1536, num_hidden_layers=4,
                                        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
                                        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None))


def own_loss(model, rows, pad, device):
    "transformers' loss, a row at a time."
    import torch
    parts = []
    for row in rows:
        count = sum(label != -100 for label in row["labels"][1:])
        seen = model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]]))
        parts.append((count, seen.loss * count))
    return sum(loss for _, loss in parts), torch.tensor(sum(count for count, _ in parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model; a random one of SmolLM2's shape if not given")
    parser.add_argument("--freeze", type=int, default=2, help="lower blocks that stay as they are")
    parser.add_argument("--tokens", type=int, default=2048, help="padded tokens of a step")
    parser.add_argument("--opening", type=int, default=188, help="tokens with which all rows begin")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of each way")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 3], help="rows of a step: one step of each kind")
    given = parser.parse_args()
    import torch
    import transformers
    from stepdr.model.base import load_causal
    from stepdr.train.loop import epoch_batches, row_loss
    from stepdr.train.savings import freeze_lower, loss_in, sharing_loss
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = load_causal(given.model, "cpu")[0] if given.model else small_model()
    freeze_lower(model, given.freeze)
    model.train()
    rows = random_rows(model.config.vocab_size, given.opening)
    lengths = [len(row["input_ids"]) for row in rows]
    batches = [batch for (batch,) in epoch_batches(lengths, given.tokens, 0, 0)]
    ways = {"transformers, a row at a time": own_loss, "padded rows": row_loss, "behind one opening": sharing_loss(100),
            "... in bf16": loss_in("bf16", sharing_loss(100))}

    def once(way, batch):
        "(CPU seconds, loss a label, gradients)"
        model.zero_grad()
        began = time.process_time()
        loss, count = way(model, [rows[i] for i in batch], 0, "cpu")
        (loss / count).backward()
        seconds = time.process_time() - began
        gradients = [one.grad.flatten() for one in model.parameters() if one.grad is not None]
        return seconds, float(loss.detach() / count), torch.cat(gradients)

    print(f"{len(batches)} steps of {sum(lengths) / len(batches):.0f} tokens of rows; torch {torch.__version__}, "
          f"transformers {transformers.__version__}", flush=True)
    for size in given.rows:
        batch, best, exact = next(batch for batch in batches if len(batch) == size), {}, None
        for _ in range(given.rounds):
            for name, way in ways.items():
                seconds, loss, gradient = once(way, batch)
                exact = gradient if exact is None else exact
                off = float((gradient - exact).norm() / exact.norm())
                best[name] = min(best.get(name, (float("inf"),)), (seconds, loss, off), key=lambda one: one[0])
        tokens = sum(lengths[i] for i in batch)
        for name, (seconds, loss, off) in best.items():
            print(f"{size} rows, {tokens} tokens  {name:<30} {tokens / seconds:7.0f} tokens/CPU s   loss {loss:.5f}   "
                  f"gradients off by {off:.1e}", flush=True)


if __name__ == "__main__": main()
