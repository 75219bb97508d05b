"The professional track of our query set: every figure that a rubric asks for is computed again here from the facts of its case."
import json, re
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "data" / "adr" / "professional.jsonl"
ROWS = {row["id"]: row for row in map(json.loads, FILE.read_text(encoding="utf-8").splitlines())}
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def figures(text): return [float(found.replace(",", "")) for found in NUMBER.findall(text)]

def yuan(text): # the amounts of a Chinese text, in yuan
    units = {"万元": 1e4, "亿元": 1e8, "万欧元": 1e4, "万元人民币": 1e4, "元": 1, "欧元": 1}
    return [float(number.replace(",", "")) * units[unit] for number, unit in re.findall(rf"({NUMBER.pattern})(万元|亿元|万欧元|元|欧元)", text)]

def annuity(rate, years): return (1 - (1 + rate) ** -years) / rate

def bond(rate): return sum(4 / (1 + rate) ** year for year in (1, 2, 3)) + 100 / (1 + rate) ** 3

def internal_rate(paid, lent, months, low=0.0, high=0.1):
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if paid * annuity(middle, months) > lent else (low, middle)
    return low

def wage_tax(taxable): # China's yearly table of comprehensive income
    return next(taxable * rate - quick for most, rate, quick in ((36e3, .03, 0), (144e3, .1, 2520), (300e3, .2, 16920), (420e3, .25, 31920), (660e3, .3, 52920), (960e3, .35, 85920), (9e99, .45, 181920)) if taxable <= most)

def bonus_tax(bonus): # the one-off bonus, by the monthly table
    return next(bonus * rate - quick for most, rate, quick in ((3e3, .03, 0), (12e3, .1, 210), (25e3, .2, 1410), (35e3, .25, 2660), (55e3, .3, 4410), (80e3, .35, 7160), (9e99, .45, 15160)) if bonus / 12 <= most)

wacc = .6 * (.02 + 1.2 * .065) + .4 * .045 * .75
flows = [30e6, 35e6, 40e6, 45e6, 50e6]
def enterprise(rate): return sum(flow / (1 + rate) ** year for year, flow in enumerate(flows, 1)) + flows[-1] * 1.02 / (rate - .02) / (1 + rate) ** 5
def terminal_share(rate): return flows[-1] * 1.02 / (rate - .02) / (1 + rate) ** 5 / enterprise(rate)
forward = 7.20 * (1 + .02 / 2) / (1 + .05 / 2)
lease = 1e6 * annuity(.05, 5)
macaulay = (sum(year * 4 / 1.05 ** year for year in (1, 2, 3)) + 300 / 1.05 ** 3) / bond(.05)
modified = macaulay / 1.05
monthly = internal_rate(1e6 / 12 + 6000, 1e6, 12)

