"""Query sets: our own is sound, and the validator sees each thing that can be wrong with anyone's, without stopping."""
import copy
import hashlib
import json
import random
from pathlib import Path

import pytest

from stepdr.core.artifacts import root
from stepdr.core.config import InputError
from stepdr.evaluate.queries import AXES, COUNTS, DOMAINS, check_queries, copies, count_queries, leaked, load_queries, set_files, validate_queries

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
OWN = root() / "data" / "adr"


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def rubric(zh, en, weight=4.0, role="explicit", axis="Explicit Criteria", fatal=False):
    return {"criterion": zh, "criterion_en": en, "weight": weight, "axis": axis, "role": role, "fatal": fatal}


@pytest.fixture
def row():
    "A professional row that nothing is wrong with."
    return {"id": "own-law-01", "track": "professional", "domain": "law", "difficulty": "medium", "language": "zh",
            "query": "我在上海租房，合同写明押金为两个月房租。2024年3月退租时房东以墙面有钉孔为由扣下全部押金。请说明依据哪些规定可以要回押金，并给出步骤和证据清单。",
            "query_en": "I rented a flat in Shanghai with a deposit of two months' rent. When I left in March 2024 the landlord kept all of it because of nail holes. Which rules can I rely on to get the deposit back, with steps and a list of evidence?",
            "scenario": "退租的租客，没有请律师", "scenario_en": "A tenant who moved out, without a lawyer",
            "rubrics": [rubric("列出至少三种退租时应保留的证据", "Lists at least three kinds of evidence to keep when moving out"),
                        rubric("按先后顺序写出要回押金的步骤", "Gives the steps to recover the deposit in their order"),
                        rubric("说明钉孔是否属于租客的正常使用", "States whether nail holes are normal use by the tenant"),
                        rubric("引用《民法典》关于租赁合同的规定", "Cites the rules of the Civil Code on leases", role="implicit", axis="References & Citation Quality"),
                        rubric("指出要回押金的诉讼时效为三年", "Names three years as the period for a claim to the deposit", role="implicit", axis="Implicit Criteria"),
                        rubric("给出向房东发催告函的范例", "Offers a model letter to the landlord", 2, "implicit", "Implicit Criteria"),
                        rubric("建议租客拒付其他房屋的租金", "Advises the tenant to withhold rent of another flat", -4, "negative", "Implicit Criteria"),
                        rubric("建议租客撬锁进入房屋取证", "Advises the tenant to break the lock for evidence", -8, "negative", "Implicit Criteria", True)]}


def found(tmp_path, *rows, **options): return validate_queries(write(tmp_path / "own.jsonl", rows), english=True, **options)


# ---- our own set

def test_our_set_is_sound():
    checked = check_queries("adr")
    assert checked["ok"], [problem["text"] for problem in checked["problems"] if problem["level"] == "error"]
    assert checked["counts"]["n"] == 110 and checked["counts"]["tracks"] == {"general": 70, "professional": 40}
    assert checked["counts"]["domains"] == {domain: count for (_, domain), count in COUNTS.items()}
    assert checked["counts"]["negative"] >= 40 and checked["counts"]["fatal"] >= 40


def test_our_set_is_varied():
    queries = load_queries("adr", track="general")
    for domain in DOMAINS["general"]:
        assert len({query.difficulty for query in queries if query.domain == domain}) == 3, domain
    sizes = sorted(len(query.query) for query in queries)
    assert sizes[6] < 70 and sizes[-5] > 250 and len({query.query[:4] for query in queries}) > 35
    assert len({query.scenario for query in queries}) == 70 and len({query.query_en for query in queries}) == 70


def test_files_are_what_the_sums_say():
    sums = dict(reversed(line.split(maxsplit=1)) for line in (root() / "data" / "SHA256SUMS").read_text().splitlines())
    for file in set_files("adr"): assert sums[f"adr/{file.name}"] == hashlib.sha256(file.read_bytes()).hexdigest(), file.name


