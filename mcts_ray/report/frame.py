"""The frame of every page: one HTML file that needs nothing else, neither network nor files beside it."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from mcts_ray import __version__


def frame(title: str, body: str, *, css: str = "", script: str = "", after: str = "") -> str:
    """A whole page: `body` in the common style, `css` on top of it, `after` behind the main part. Scripts run only if there is one."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'" + ("; script-src 'unsafe-inline'" if script else "")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)} · mcts-ray</title>
<style>{asset("page.css")}{css}</style>
</head>
<body>
<main>
{body}
<footer>mcts-ray {__version__}</footer>
</main>
{after}{f"<script>{script}</script>" if script else ""}
</body>
</html>
"""


def asset(name: str) -> str:
    """The text of a file in this package."""
    return files("mcts_ray.report").joinpath(name).read_text(encoding="utf-8")