# amounts in yuan (of the Chinese criteria), at the precision that they are written with: id, number of the rubric, amount
AMOUNTS = [
    ("adr-law-01", 2, 2 * 6 * 3 * 12000), ("adr-law-01", 3, 3 * 12000),
    ("adr-law-02", 2, .3 * 26000), ("adr-law-02", 3, 4 * .3 * 26000),
    ("adr-law-03", 2, .2 * 5e6), ("adr-law-03", 3, 2 * .2 * 5e6 + .5e6), ("adr-law-03", 4, .08 * 5e6), ("adr-law-03", 6, 5.9e6 - 5e6),
    ("adr-law-04", 3, 752000 * 4 * .037), ("adr-law-05", 1, 86e6 - 61e6), ("adr-law-06", 3, .6 / (2.7 + .3) * 4.5e6 / 2),
    ("adr-law-07", 2, 6e6 / 2), ("adr-law-07", 5, 6e6 / 2 / 4), ("adr-law-07", 6, (6e6 / 2 - 1e6) / 4),
    ("adr-law-09", 1, 30e6 * (1 + 3 * .08)), ("adr-law-10", 2, 3 * 186e3), ("adr-law-10", 3, 4 * 186e3),
    ("adr-law-13", 1, 18e4 + 1.8e4 + .2e4), ("adr-law-13", 3, .7 * (525e3 - 200e3)), ("adr-law-13", 4, 200e3 + .7 * (525e3 - 200e3)), ("adr-law-18", 5, max(35e6, .07 * 600e6)),
    ("adr-finance-01", 2, 1.2e6 * 1 / 1.5), ("adr-finance-01", 3, 1.2e6 * .5 / 1.5), ("adr-finance-01", 4, 800e3 + 400e3 * 5 / 36),
    ("adr-finance-02", 1, lease), ("adr-finance-02", 3, .05 * lease), ("adr-finance-02", 4, lease / 5), ("adr-finance-02", 5, .05 * lease + lease / 5 - 1e6),
    ("adr-finance-03", 1, wage_tax(360e3 - 60e3 - 54e3 - 36e3)), ("adr-finance-03", 2, bonus_tax(144e3)), ("adr-finance-03", 3, wage_tax(210e3) + bonus_tax(144e3)),
    ("adr-finance-03", 4, wage_tax(354e3)), ("adr-finance-03", 5, wage_tax(354e3) - wage_tax(210e3) - bonus_tax(144e3)), ("adr-finance-03", 7, round(bonus_tax(144001) - bonus_tax(144000), -2)),
    ("adr-finance-04", 1, 2.9e6 * .25 * .2), ("adr-finance-04", 2, 3.01e6 * .25), ("adr-finance-04", 3, 3.01e6 * .25 - 2.9e6 * .05),
    ("adr-finance-05", 1, 6e6 + .8 * 2e6), ("adr-finance-05", 3, 20e6 - 7.6e6), ("adr-finance-05", 4, .15 * 12.4e6), ("adr-finance-05", 5, .25 * 12.4e6),
    ("adr-finance-06", 3, enterprise(wacc)), ("adr-finance-06", 4, enterprise(wacc) - 150e6 + 50e6), ("adr-finance-06", 6, enterprise(wacc - .005)), ("adr-finance-06", 7, enterprise(wacc + .005)),
    ("adr-finance-07", 1, 1e6 * .9 * 6 / 3), ("adr-finance-07", 2, 1e6 * .85 * 6 * 2 / 3 - 1e6 * .9 * 6 / 3),
    ("adr-finance-08", 1, 290e6 + 10e6), ("adr-finance-08", 2, 240e6 + 40e6 * .75), ("adr-finance-08", 3, 300e6 - .8 * 270e6), ("adr-finance-08", 4, .2 * 270e6), ("adr-finance-08", 5, .25 * 40e6),
    ("adr-finance-08", 7, 300e6 + 70e6 - 270e6), ("adr-finance-08", 9, 84e6 / .8),
    ("adr-finance-09", 1, 20e6 * .01 + 8e6 * .03 + 4e6 * .1 + 1e6 * .8 + 1e6 * .5), ("adr-finance-09", 2, 2.14e6 - 1.2e6), ("adr-finance-09", 3, .8 * 1e6), ("adr-finance-09", 4, .5 * 1e6),
    ("adr-finance-10", 2, 5e6 * forward), ("adr-finance-10", 3, 5e6 * 6.9), ("adr-finance-10", 4, 5e6 * (7.1 - .08)), ("adr-finance-10", 5, 5e6 * (7.4 - .08)),
    ("adr-finance-11", 5, 180e6 / 365 * 30), ("adr-finance-12", 1, 40e6 + 55e6 + 75e6), ("adr-finance-12", 3, 55e6 + 75e6),
    ("adr-finance-14", 1, bond(.05)), ("adr-finance-14", 5, 200e6 * modified * .005), ("adr-finance-14", 6, bond(.055)), ("adr-finance-14", 8, 200e6 * (1 - 2 / modified)),
    ("adr-finance-15", 2, 12000 * ((1.03 ** 12 - 1) / .03)), ("adr-finance-15", 3, .2 * 12000), ("adr-finance-15", 4, .03 * 12000 * ((1.03 ** 12 - 1) / .03)),
    ("adr-finance-17", 1, 500 * .75 / .025), ("adr-finance-17", 4, 500 * .75 / .02), ("adr-finance-17", 5, 550 * .75 / .03), ("adr-finance-17", 7, 5400 / 12),
    ("adr-finance-18", 1, 119 - 119 / 1.19), ("adr-finance-18", 2, 119 / 1.19 - .15 * 119 - 30 - 20 - 12), ("adr-finance-18", 3, .15 * 119),
    ("adr-finance-19", 7, 5.4e6 * (1 - 2 * 30 / 90)), ("adr-finance-19", 8, .25 * 1.8e6),
    ("adr-finance-20", 1, 30e6 - 4e6), ("adr-finance-20", 2, .1 * 26e6), ("adr-finance-20", 3, .9 * 26e6), ("adr-finance-20", 4, .1 * 23.4e6), ("adr-finance-20", 5, .05 * 23.4e6)]