def test_tasks_in_both_languages():
    for query in load_queries("adr"):
        chinese, english = query.task(), query.task("en")
        assert chinese["query"] == query.query and english["query"] == query.query_en and english["language"] == "en"
        assert [one["weight"] for one in chinese["rubrics"]] == [one["weight"] for one in english["rubrics"]]
        assert all("criterion_en" not in one and isinstance(one["fatal"], bool) and one["axis"] in AXES for one in chinese["rubrics"] + english["rubrics"])
    with pytest.raises(InputError, match="language: .* not there in 'de'"): query.task("de")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the benchmarks' files are not here (../shared/data)")
def test_no_benchmark_question_is_in_our_set():
    files = [file for pattern in ("drb/query.jsonl", "drb2/*.jsonl.gz", "writingbench/*.jsonl.gz", "qa/*.jsonl", "qa/*.csv", "qa/*.json") for file in sorted(SHARED.glob(pattern))]
    assert len(files) >= 8
    assert not [str(problem) for problem in validate_queries("adr", against=files) if problem.level == "error"]
    tasks = [{"query": json.loads(line)["prompt"]} for line in (SHARED / "drb" / "query.jsonl").read_text(encoding="utf-8").splitlines()]
    copied = {str(number): "请你帮我完成：" + task["query"] for number, task in enumerate(tasks) if len(task["query"]) > 40}
    assert len(leaked(copied, tasks)) >= 0.95 * len(copied) > 50  # the same check finds them where they are


# ---- what the validator sees

def test_a_sound_row_has_no_problem(tmp_path, row):
    assert not found(tmp_path, row)
    assert count_queries(load_queries(tmp_path / "own.jsonl")) == {"n": 1, "tracks": {"professional": 1}, "domains": {"law": 1}, "difficulties": {"medium": 1}, "rubrics": 8, "negative": 2, "fatal": 1}


@pytest.mark.parametrize("change, field, reason", [
    ({"id": "Own Law"}, "id", "small letters"), ({"id": None}, "id", "missing"), ({"query": "  "}, "query", "missing or not a text"), ({"query_en": 7}, "query_en", "not a text"),
    ({"track": "expert"}, "track", "none of general, professional"), ({"difficulty": "extreme"}, "difficulty", "none of easy"), ({"language": "fr"}, "language", "none of zh, en"),
    ({"note": "x"}, "note", "unknown field"), ({"rubrics": {}}, "rubrics", "expected a list"), ({"rubrics": [7]}, "rubrics[0]", "expected an object"), ({"scenario": "\ud800甲"}, "", "half a character"),
    ({"query": "怎么要回押金？"}, "query", "a research question has"), ({"query": "押" * 4000}, "query", "a research question has"),
    ({"query": "How do I get my deposit back from the landlord after March 2024, with which rules, steps and evidence?"}, "query", "is in English, expected zh"),
    ({"query_en": "我在上海租房，2024年3月退租时房东扣下全部押金，请说明依据。"}, "query_en", "is in Chinese, expected en"),
    ({"scenario": "退租的租客，在上海租房两年，and he does not act，押金被扣，没有请过律师"}, "scenario", "switches language"),
    ({"query_en": "I rented a flat in Shanghai and the landlord kept the deposit in March 2023; which rules and which steps?"}, "query_en", "differs from the query in the years 2023, 2024"),
    ({"query": "请根据最新的规定，说明退租时怎样要回两个月房租的押金，给出步骤和证据清单。", "query_en": "How does a tenant recover a deposit of two months' rent, with steps and evidence, according to the rules?"}, "query", "'最新' without a year"),
    ({"query": "请说明在2024年怎样要回押金，需要哪些步骤与证据。<tool_call>{}</tool_call>"}, "query", "tool markup"), ({"scenario": "租客\x07没有请律师"}, "scenario", "control characters"),
    ({"rubrics": []}, "rubrics", "only 0 rubrics"),
])
def test_each_fault_of_a_row_is_seen(tmp_path, row, change, field, reason):
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({**row, **change}) + "\n" + json.dumps({**row, "id": "own-law-02", "query": "一家工厂2024年想为夜班工人配置照明，请比较三种方案的能耗、眩光与维护费用，并给出建议。", "query_en": "A factory wants lighting for its night shift in 2024: compare three schemes by energy, glare and upkeep, and give advice."}) + "\n")
    problems = [problem for problem in validate_queries(file, english=True) if problem.level == "error"]
    assert any(problem.line == 1 and problem.field == field and reason in problem.reason for problem in problems), problems
    assert not [problem for problem in problems if problem.line == 2]


