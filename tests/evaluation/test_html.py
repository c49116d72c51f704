"""The page of a report stands alone, and what comes from outside is text in it."""

import base64
import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import kerasrobust
from kerasrobust.evaluation import Finding
from kerasrobust.evaluation.renderers import table

HOSTILE = '<script>alert("x")</script>&amp;'
ATTRIBUTE = '"><img src=x onerror=alert(2)>'


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def report(digits_model, digits):
    x, y = (part[:12] for part in digits)
    return kerasrobust.evaluate(
        digits_model,
        x,
        y,
        attacks=["fgsm:eps=0.1", "deepfool"],
        dataset=HOSTILE,
        class_names=[HOSTILE, ATTRIBUTE, *"23456789"],
        model_file=f"{ATTRIBUTE}.keras",
    )


@pytest.fixture(scope="module")
def folder(report, tmp_path_factory):
    return report.save(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(folder, text):
    page = Page(text)
    assert page.open == []  # every tag is closed, in order
    policies = [a["content"] for _, a in page.tags if "http-equiv" in a]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "form"}
    for _, attributes in page.tags:
        for key in ("src", "href"):
            assert attributes.get(key, "data:").startswith("data:")
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(picture["alt"] for picture in pictures)
    assert len(pictures) == 2
    for picture, name in zip(pictures, ("examples.png", "budget.png"), strict=True):
        png = base64.b64decode(picture["src"].partition("base64,")[2])
        assert png == (folder / name).read_bytes() and png.startswith(b"\x89PNG")


def test_names_from_outside_are_text(report, text):
    for html in (text, report._repr_html_()):
        assert "<script" not in html and "<img src=x" not in html
        page = Page(html)
        assert not {key for _, attributes in page.tags for key in attributes if key[:2] == "on"}
        shown = "".join(page.text)
        # The data set's; the class's in the table of classes and the list of names.
        assert shown.count(HOSTILE) >= 3 and shown.count(ATTRIBUTE) >= 3
    assert "<script" not in report.to_markdown() and "<img" not in report.to_markdown()


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def contrast(one, other):
    """WCAG 2.2, relative luminance and contrast ratio."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_stands_out_from_what_is_behind_it(text):
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    style = text.partition("<style>")[2].partition("</style>")[0]
    light, dark = style.split("prefers-color-scheme: dark")
    texts, papers = ("ink", "faint", "warn"), ("paper", "band", "warn-paper")
    # All text has one of these colours, all paper one of those.
    rules = re.findall(r"(?<![-\w])(color|background|background-color):\s*([^;}]+)", style)
    for key, value in rules:
        names = texts if key == "color" else papers
        assert value.strip() in (*(f"var(--{n})" for n in names), "none", "#ffffff", "#161616")
    for part in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
        for ink in texts:
            for paper in papers:
                assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)


def test_the_page_tells_what_a_newcomer_looks_for(report, text):
    shown, markdown = "".join(Page(text).text), report.to_markdown()
    for fact in (
        *(report.settings["weights"], report.settings["data"], report.settings["file"]),
        f"{report.settings['parameters']:,} parameters",
        *(report.run["started"], report.run["machine"]["cpu"], report.run["machine"]["os"]),
        *(f"{report.cost[key]:,} forward" for key in ("queries", "gradients")),
        *(f"{name} {version}" for name, version in report.versions.items()),
        *(step.why for step in report.next_steps),
    ):
        assert fact in shown and fact.replace("<", "&lt;") in markdown


def test_it_opens_with_the_verdict_and_its_threat_model(report, text):
    text = "".join(Page(text).text)
    robust = 100 * report.robust_accuracy
    verdict = f"{robust:.1f} % of 12 samples withstand every attack"
    threat = (
        "The attacker sees the model and its gradients, wants any wrong class, and may change an "
        "image by at most 0.1 in Linf or as far as it takes; pixels are 0 to 1."
    )
    assert text.index(verdict) < text.index(threat) < text.index("Attacks")
    assert all(finding.message in text for finding in report.findings)
    assert verdict in report.to_markdown() and threat in report.to_markdown()


def test_a_black_box_attacker_with_a_budget(digits_model, digits):
    x, y = (part[:6] for part in digits)
    options = {"attacks": ["square:max_iter=5"], "eps": 0.2, "norm": 2}
    page = kerasrobust.evaluate(digits_model, x, y, **options).to_html()
    assert "The attacker sees what the model answers, wants" in page
    assert "by at most 0.2 in L2; pixels are 0 to 1." in page


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        (["few_samples"], ""),
        (["gradient_masking", "few_samples"], " Robustness may well be less: gradient_masking."),
        (
            ["chance_level", "zero_gradients", "few_samples"],
            " These figures say nothing about robustness: chance_level.",
        ),
    ],
)
def test_the_verdict_says_whether_it_can_be_trusted(report, codes, told):
    findings = [Finding(code, "why") for code in codes]
    robust = {**report.robust, "accuracy": 0.5}
    text = table.verdict(dataclasses.replace(report, findings=findings, robust=robust))
    assert text.endswith("are right without one." + told)


def test_at_no_robustness_there_is_none_to_doubt(report):
    findings = [Finding("still_gains", "why")]
    robust = {**report.robust, "accuracy": 0.0}
    text = table.verdict(dataclasses.replace(report, findings=findings, robust=robust))
    assert text.endswith("The nearest adversarial points may well be nearer: still_gains.")


def test_every_medium_says_how_to_read_the_table(report):
    settings = {"cascade": True, "clip_values": [0, 255], "eps": 8.0, "norm": "inf"}
    other = {**report.settings, **settings, "dataset": "[/bold]"}
    told = "The rows are cumulative", "In parentheses: lengths where pixels are 0 to 1."
    read = dataclasses.replace(report, settings=other)
    for text in (str(read), read.to_markdown(), read._repr_html_()):
        text = " ".join(text.split())
        assert all(sentence in text for sentence in told)
        assert "[/bold], 12 samples, adversarial within Linf 8 (0.0314 where pixels" in text
    assert not any(sentence in str(report) for sentence in told)
