"""Prompt files: JSON lines with a "prompt" (GenEval), tables with a column of prompts (DrawBench), or one prompt a line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from mcts_ray.request import read_prompts

COLUMNS = ("prompt", "prompts")  # whatever the case of their letters


def read_prompt_file(file: Path) -> list[str]:
    """The prompts of a .jsonl, .csv, .tsv or any other text file, in its order. Raises ValueError with one sentence."""
    readers = {".jsonl": _json_lines, ".csv": _table, ".tsv": _table}
    if file.suffix.lower() not in readers:
        return read_prompts(file)
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            prompts = readers[file.suffix.lower()](file, lines)
    except OSError as error:
        raise ValueError(f"prompts file {file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts file {file} is not text in UTF-8") from error
    if not prompts:
        raise ValueError(f"prompts file {file} holds no prompt")
    return prompts


def _json_lines(file: Path, lines) -> list[str]:
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, TypeError, KeyError):
            prompt = None
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f'prompts file {file}, line {number}: expected a JSON object with a "prompt"')
        prompts.append(prompt.strip())
    return prompts


def _table(file: Path, lines) -> list[str]:
    rows = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
    column = next((name for name in rows.fieldnames or () if name and name.strip().lower() in COLUMNS), None)
    if column is None:
        raise ValueError(f"prompts file {file} has no column named Prompts")
    return [row[column].strip() for row in rows if (row[column] or "").strip()]