# rates, ratios, days and shares, which both versions write in the same way
PLAIN = [
    ("adr-law-04", 2, 4 * 3.7, .001), ("adr-finance-05", 6, 8 / 120 * 100, .01), ("adr-finance-06", 1, 2 + 1.2 * 6.5, .001), ("adr-finance-06", 2, 100 * wacc, .006),
    ("adr-finance-06", 5, 100 * terminal_share(wacc), .5), ("adr-finance-10", 1, forward, 5e-5), ("adr-finance-11", 1, 45 / 180 * 365, .5), ("adr-finance-11", 2, 30 / 120 * 365, .5),
    ("adr-finance-11", 3, 20 / 120 * 365, .5), ("adr-finance-11", 4, (45 / 180 + 30 / 120 - 20 / 120) * 365, .5), ("adr-finance-14", 2, macaulay, .005), ("adr-finance-14", 3, modified, .005),
    ("adr-finance-14", 4, 100 * modified * .005, .005), ("adr-finance-16", 1, 100 * monthly, .0005), ("adr-finance-16", 2, 1200 * monthly, .05), ("adr-finance-16", 3, 100 * ((1 + monthly) ** 12 - 1), .05),
    ("adr-finance-16", 5, 65 / 800 * 100, .05), ("adr-finance-17", 2, 15000 / 6000, .001), ("adr-finance-17", 3, 6000 / (500 * .75), .001)]


@pytest.mark.parametrize("task, number, amount", AMOUNTS)
def test_amounts(task, number, amount):
    rubric = ROWS[task]["rubrics"][number - 1]
    assert rubric["weight"] > 0
    assert any(abs(stated - amount) <= .005 * amount for stated in yuan(rubric["criterion"])), (rubric["criterion"], amount)
    english = [value * unit for value in figures(rubric["criterion_en"]) for unit in (1, 1e6)]
    assert any(abs(stated - amount) <= .005 * amount for stated in english), (rubric["criterion_en"], amount)


@pytest.mark.parametrize("task, number, value, within", PLAIN)
def test_rates_and_days(task, number, value, within):
    rubric = ROWS[task]["rubrics"][number - 1]
    for name in ("criterion", "criterion_en"):
        assert any(abs(stated - value) <= within for stated in figures(rubric[name])), (rubric[name], value)


def months_on(year, month, months): return year + (month - 1 + months) // 12, (month - 1 + months) % 12 + 1


@pytest.mark.parametrize("task, number, start, months, zh, en", [
    ("adr-law-05", 6, (2023, 10), 18, "{}年{}月16日", "16 April {}"), ("adr-law-04", 7, (2023, 3), 6, "{}年{}月1日", "1 September {}"), ("adr-law-20", 2, (2020, 7), 240, "2040年6月30日", "30 June {}"),
    ("adr-finance-15", 6, (2035, 7), (1975 - 1965) * 12 // 4 + (7 - 1) // 4 + 1, "{}年{}月", "March {}")]) # each four months of birth since January 1965 add one month to a man's age of 60
def test_dates(task, number, start, months, zh, en):
    rubric, (year, month) = ROWS[task]["rubrics"][number - 1], months_on(*start, months)
    assert zh.format(year, month) in rubric["criterion"] and en.format(year) in rubric["criterion_en"], (rubric, year, month)


def test_years_of_contribution(): # 15 years until 2029, half a year more each year from 2030, at most 20
    rubric = ROWS["adr-finance-15"]["rubrics"][7]
    assert min(20, 15 + .5 * (2038 - 2029)) == 19.5 and "19年6个月" in rubric["criterion"]


def test_no_amount_is_missing_here():
    "A positive rubric that asks to compute (算出) and has a figure is computed again above."
    done = {(task, number) for task, number, *_ in AMOUNTS + PLAIN} | {("adr-law-05", 6), ("adr-law-20", 2), ("adr-finance-15", 6), ("adr-law-08", 3)}
    asked = {(task, number) for task, row in ROWS.items() for number, rubric in enumerate(row["rubrics"], 1) if rubric["weight"] > 0 and rubric["criterion"].startswith("算出") and NUMBER.search(rubric["criterion"])}
    assert len(asked) > 80 and not asked - done, sorted(asked - done)


def test_shape():
    assert [sum(row["domain"] == domain for row in ROWS.values()) for domain in ("law", "finance & business")] == [20, 20]
    for row in ROWS.values():
        assert 8 <= len(row["rubrics"]) <= 15 and row["track"] == "professional"
        assert {rubric["role"] for rubric in row["rubrics"]} == {"explicit", "implicit", "negative"}
        assert any(rubric["fatal"] for rubric in row["rubrics"]) and all(rubric["weight"] < 0 for rubric in row["rubrics"] if rubric["fatal"])
        assert all(rubric["criterion_en"].strip() for rubric in row["rubrics"])


def test_both_versions_state_the_same_figures():
    "A wrong figure in one language shows as a pair that differs; amounts written in other units (万元 / million) are brought to one."
    for row in ROWS.values():
        for rubric in row["rubrics"]:
            english = figures(rubric["criterion_en"])
            for amount in yuan(rubric["criterion"]):
                assert any(abs(value * unit - amount) <= .005 * amount for value in english for unit in (1, 1e6, 1e9)), (row["id"], rubric)
