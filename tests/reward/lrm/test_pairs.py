import json

import numpy as np
import pytest

from mcts_ray.reward.lrm.pairs import NAMES, read_pairs
from tests.reward.lrm.pictures import png, write_folder, write_parquet

A, B, C = png(0), png(1), png(2)
ROWS = [("a fox", A, B, 1.0), ("a fox", B, C, 0.5), ("a hen", A, C, 1.0)]


def check(pairs):
    assert pairs.prompts == ("a fox", "a hen") and len(pairs.images) == 3 and len(pairs) == 3
    assert pairs.prompt_P.tolist() == [0, 0, 1]
    assert pairs.image_P2.tolist() == [[0, 1], [1, 2], [0, 2]]
    assert pairs.label_P.tolist() == [1.0, 0.5, 1.0]
    np.testing.assert_allclose(pairs.weight_P, [0.5, 0.5, 1.0])


@pytest.mark.parametrize("names", NAMES)
def test_parquet_of_either_naming_in_one_file_or_several(tmp_path, names):
    one = read_pairs(write_parquet(tmp_path / "pairs.parquet", ROWS, names))
    check(one)
    write_parquet(tmp_path / "many" / "0.parquet", ROWS[:1], names)
    write_parquet(tmp_path / "many" / "1.parquet", ROWS[1:], names)
    several = read_pairs(tmp_path / "many")
    check(several)
    assert several.fingerprint == one.fingerprint


def test_parquet_with_images_as_datasets_stores_them(tmp_path):
    rows = [(prompt, {"bytes": a, "path": None}, {"bytes": b, "path": "b.png"}, label) for prompt, a, b, label in ROWS]
    check(read_pairs(write_parquet(tmp_path / "pairs.parquet", rows)))


def test_a_folder_with_a_manifest(tmp_path):
    folder = write_folder(tmp_path / "pairs", ROWS)
    check(read_pairs(folder))
    assert read_pairs(folder).fingerprint == read_pairs(write_parquet(tmp_path / "p.parquet", ROWS)).fingerprint
    other = write_folder(tmp_path / "other", [("a fox", B, A, 1.0), *ROWS[1:]])
    assert read_pairs(other).fingerprint != read_pairs(folder).fingerprint


def test_the_second_may_be_the_better_one(tmp_path):
    rows = [("a fox", A, B, 0.0), ("a fox", B, C, 1.0)]
    assert read_pairs(write_parquet(tmp_path / "p.parquet", rows)).label_P.tolist() == [0.0, 1.0]
    pairs = read_pairs(write_folder(tmp_path / "folder", rows))
    assert pairs.label_P.tolist() == [1.0, 1.0] and pairs.image_P2.tolist() == [[0, 1], [0, 2]]  # B before A


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (("a hen", None, B, 1.0), "row 2 of .* has no image_0"),
        (("a hen", A, b"", 1.0), "row 2 of .* has no image_1"),
        (("a hen", A, b"no image", 1.0), "row 2 of .* has an image that is none"),
        (("a hen", A, B, 0.7), "row 2 of .* has the label_0 0.7; it must be 1, 0.5"),
        (("a hen", A, B, None), "row 2 of .* has the label_0 None"),
        ((" ", A, B, 1.0), "row 2 of .* has no prompt"),
    ],
)
def test_a_bad_row_of_parquet_is_named(tmp_path, row, sentence):
    path = write_parquet(tmp_path / "pairs.parquet", [ROWS[0], row])
    with pytest.raises(ValueError, match=sentence) as error:
        read_pairs(path)
    assert "\n" not in str(error.value)


def test_a_parquet_file_damaged_inside_its_data_is_named_with_the_row_reached(tmp_path):
    path = write_parquet(tmp_path / "pairs.parquet", ROWS, compression="none", use_dictionary=False)
    data = path.read_bytes()
    at = data.index(A) - 4  # the length of the first image
    path.write_bytes(data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :])
    with pytest.raises(ValueError, match="pairs.parquet is damaged behind row 0: ") as error:
        read_pairs(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"prompt": "a hen", "better": "0-better.png", "worse": "gone.png"}, "line 2 of .* names the image gone.png, which cannot be read"),
        ({"prompt": "a hen", "better": "0-better.png"}, "line 2 of .* is no pair; write"),
        ({"prompt": "", "better": "0-better.png", "worse": "0-worse.png"}, "line 2 of .* needs a prompt"),
        ({"prompt": "a", "better": "0-better.png", "worse": "0-worse.png", "tie": "no"}, "a tie that is true or false"),
        ({"prompt": "a hen", "better": "0-better.png", "worse": "manifest.jsonl"}, "line 2 of .* has an image that is none"),
        ({"prompt": "a hen", "better": "a\0b.png", "worse": "0-worse.png"}, r"line 2 of .* names the image 'a\\x00b.png', which can be no"),
        ("not json", "line 2 of .* is no pair"),
    ],
)
def test_a_bad_line_of_a_manifest_is_named(tmp_path, line, sentence):
    folder = write_folder(tmp_path, ROWS[:1])
    with open(folder / "manifest.jsonl", "a") as file:
        file.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
    with pytest.raises(ValueError, match=sentence) as error:
        read_pairs(folder)
    assert "\n" not in str(error.value)


def test_places_without_pairs(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "manifest.jsonl").write_text("\n")
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "manifest.jsonl").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "text.parquet").write_text("no parquet")
    write_parquet(tmp_path / "other.parquet", [("a fox", 1.0)], ("caption", "score"))
    cases = {
        "gone": "there are no pairs at",
        "empty": "has neither manifest.jsonl nor a Parquet file",
        "none": "holds no pairs",
        "bytes": "cannot be read as text in UTF-8",
        "text.parquet": "is no Parquet file",
        "other.parquet": "has the columns caption, score; it needs prompt, image_0, image_1, label_0, or caption, jpg_0",
    }
    for name, sentence in cases.items():
        with pytest.raises(ValueError, match=sentence):
            read_pairs(tmp_path / name)
