"""A knowledge graph of Wikidata5m's size: from text to arrays on disk, opened again, and subgraphs drawn from it, beside igraph.

    python benchmarks/graph.py [--scale 1.0] [--load-scale 0.1] [--samples 20000] [--rounds 3]

The graph is generated: 4.6M nodes and 21M triples at scale 1, heads even, tails by a power law, ids such as Q123 spread to 60M. Building runs in a
process of its own, whose CPU time and peak memory are shown. igraph gets the finished arrays for the drawing (what it needs to read text is measured at
--load-scale, beside ours at the same size) and draws by the same rules: breadth first in random order from a seed of 3 to 10 edges to 10 to 40 nodes, nodes of more than
1000 edges are leaves; then the edges between the nodes. Seconds are CPU seconds of one core; rounds take turns and the best counts.
"""
import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"IN_TEST": "1", "OMP_NUM_THREADS": "1"}
import numpy as np


def generate(path, nodes, triples, separator="\t", letters=("Q", "P")):
    "A power-law graph as text: the popularity of a tail falls with the two-thirds power of its rank."
    import polars
    rng = np.random.default_rng(0)
    keys = np.sort(rng.choice(13 * nodes, nodes, replace=False) + 1).astype(np.uint32)
    ranks = rng.permutation(nodes)
    with open(path, "wb") as file:
        for first in range(0, triples, 1_000_000):
            count = min(1_000_000, triples - first)
            head, tail = rng.integers(0, nodes, count), ranks[np.minimum((nodes * rng.random(count) ** 3).astype(np.int64), nodes - 1)]
            relation = (822 * rng.random(count) ** 4).astype(np.int64) + 1
            h, r, t = polars.lit(letters[0]), polars.lit(separator + letters[1]), polars.lit(separator + letters[0])
            order = [h, "h", r, "r", t, "t"] if separator == "\t" else [h, "h", t, "t", r, "r"]
            polars.DataFrame({"h": keys[head], "r": relation, "t": keys[tail]}).select(polars.concat_str(order)).write_csv(file, include_header=False, quote_style="never")


CHILD = """
import json, time
{before}
began, cpu = time.perf_counter(), time.process_time()
{work}
print(json.dumps({{"cpu": time.process_time() - cpu, "wall": time.perf_counter() - began, "mb": int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024}}))  # ru_maxrss would start at the parent's
"""


