"""A command in the persistent sandbox, beside a sandbox started for each command and a tmux driven by its command line.

    python benchmarks/shell.py [--commands 200] [--rounds 3]

Four ways to run `echo N` in bash and read its output and exit code. `stepdr`: the shell tool. `bwrap`: the same bubblewrap command line, limits and
filter of system calls for each command anew, so that nothing stays from call to call. `tmux`: a persistent tmux session outside of any sandbox, driven as libtmux does
it, by a process for each of send-keys, wait-for and capture-pane. `bash`: `bash -c` without any sandbox, the floor of starting a program.
The ways take turns; the median of all commands counts, in wall-clock milliseconds.
"""
import argparse
import os
import platform
import shlex
import statistics
import subprocess
import tempfile
import time
from pathlib import Path


def timed(run, commands):
    "-> list of milliseconds; `run(i)` must give back the output of command i."
    times = []
    for i in range(commands):
        start = time.perf_counter()
        text = run(i)
        times.append(1000 * (time.perf_counter() - start))
        assert text.split() == [f"number{i}"], text
    return times


def stepdr(folder):
    from stepdr.tools.shell import Shell
    from stepdr.tools.workspace import Workspace
    shell = Shell(Workspace(folder))
    def run(i):
        text, _, code = shell.shell(f"echo number{i}").rpartition("\n")
        assert code == "[exit code 0]"
        return text
    run(0)
    return run, shell.close


def bwrap(folder):
    from stepdr.tools.sandbox import OWN_ETC, SandboxSettings, bwrap_arguments, limit_arguments, seccomp_filter
    settings, inbox = SandboxSettings(), Path(folder) / "inbox"
    inbox.mkdir()
    (Path(folder) / ".stepdr").mkdir(exist_ok=True)
    for name, text in OWN_ETC.items(): (inbox / name).write_text(text)
    def run(i):
        with tempfile.TemporaryFile() as code:
            code.write(seccomp_filter())
            code.seek(0)
            words = bwrap_arguments(settings, folder, str(inbox), [], code.fileno()) + limit_arguments(settings) + ["bash", "-c", f"echo number{i}"]
            return subprocess.run(words, pass_fds=[code.fileno()], capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}).stdout
    return run, lambda: None


def tmux(folder):
    base = ["tmux", "-S", f"{folder}/socket", "-f", "/dev/null"]
    call = lambda *words: subprocess.run([*base, *words], capture_output=True, text=True, check=True).stdout
    call("new-session", "-d", "-x", "120", "-y", "40", "bash --noprofile --norc")
    def run(i):
        call("send-keys", f"clear; echo number{i} $?; {' '.join(map(shlex.quote, base))} wait-for -S done", "Enter")
        call("wait-for", "done")
        lines = [line for line in call("capture-pane", "-p").splitlines() if line.startswith(f"number{i} ")]
        return lines[0].split()[0]
    return run, lambda: call("kill-server")


def bash(folder): return lambda i: subprocess.run(["bash", "-c", f"echo number{i}"], capture_output=True, text=True, check=True).stdout, lambda: None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=200, help="commands of each way a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ways, times, start = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for make in (stepdr, bwrap, tmux, bash):
            (Path(folder) / make.__name__).mkdir()
            begun = time.perf_counter()
            ways[make.__name__], start[make.__name__] = make(str(Path(folder) / make.__name__)), 1000 * (time.perf_counter() - begun)
        try:
            for _ in range(options.rounds):
                for name, (run, _) in ways.items(): times.setdefault(name, []).extend(timed(run, options.commands))
        finally:
            for _, close in ways.values(): close()
    own = statistics.median(times["stepdr"])
    print(f"{platform.machine()}, {os.cpu_count()} cores, {options.rounds} x {options.commands} commands of each; load {os.getloadavg()[0]:.1f}")
    for name, all_times in times.items():
        median, slow = statistics.median(all_times), statistics.quantiles(all_times, n=100)[98]
        print(f"{name:8} median {median:7.2f} ms   99th percentile {slow:7.2f} ms   {median / own:6.1f} x   start {start[name]:6.1f} ms")


if __name__ == "__main__": main()