@pytest.mark.parametrize("number, change, field, reason", [
    (0, {"weight": 0}, "weight", "not 0"), (0, {"weight": float("nan")}, "weight", "nan"), (0, {"weight": True}, "weight", "True"), (0, {"weight": 11}, "weight", "between"), (0, {"axis": "explicit criteria"}, "axis", "is none of"),
    (0, {"role": "bonus"}, "role", "is none of"), (0, {"fatal": True}, "fatal", "only a negative rubric"), (7, {"fatal": "yes"}, "fatal", "true or false"), (0, {"criterion_en": ""}, "criterion_en", "missing"), (0, {"score": 1}, "score", "unknown field"),
])
def test_each_fault_of_a_rubrics_form_is_seen(tmp_path, row, number, change, field, reason):
    row["rubrics"][number].update(change)
    assert any(problem.field == f"rubrics[{number}].{field}" and reason in problem.reason for problem in found(tmp_path, row))


@pytest.mark.parametrize("zh, en, principle", [
    ("列出三种证据，并说明如何保存", "Lists three kinds of evidence and explains how to keep them", "atomic"), ("证据部分写得深入而充分", "Is comprehensive and well-written on evidence", "verifiable"),
    ("列出一些押金案例", "Lists several relevant deposit cases", "unambiguous"), ("为上一条细则提供证据", "Gives evidence for the previous criterion", "independent"),
])
def test_each_principle_is_held_to_in_both_languages(tmp_path, row, zh, en, principle):
    for name, text in (("criterion", zh), ("criterion_en", en)):
        broken = copy.deepcopy(row)
        broken["rubrics"][1][name] = text
        assert [(problem.field, problem.reason.split(":")[0]) for problem in found(tmp_path, broken) if problem.level == "error"] == [(f"rubrics[1].{name}", f"not {principle}")]


def test_rubrics_as_a_set(tmp_path, row):
    def reasons(**changes): return [problem.reason for problem in found(tmp_path, {**copy.deepcopy(row), **changes}) if problem.level == "error"]
    rubrics = row["rubrics"]
    assert reasons(rubrics=rubrics[:7]) == ["only 7 rubrics are left of at least 8", "no fatal rubric"]
    assert "no negative rubric" in reasons(rubrics=rubrics[:6]) and "weight 8 of a negative rubric" in reasons(rubrics=[*rubrics[:7], {**rubrics[7], "weight": 8}])
    assert any("nearly the same as" in reason for reason in reasons(rubrics=[*rubrics, rubrics[0]]))
    assert any("at most 15" in reason for reason in reasons(rubrics=rubrics * 2))
    assert any("not its absence" in reason for reason in reasons(rubrics=[*rubrics[:6], {**rubrics[6], "criterion": "避免了错误的建议"}, rubrics[7]]))
    assert not reasons(track="general", rubrics=[]) and reasons(track="general", rubrics=rubrics[:2])
    away = [problem for problem in found(tmp_path, {**row, "rubrics": [*rubrics[:7], {**rubrics[7], "criterion": "声称在上海租房合同写明押金为两个月房租是无效的"}]}) if "gives away" in problem.reason]
    assert [problem.level for problem in away] == ["note"]


