"""report.html: one search on one page that needs nothing else, neither network nor files beside it.

    head       the prompt, what searched, what it found and what that cost
    images     the best ones beside the first, which is what one would have had without a search
    curve      the best reward so far over NFE
    tree       the best leaves, all of them on demand
    ledger     the account, what failed, and the configuration with all defaults filled in
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import Image

from mcts_ray.report.curve import curve
from mcts_ray.report.frame import asset, frame
from mcts_ray.report.tree_layout import Forest, best_leaves, forest
from mcts_ray.report.tree_svg import Drawing, node_data, shades_css, thumbnail
from mcts_ray.tree.weights import REASONS, Refusal

if TYPE_CHECKING:
    from mcts_ray.result import SearchResult
    from mcts_ray.search.base import Candidate

LEAVES = 40  # drawn at first
THUMBNAIL_BYTES = 1_200_000  # of JPEG data in the page; the best images' come first
MAX_SIDE = 512  # pixels of an image
_PIXELATED_BELOW = 128  # pixels
_MAX_ERRORS = 20
_UNITS = {"nfe": "NFE", "seconds": "wall seconds"}


def report(result: SearchResult) -> str:
    """The whole page of one search."""
    sections = (_head(result), _images(result), _curve(result), _tree(result), _ledger(result), _config(result))
    after = '<div id="tip" hidden></div>\n'
    return frame(result.prompt, "".join(sections), css=shades_css(), script=asset("page.js"), after=after)


# head --------------------------------------------------------------------------------------------------------------


def _head(result: SearchResult) -> str:
    about = " · ".join(map(escape, (result.config.algorithm, result.model, f"reward {_reward_name(result)}")))
    title = f'<p class="about">{about}</p><h1>{escape(result.prompt)}</h1>'
    tiles = "".join(f"<div><dt>{name}</dt><dd>{value} <small>{note}</small></dd></div>" for name, value, note in _facts(result))
    failure = f'<p class="failure">{escape(result.failure)}</p>' if result.failure else ""
    return f'<header>{title}<dl class="tiles">{tiles}</dl>{failure}</header>'


def _facts(result: SearchResult) -> Iterator[tuple[str, str, str]]:
    """The tiles of the head: what, how much, and a note."""
    ledger, budget = result.ledger, result.config.budget
    if result.best:
        yield f"best {escape(_reward_name(result))}", f"{result.best.reward:.4f}", _gain(result)
    if result.verdicts:
        yield "gold", f"{result.gold:.2f}", _pass(result.passed)
    yield "NFE", f"{ledger.nfe:,}", f"of {budget:,}" if budget else ""
    yield "seconds", f"{ledger.seconds:.1f}", f"{ledger.nfe / ledger.seconds:.0f} NFE/s" if ledger.seconds > 0 else ""


def _reward_name(result: SearchResult) -> str:
    return result.config.reward or "reward"


def _gain(result: SearchResult) -> str:
    """By how much the best image is better than the first."""
    if not result.finished:
        return ""
    first = result.finished[0]
    return "the first" if result.best.node == first.node else f"{result.best.reward - first.reward:+.4f} over the first"


def _pass(passed: bool) -> str:
    return f'<span class="{"pass" if passed else "fail"}">{"pass" if passed else "no pass"}</span>'


# images ------------------------------------------------------------------------------------------------------------


def _images(result: SearchResult) -> str:
    """The first image, then the best ones, best first."""
    verdicts = dict(zip((candidate.node for candidate in result.candidates), result.verdicts))
    figures = []
    if result.first is not None:
        first = result.finished[0] if result.finished else None
        figures.append(_figure("first sample", result.first, first, verdicts, "first"))
    for rank, (image, candidate) in enumerate(zip(result.images, result.candidates), 1):
        name, kind = ("best", "best") if rank == 1 else (f"#{rank}", "")
        figures.append(_figure(name, image, candidate, verdicts, kind))
    if not figures:
        return ""
    title = "<h2>Images <small>the first sample is what there would be without a search</small></h2>"
    return f'<section>{title}<div class="images">{"".join(figures)}</div></section>'


def _figure(
    name: str, image: Image.Image, candidate: Candidate | None, verdicts: Mapping[str, tuple[float, bool]], kind: str
) -> str:
    lines = [f"<b>{name}</b>"]
    if candidate:
        lines.append(f"reward {candidate.reward:.4f}")
        if candidate.node in verdicts:
            gold, passed = verdicts[candidate.node]
            lines.append(f"gold {gold:.2f} · {_pass(passed)}")
        lines.append(f"<small>at {candidate.nfe:,} NFE · <code>{escape(candidate.node[:8])}</code></small>")
    pixelated = ' class="pixelated"' if max(image.size) < _PIXELATED_BELOW else ""
    picture = f'<img{pixelated} src="{_embedded(image)}" alt="{name}">'
    caption = "".join(f"<span>{line}</span>" for line in lines)
    return f'<figure class="{kind}">{picture}<figcaption>{caption}</figcaption></figure>'


def _embedded(image: Image.Image) -> str:
    """A data: URI; a large image is reduced to at most MAX_SIDE pixels and becomes a JPEG."""
    data = BytesIO()
    if max(image.size) < _PIXELATED_BELOW:
        image.save(data, "PNG")
        return _uri(data.getvalue(), "png")
    small = image.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    small.save(data, "JPEG", quality=88)
    return _uri(data.getvalue(), "jpeg")


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


# curve and tree ----------------------------------------------------------------------------------------------------


def _curve(result: SearchResult) -> str:
    if not result.finished:
        return ""
    svg = curve(result.finished, result.ledger.nfe, _reward_name(result))
    marks = (("line", "best so far"), ("line without", "first sample"), ("dot", "finished image"))
    key = _spans(f'<i class="{mark}"></i> {meaning}' for mark, meaning in marks)
    return f'<section><h2>Best reward over NFE</h2>{key}<div class="scroll">{svg}</div></section>'


def _tree(result: SearchResult) -> str:
    """A view of the best leaves and, if there are more, a hidden one of all."""
    if not result.tree["nodes"]:
        return ""
    tree = forest(result.tree["nodes"])
    badges = _badges(result, tree)
    images = _thumbnails(result, tree, badges)
    best = tree.index.get(result.best.node) if result.best else None
    drawing = Drawing(tree, result.config.levels, images, badges, best)
    shown = best_leaves(tree, LEAVES, badges)
    views, button = f'<div class="view">{drawing.view(shown)}</div>', ""
    if len(shown) < len(tree.nodes):
        views += f'<div class="view" hidden>{drawing.view(range(len(tree.nodes)))}</div>'
        button = f'<button id="all" data-other="Show the best {LEAVES}">Show all {len(tree.leaves):,} leaves</button>'
    counts = f"{len(tree.nodes):,} nodes, {len(tree.leaves):,} leaves"
    counts += f", {len(tree.particles):,} fused" if tree.particles else ""
    return f"""<section><h2>Tree <small>{counts}</small> {button}</h2>{_key(drawing)}
