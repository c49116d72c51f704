"""The page of a report stands alone, and what comes from outside is text in it."""

import base64
import dataclasses
from html.parser import HTMLParser

import pytest

import kerasrobust
from kerasrobust.evaluation import Finding
from kerasrobust.evaluation.renderers import table

HOSTILE = '<script>alert("x")</script>&amp;'


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
        digits_model, x, y, attacks=["fgsm:eps=0.1", "deepfool"], dataset=HOSTILE
    )


def test_the_page_needs_nothing_else(report, tmp_path):
    folder = report.save(tmp_path)
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []  # every tag is closed, in order
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "form"}
    for _, attributes in page.tags:
        for key in ("src", "href"):
            assert attributes.get(key, "data:").startswith("data:")
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(picture["alt"] for picture in pictures)
    for picture, name in zip(pictures, ("examples.png", "budget.png"), strict=True):
        png = base64.b64decode(picture["src"].partition("base64,")[2])
        assert png == (folder / name).read_bytes() and png.startswith(b"\x89PNG")


def test_names_from_outside_are_text(report):
    for text in (report.to_html(), report._repr_html_()):
        assert "<script" not in text
        assert HOSTILE in "".join(Page(text).text)


def test_it_opens_with_the_verdict_and_its_threat_model(report):
    text = "".join(Page(report.to_html()).text)
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
    text = table.verdict(dataclasses.replace(report, findings=findings))
    assert text.endswith("are right without one." + told)