def measured(before, work):
    "Run code in a fresh process -> its CPU seconds, wall seconds and peak memory, MB."
    done = subprocess.run([sys.executable, "-c", CHILD.format(before=before, work=work)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def ours_build(text, out): return measured("from stepdr.world.knowledge_graph import build", f"build({str(text)!r}, {str(out)!r})")


def igraph_draw(graph, relations, degree, seeds, cap, low, high, fewest, most, with_edges):
    "The same rules on igraph, in the fastest way found: neighbours as lists, sets for what is inside, incident edges only where an edge is inside."
    drawn = edges = 0
    neighbours, incident, chance, shuffle = graph.neighbors, graph.incident, random.Random(0).randint, random.Random(0).shuffle
    for seed in seeds:
        around = neighbours(seed)
        if not low <= len(around) <= high or len(set(around)) < low: continue
        target, nodes, inside, at = chance(fewest, most), [seed], {seed}, 0
        while len(nodes) < target and at < len(nodes):
            node = nodes[at]
            at += 1
            if degree[node] > cap: continue
            around = neighbours(node)
            shuffle(around)
            for other in around:
                if other in inside: continue
                inside.add(other)
                nodes.append(other)
                if len(nodes) == target: break
        if len(nodes) < fewest: continue
        drawn += 1
        if not with_edges: continue
        found = []
        leaves = {node for node in nodes if degree[node] > cap}
        for node in nodes:
            if node in leaves: continue
            for mode, wanted in (("out", inside), ("in", leaves)):
                if not wanted: continue
                around = neighbours(node, mode)
                if wanted.isdisjoint(around): continue
                for other, edge in zip(around, incident(node, mode)):
                    if other in wanted: found.append((node, relations[edge], other) if mode == "out" else (other, relations[edge], node))
        edges += len(found)
    return drawn, edges


def nodes_only(settings):
    "Our kernel without the edges, for the comparison with igraph that draws nodes only."
    import numba
    from stepdr.world import subgraphs
    add, good, grow, draw = subgraphs._add, subgraphs._good_seed, subgraphs._grow, subgraphs._draw
    low, high, fewest, most, cap = settings.seed_low, settings.seed_high, settings.fewest, settings.most, settings.cap

    @numba.njit
    def run(seeds, starts, neighbours, labels, allowed):
        slots, state, nodes, drawn = np.full(1024, -1, np.int32), np.array([1, 1]), np.zeros(most + 1, np.int64), 0
        for number in range(len(seeds)):
            if not good(seeds[number], starts, neighbours, labels, allowed, low, high): continue
            slots[:] = -1
            target = fewest + draw(state) % (most - fewest + 1)
            drawn += grow(np.int64(seeds[number]), target, 0, cap, -1, 0, starts, neighbours, labels, allowed, state, nodes, slots) >= fewest
        return drawn
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the graph; 1 is Wikidata5m's")
    parser.add_argument("--load-scale", type=float, default=0.1, help="size at which igraph reads text; 0 leaves it out")
    parser.add_argument("--samples", type=int, default=20000, help="seeds tried a round (igraph a tenth)")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    import igraph
    from stepdr.world.knowledge_graph import KnowledgeGraph
    from stepdr.world.subgraphs import SampleSettings, allowed_relations, candidate_seeds, graph_sample, sample_block
    folder = Path(tempfile.mkdtemp(prefix="graph-"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, igraph {igraph.__version__}")
    try:
        nodes, triples = int(4_600_000 * given.scale), int(21_000_000 * given.scale)
        generate(folder / "big.tsv", nodes, triples)
        print(f"n = {nodes} nodes, {triples} triples, {(folder / 'big.tsv').stat().st_size / 1e6:.0f} MB of text", flush=True)
        done = ours_build(folder / "big.tsv", folder / "big")
        print(f"text to arrays on disk   {done['cpu']:6.1f} CPU s  {done['wall']:6.1f} s  peak {done['mb']:5.0f} MB", flush=True)
        back = measured("from stepdr.world.knowledge_graph import KnowledgeGraph", f"g = KnowledgeGraph.open({str(folder / 'big')!r}); g.triples(g.find(g.ids([7])[0]))")
        print(f"opened again, one node   {back['cpu']:6.3f} CPU s  {back['wall']:6.3f} s  peak {back['mb']:5.0f} MB", flush=True)
        if given.load_scale:
            small = int(4_600_000 * given.load_scale), int(21_000_000 * given.load_scale)
            generate(folder / "small.tsv", *small)
            generate(folder / "small.ncol", *small, separator=" ", letters=("", ""))
            ours = ours_build(folder / "small.tsv", folder / "small")
            peer = measured("import igraph", f"igraph.Graph.Read_Ncol({str(folder / 'small.ncol')!r}, names=True, weights=True, directed=True)")
            print(f"at {small[1]} triples: ours {ours['cpu']:.1f} CPU s, {ours['mb']:.0f} MB; igraph {peer['cpu']:.1f} CPU s, {peer['mb']:.0f} MB; {peer['cpu'] / ours['cpu']:.1f} x", flush=True)
        graph, settings = KnowledgeGraph.open(folder / "big"), SampleSettings()
        allowed, seeds = allowed_relations(graph, settings), candidate_seeds(graph, settings)
        np.random.default_rng(1).shuffle(seeds)
        leaving = (np.asarray(graph.labels) & 1) == 0
        heads = np.repeat(np.arange(len(graph), dtype=np.int64), np.diff(graph.starts))[leaving]
        peer = igraph.Graph(len(graph), np.stack([heads, np.asarray(graph.neighbours)[leaving]], 1), directed=True)
        relations = (np.asarray(graph.labels)[leaving] >> 1).tolist()
        del heads, leaving
        degree, best = np.diff(graph.starts).tolist(), {}
        rules = settings.cap, settings.seed_low, settings.seed_high, settings.fewest, settings.most
        arrays = [np.asarray(a) for a in (graph.starts, graph.neighbours, graph.labels)]
        grow_only = nodes_only(settings)
        grow_only(seeds[:100], *arrays, allowed)
        sample_block(graph, seeds[:100], 0, 0, allowed, settings)  # compiled before the clock starts
        for number in range(given.rounds):
            part = seeds[number * given.samples:(number + 1) * given.samples]
            few = part[:given.samples // 10].tolist()

            def ours():
                _, sizes, edges, _ = sample_block(graph, part, 0, 0, allowed, settings)
                return int((sizes > 0).sum()), len(edges)
            works = {"ours, nodes and edges": ours, "ours, nodes only": lambda: (grow_only(part, *arrays, allowed), 0), "igraph, nodes and edges": lambda: igraph_draw(peer, relations, degree, few, *rules, True),
                     "igraph, nodes only": lambda: igraph_draw(peer, relations, degree, few, *rules, False)}
            for name, work in works.items():
                began = time.process_time()
                drawn, edges = work()
                rate = drawn / (time.process_time() - began)
                best[name] = max(best.get(name, 0), rate)
                print(f"round {number + 1}  {name:<24} {rate:8.0f} subgraphs/CPU s   n = {drawn}, {edges / drawn:.1f} edges each", flush=True)
        ours = best["ours, nodes and edges"]
        print(f"drawing is {ours / best['igraph, nodes and edges']:.1f} x igraph with edges, {best['ours, nodes only'] / best['igraph, nodes only']:.1f} x igraph for nodes alone")
        del peer, relations
        for workers in (1, 2):
            began = time.perf_counter()
            made = graph_sample(folder / "big", given.samples, 0, folder / f"{workers}.parquet", workers=workers)
            print(f"to Parquet, {workers} worker(s): {made['subgraphs'] / (time.perf_counter() - began):.0f} subgraphs/s")
        print("the same bytes:", (folder / "1.parquet").read_bytes() == (folder / "2.parquet").read_bytes())
    finally: shutil.rmtree(folder)


if __name__ == "__main__": main()
