"The pages for readers hold together: links lead somewhere, maps match the tree, figures are those of recorded runs."
import json
import re
import subprocess
from configparser import ConfigParser

import pytest
import yaml
from test_examples import parsers

from stepdr.core.artifacts import root
from stepdr.run.pages import reader_pages

TRACKED = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root(), capture_output=True, text=True,
                         check=True).stdout.splitlines()
PAGES = [name for name in TRACKED if name.endswith(".md") and (root() / name).is_file()]
NOTEBOOKS = [name for name in TRACKED if name.endswith(".ipynb") and (root() / name).is_file()]
OWN = [name for name in PAGES if name.partition("/")[0] in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs")]


def prose(name): # path in the project -> its Markdown without code
    "The text of a page, or of the Markdown cells of a notebook."
    text = (root() / name).read_text(encoding="utf-8")
    if name.endswith(".ipynb"):
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def links(text): # Markdown without fences -> targets that are files of the project or places in the page
    found = re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(text): # as code hosting makes them of headings
    titles = re.findall(r"^#+ +(.*?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower().replace("`", "")).replace(" ", "-") for title in titles}


def broken(name): # path in the project -> its links that lead nowhere
    text, folder, found = prose(name), (root() / name).parent, []
    for target in links(text):
        path, _, place = target.partition("#")
        there = (folder / path).resolve() if path else root() / name
        if not there.exists() or not there.is_relative_to(root().resolve()):
            found.append(target)
        elif place and there.suffix == ".md" and place not in anchors(prose(str(there.relative_to(root().resolve())))):
            found.append(target)
    return found


def test_what_counts_as_a_link():
    assert links("[a](b.md) `[c](d)` ![e](f.svg#g) [h](https://i.org) [j](#k)") == ["b.md", "f.svg#g", "#k"]
    assert anchors("# A run's folder\n## Other models, a GPU\n") == {"a-runs-folder", "other-models-a-gpu"}
    assert sum(len(links(prose(name))) for name in OWN) > 60


@pytest.mark.parametrize("name", PAGES)
def test_no_link_of_a_page_is_broken(name):
    assert broken(name) == []


def test_no_link_of_a_notebook_is_broken():
    assert {name: found for name in NOTEBOOKS if (found := broken(name))} == {}


def test_the_readme_is_short_and_lines_can_be_read():
    assert len((root() / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    wide = [f"{name}: {line[:60]}" for name in OWN for line in prose(name).splitlines()
            if len(line) > 120 and not line.startswith(("|", "!["))]
    assert wide == []


def test_figures_are_those_of_the_recorded_runs():
    "After a change: python -c 'from stepdr.run.pages import write_pages; write_pages()'."
    for name, text in reader_pages(root()).items():
        assert (root() / name).read_text(encoding="utf-8") == text, name


@pytest.mark.parametrize("folder", ["docs", "docs/decisions"])
def test_a_list_of_pages_has_each_page(folder):
    there = {name.removeprefix(f"{folder}/") for name in TRACKED if name.startswith(f"{folder}/")
             and "/" not in name.removeprefix(f"{folder}/") and name.endswith((".md", ".html", ".toml"))
             and (root() / name).is_file()} - {"README.md"}
    assert there <= set(links(prose(f"{folder}/README.md")))


def test_the_map_of_the_house_is_the_tree():
    text = prose("CONTRIBUTING.md")
    rows = re.findall(r"^\| `nbs/(\w+)` \| `stepdr/(\w+)` \|.*\]\(docs/decisions/(\w+)\.md\)", text, re.MULTILINE)
    chapters = sorted({name.split("/")[1] for name in NOTEBOOKS if name.count("/") == 2})
    assert rows == [(folder, folder[3:], folder[3:]) for folder in chapters]
    folders = {name.partition("/")[0] for name in TRACKED if "/" in name} - {"nbs", "stepdr"}
    beside = text.partition("| beside them |")[2].partition("\n## ")[0]
    assert folders == set(re.findall(r"`([\w.]+)`", "".join(line.split(" | ")[0] for line in beside.splitlines()[2:])))


def test_commands_inside_sentences_exist_with_their_options():
    known, tried = {name: set(parser._option_string_actions) for name, parser in parsers()}, 0
    for name in ("README.md", *(page for page in OWN if page.count("/") == 1 and page != "docs/log.md")):
        for line in re.findall(r"`(stepdr [^`]+)`", re.sub(r"\s+", " ", prose(name))):
            names = [one for one in known if line.split(" --")[0].startswith(one)]
            assert names, f"{name}: {line}"
            options = set(re.findall(r"(?<= )--?[a-z][\w-]*", line))
            assert options <= known[max(names, key=len)], f"{name}: {line}"
            tried += 1
    assert tried > 15


def test_what_readme_prints_of_own_documents_is_tried_there():
    shown = {name: re.findall(r"^\$ (stepdr .+)$", (root() / name).read_text(encoding="utf-8"), re.MULTILINE)
             for name in OWN}
    assert shown["README.md"]
    for name, lines in shown.items():
        assert set(lines) <= set(shown["docs/own_documents.md"]), name


def test_the_workflow_does_what_the_checks_do():
    files = [name for name in TRACKED if name.startswith(".github/") and name.endswith(".yml")]
    read = {name: yaml.safe_load((root() / name).read_text(encoding="utf-8")) for name in files}
    job = read[".github/workflows/ci.yml"]["jobs"]["run"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert {system.partition("-")[0] for system in job["strategy"]["matrix"]["os"]} == {"ubuntu", "macos"}
    forms = [value for name, value in read.items() if "ISSUE_TEMPLATE" in name and "body" in value]
    assert len(forms) == 2 and all(field["attributes"]["label"] for form in forms for field in form["body"])


def test_the_citation_has_the_package_version_and_licence():
    settings = ConfigParser(delimiters=["="])
    settings.read(root() / "settings.ini", encoding="utf-8")
    cited = yaml.safe_load((root() / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == settings["DEFAULT"]["version"] and cited["license"] == "Apache-2.0"
    assert f"## {cited['version']}" in (root() / "CHANGELOG.md").read_text(encoding="utf-8")
    assert all(cited[name] for name in ("cff-version", "message", "title", "authors", "references"))