def test_broken_lines_are_counted_and_the_rest_is_read(tmp_path, row):
    file = tmp_path / "own.jsonl"
    good = json.dumps(row, ensure_ascii=False).encode()
    again = json.dumps({**row, "id": "own-law-02"}, ensure_ascii=False).encode()
    file.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\n" + b'{"id": "torn\n' + b"[1, 2]\n" + b"\xff\xfe{}\n" + b'{"id": ' + b"9" * 5000 + b"}\n" + b"[" * 100_000 + b"\n" + again)
    problems = validate_queries(file)
    assert [(problem.line, problem.reason.split(" (")[0].split(",")[0]) for problem in problems if problem.line < 8] == [(3, "not JSON"), (4, "expected a JSON object"), (5, "not UTF-8 text"), (6, "not JSON that can be read"), (7, "not JSON that can be read")]
    assert [(problem.line, problem.field) for problem in problems if problem.line == 8] == [(8, "query")] and "repeats own-law-01 (100% alike)" in problems[-1].reason
    with pytest.raises(InputError, match=r"own.jsonl, line 3: not JSON"): load_queries(file)
    assert not check_queries(file)["ok"] and check_queries(file)["counts"] is None and json.dumps(check_queries(file))


def test_copies_across_files_and_ids(tmp_path, row):
    other = {**row, "id": "own-law-02", "query": row["query"].replace("上海", "杭州").replace("钉孔", "划痕")}
    write(tmp_path / "a.jsonl", [row]); write(tmp_path / "b.jsonl", [other, {**other, "track": "general", "rubrics": []}])
    problems = [(problem.file, problem.line, problem.field) for problem in validate_queries(tmp_path)]
    assert ("b.jsonl", 1, "query") in problems and ("b.jsonl", 2, "id") in problems
    with pytest.raises(InputError, match="'own-law-02' occurs more than once"): load_queries(tmp_path)
    assert not copies({"a": row["query"], "b": "比较磷酸铁锂、钠离子和全钒液流三种储能方案，冬天最低零下三十度，请给出推荐。"})


def test_counts_and_leaks(tmp_path, row):
    problems = found(tmp_path, row, counts={("professional", "law"): 2, ("general", "politics"): 1})
    assert [problem.reason for problem in problems] == ["general, politics: 0 queries, expected 1", "professional, law: 1 queries, expected 2"] and str(problems[0]).startswith("own.jsonl: ")
    exam = write(tmp_path / "exam.jsonl.txt", []).with_name("exam.jsonl")
    write(exam, [{"question": "请回答：" + row["query"], "answer": "x"}, {"question": "Please: " + row["query_en"], "answer": "y"}])
    assert sorted(problem.field for problem in validate_queries(tmp_path / "own.jsonl", against=[exam])) == ["query", "query_en"]


def test_where_there_is_no_set(tmp_path):
    with pytest.raises(InputError, match="has no .jsonl file"): load_queries(tmp_path)
    with pytest.raises(InputError, match="has no .jsonl file"): validate_queries(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    assert load_queries(tmp_path) == [] and validate_queries(tmp_path) == []


def test_a_set_without_english(tmp_path, row):
    for name in ("query_en", "scenario", "scenario_en"): row.pop(name)
    for one in row["rubrics"]: one.pop("criterion_en"); one.pop("fatal")
    row.update(track="general")
    file = write(tmp_path / "own.jsonl", [row])
    assert not [problem for problem in validate_queries(file) if problem.level == "error"] and any(problem.field == "query_en" for problem in validate_queries(file, english=True))
    query = load_queries(file)[0]
    assert query.task()["rubrics"][0]["fatal"] is False
    with pytest.raises(InputError, match="not there in 'en'"): query.task("en")


def test_odd_values_never_stop_it(tmp_path, row):
    rng, odd = random.Random(0), [None, True, 0, -1.5, float("inf"), "", " ", "x" * 5000, "\ud83d", "\x00", [], [[]], {}, {"a": 1}, ["zh"], [None], [{"criterion": 3}], [{"criterion": "甲", "weight": "5", "axis": [], "role": {}}]]
    rows = []
    for number in range(200):
        changed = copy.deepcopy(row)
        target = rng.choice([changed, changed, rng.choice(changed["rubrics"])])
        target[rng.choice([*target, "new"])] = rng.choice(odd)
        rows.append({**changed, "id": f"own-{number}"} if rng.random() < 0.5 else changed)
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    problems = validate_queries(file, english=True)
    assert {problem.line for problem in problems if problem.level == "error"} >= set(range(2, 201)) and all(str(problem) for problem in problems)  # all but the first are copies, if nothing else
