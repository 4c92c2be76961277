import json

import pytest

from mcts_ray.compare.prompts import read_prompt_file

ASKED = ["a photo of a bench", 'a "red", wide car']


def test_the_three_kinds_of_file(tmp_path):
    lines = [json.dumps({"tag": "single_object", "prompt": prompt}) for prompt in ASKED]
    (tmp_path / "geneval.jsonl").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "drawbench.csv").write_text('\ufeffPrompts,Category\r\na photo of a bench,Colors\r\n"a ""red"", wide car",Misc\r\n')
    (tmp_path / "drawbench.tsv").write_text('Category\tPrompts\nColors\ta photo of a bench\nMisc\t"a ""red"", wide car"\n')
    (tmp_path / "plain.txt").write_text("# mine\n" + "\n".join(ASKED))
    for name in ("geneval.jsonl", "drawbench.csv", "drawbench.tsv", "plain.txt"):
        assert read_prompt_file(tmp_path / name) == ASKED, name


MISTAKES = {
    "a.jsonl": ('{"prompt": "a ring"}\n{"text": "a ring"}', 'line 2: expected a JSON object with a "prompt"'),
    "b.jsonl": ("a ring", "line 1: expected a JSON object"),
    "c.csv": ("text,category\na ring,x", "has no column named Prompts"),
    "d.csv": ("Prompts,Category\n", "holds no prompt"),
    "e.csv": ("", "has no column named Prompts"),
    "f.txt": ("# nothing\n", "holds no prompt"),
    "g.csv": (None, "cannot be read (No such file or directory)"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(tmp_path, name):
    text, message = MISTAKES[name]
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as error:
        read_prompt_file(tmp_path / name)
    assert message in str(error.value) and name in str(error.value)