<svg class="defs" width="0" height="0">{"".join(thumbnail(node, uri) for node, uri in images.items())}</svg>
<div class="scroll forest">{drawing.axis()}{views}</div>
<script type="application/json" id="nodes">{_json(node_data(tree))}</script></section>"""


def _badges(result: SearchResult, tree: Forest) -> dict[int, str]:
    """What is written beside the leaves that are shown as images above."""
    names = {result.finished[0].node: "first"} if result.finished else {}
    for rank, candidate in enumerate(result.candidates, 1):
        names[candidate.node] = f"#{rank}" + (" first" if candidate.node in names else "")
    return {tree.index[node]: name for node, name in names.items() if node in tree.index}


def _thumbnails(result: SearchResult, tree: Forest, always: Iterable[int]) -> dict[int, str]:
    """By node, best first, as many data: URIs as THUMBNAIL_BYTES allow; those of `always` before others."""
    nodes = [tree.index[id] for id in result.thumbnails if id in tree.index]
    nodes.sort(key=lambda node: (node in always, tree.keys[node]), reverse=True)
    uris, room = {}, THUMBNAIL_BYTES
    for node in nodes:
        data = result.thumbnails[tree.nodes[node]["id"]]
        room -= len(data)
        if room < 0:
            break
        uris[node] = _uri(data, "jpeg")
    return uris


def _key(drawing: Drawing) -> str:
    """What the colours and marks mean."""
    scale = drawing.scale
    low = f"{'≤ ' if scale.clipped else ''}{scale.low:.4f}"
    parts = [f'value {low} <i class="scale"></i> {scale.high:.4f}', '<i class="dot none"></i> no value', "larger: more visits"]
    parts.append("number: levels per jump, where it changes")
    if drawing.best:
        parts.append('<i class="line"></i> the best image')
    if drawing.tree.particles:
        parts.append('<i class="diamond"></i> fused, <i class="line fusion"></i> from its particles')
    return _spans(parts)


def _spans(parts: Iterable[str]) -> str:
    return f'<p class="key">{"".join(f"<span>{part}</span>" for part in parts)}</p>'


def _json(value: Any) -> str:
    """JSON that may stand inside <script>."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


# ledger and configuration ------------------------------------------------------------------------------------------


def _ledger(result: SearchResult) -> str:
    rows = "".join(
        f"<tr><th>{_UNITS.get(name, name.replace('_', ' '))}</th><td>{_amount(amount)}</td></tr>"
        for name, amount in result.ledger.to_dict().items()
    )
    refused, instead = Counter(), Counter()
    for name, count in result.refusals.items():
        (instead if name == Refusal.STILL else refused)[f"{name}: {REASONS[name]}" if name in REASONS else name] = count
    return f"""<section><h2>Ledger</h2><div class="account"><table class="ledger">{rows}</table>
<div>{_counted("Refused fusions", refused)}
{_counted("Fused by innovation instead", instead)}
{_counted("Errors", Counter(result.errors))}</div></div></section>"""


def _amount(amount: float) -> str:
    return f"{amount:,}" if isinstance(amount, int) else f"{amount:,.2f}"


def _counted(name: str, counts: Counter[str]) -> str:
    """A list of what happened how often; nothing if nothing did."""
    if not counts:
        return ""
    items = [f"<li><b>{count} ×</b> {escape(what)}</li>" for what, count in counts.most_common(_MAX_ERRORS)]
    if len(counts) > _MAX_ERRORS:
        items.append(f"<li>and {len(counts) - _MAX_ERRORS} others</li>")
    return f'<h3>{name} <small>{sum(counts.values())}</small></h3><ul class="counts">{"".join(items)}</ul>'


def _config(result: SearchResult) -> str:
    fields = type(result.config).model_fields
    rows = "".join(
        f"<tr><th><code>{name}</code></th><td><code>{escape(json.dumps(value, ensure_ascii=False))}</code></td>"
        f"<td>{escape(fields[name].description or '')}</td></tr>"
        for name, value in result.config.model_dump(mode="json").items()
    )
    table = f'<div class="scroll"><table class="config">{rows}</table></div>'
    return f"<section><details><summary>Configuration</summary>{table}</details></section>"
