"""report.html: complete, self-contained, safe, and of bearable size."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from mcts_ray import Ledger, SearchConfig
from mcts_ray.report.html import LEAVES, THUMBNAIL_BYTES, report
from tests.report.trees import Grower, chains, large_tree, result_of, small_tree

EVIL = '<script>alert("x")</script> & </title>'
VOID = {"meta", "img", "br", "input", "link", "hr"}


class Balance(HTMLParser):
    """Asserts that every tag is closed; SVG's empty elements close themselves."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page():
    grower = small_tree()
    thumbnails = {candidate.node: b"\xff\xd8jpeg" for candidate in grower.finished[1:]}
    refusals = {"spread too small": 2}
    return report(result_of(grower, verdicts=((1.0, True), (0.5, False)), thumbnails=thumbnails, refusals=refusals))


def nodes_of(page):
    return json.loads(re.search(r'id="nodes">(.*?)</script>', page, re.S)[1])


def check(page):
    """What holds for every page."""
    balance = Balance()
    balance.feed(page)
    assert not balance.open
    assert "http:" not in page and "https:" not in page and "@import" not in page and "url(" not in page
    assert all(target.startswith(("data:", "#")) for target in re.findall(r'(?:src|href)="([^"]*)', page))


def test_the_page_is_self_contained(page):
    check(page)
    assert "default-src 'none'" in page


def test_the_head(page):
    head = page[page.index("<header>") : page.index("</header>")]
    found = ("a red circle", "mcts · scenes · reward jpeg", "0.9000", "+0.6000 over the first", "1.00", "pass")
    assert [text for text in (*found, "12,345", "of 54,321", "78.2") if text not in head] == []


def test_the_images_beside_the_first(page):
    figures = re.findall(r"<figure.*?</figure>", page, re.S)
    assert len(figures) == 3 and all('class="pixelated" src="data:image/png;base64,' in figure for figure in figures)
    assert "first sample" in figures[0] and "reward 0.3000" in figures[0] and "gold" not in figures[0]
    assert "reward 0.9000" in figures[1] and "gold 1.00" in figures[1] and "NFE" in figures[1]
    assert "reward 0.5000" in figures[2] and "no pass" in figures[2]


def test_the_curve_has_every_image(page):
    svg = re.search(r'<svg class="curve".*?</svg>', page, re.S)[0]
    assert svg.count("<circle") == 4


def test_the_tree_marks_what_was_fused_and_from_what(page):
    nodes = nodes_of(page)
    (fused,) = [i for i, node in enumerate(nodes) if node[2] == "fuse"]
    assert page.count('class="fused ') == 1 and f'data-f="{fused}"' in page
    assert len(nodes[fused][-1]) == 2 and all(nodes[i][1] == nodes[fused][1] for i in nodes[fused][-1])


def test_thumbnails_at_the_leaves(page):
    assert page.count('<image id="t') == 3 == page.count('<use href="#t')


def test_the_ledger_and_the_configuration(page):
    ledger = re.search(r'<table class="ledger">.*?</table>', page, re.S)[0]
    assert re.findall(r"<td>([^<]*)", ledger) == ["12,345", "24,690", "678", "679", "3", "78.25", "70.50"]
    assert "Refused fusions" in page and "<b>2 ×</b> spread too small" in page and "<h3>Errors" not in page
    assert "Fused by innovation instead" not in page


def test_fusions_as_something_else_are_no_refusals():
    page = report(result_of(small_tree(), refusals={"still": 3, "dominated": 1}))
    assert 'Refused fusions <small>1</small>' in page and "<b>1 ×</b> dominated: one sibling has all the weight" in page
    assert 'Fused by innovation instead <small>3</small>' in page and "<b>3 ×</b> still: hardly a token moved" in page
    config = page[page.index("<details>") :]
    assert all(f"<code>{name}</code>" in config for name in SearchConfig.model_fields) and "54321" in config


def test_what_users_write_is_escaped():
    grower = small_tree()
    grower.nodes[1]["action"] = EVIL
    config = SearchConfig(negative_prompt=EVIL, reward=EVIL)
    page = report(result_of(grower, prompt=EVIL, model=EVIL, config=config, errors=(EVIL,), refusals={EVIL: 1}))
    check(page)
    assert EVIL not in page and "<script>alert" not in page
    assert nodes_of(page)[1][2] == EVIL


def test_a_search_without_an_image():
    page = report(result_of(Grower(), errors=("out of memory",) * 3 + ("disk full",), ledger=Ledger(seconds=1.0)))
    check(page)
    assert "no image was finished" in page and "<b>3 ×</b> out of memory" in page and "disk full" in page
    assert "<figure" not in page and "<svg" not in page


def test_a_search_that_ended_before_its_first_image():
    grower = Grower()
    grower.node(grower.node(None, 8, "seed"), 7, "jump 1")
    page = report(result_of(grower, ledger=Ledger()))
    check(page)
    assert page.count('circle class="none"') == 2 and 'class="reward"' not in page


def test_many_kinds_of_errors_are_cut_short():
    page = report(result_of(small_tree(), errors=tuple(f"error {i}" for i in range(50))))
    assert "error 19" in page and "error 20<" not in page and "and 30 others" in page


def test_large_images_are_reduced():
    result = result_of(small_tree(), size=64)
    large = Image.effect_noise((1536, 1024), 90)
    page = report(replace(result, images=[large, large.convert("RGB")], first=large))
    assert page.count("data:image/jpeg;base64,") == 3 and len(page) < 1_000_000


def test_a_first_image_that_is_the_best():
    grower = chains(1, 4)
    page = report(result_of(grower))
    assert "<small>the first</small>" in page and "#1 first" in page


def test_the_best_leaves_at_first_and_all_on_demand():
    page = report(result_of(large_tree(2000)))
    best, whole = re.findall(r'<div class="view"( hidden)?>(.*?)</svg>', page, re.S)
    assert not best[0] and whole[0]
    assert LEAVES <= best[1].count('class="reward"') <= LEAVES + 3
    assert whole[1].count("data-n=") > 2000
    assert 'id="all"' in page and 'id="all"' not in report(result_of(small_tree()))


@pytest.mark.parametrize("n, megabytes", [(2000, 3), (20_000, 12)])
def test_size_and_time(n, megabytes):
    grower = large_tree(n)
    jpeg = bytes(range(256)) * 10
    start = time.perf_counter()
    page = report(result_of(grower, thumbnails={candidate.node: jpeg for candidate in grower.finished}))
    assert time.perf_counter() - start < 20
    assert len(page) < megabytes * 1e6
    assert page.count('<image id="t') == min(len(grower.finished), THUMBNAIL_BYTES // len(jpeg))
    assert len(nodes_of(page)) == len(grower.nodes)


def test_chains_of_a_thousand_levels():
    page = report(result_of(chains(5, 1000)))
    check(page)
    assert page.count('<circle class="v') == 5 * 1001


def test_neither_torch_nor_ray_is_loaded():
    code = "import sys, mcts_ray.report.html; sys.exit(any(name in sys.modules for name in ('torch', 'ray')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
