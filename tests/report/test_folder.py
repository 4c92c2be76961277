import pytest

from mcts_ray.report.folder import check_folder, open_folder


def test_a_folder_holds_one_design(tmp_path):
    out = tmp_path / "deep" / "out"
    check_folder({"a": 1}, out, "d.json", "an audit")
    open_folder({"a": 1, "b": 2}, out, "d.json", "an audit")
    open_folder({"a": 1, "b": 2}, out, "d.json", "an audit")
    with pytest.raises(ValueError, match=r"holds an audit of another design \(b differ\)"):
        check_folder({"a": 1, "b": 3}, out, "d.json", "an audit")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    for text in (None, "[1]", "{"):
        if text:
            (tmp_path / "d.json").write_text(text)
        with pytest.raises(ValueError, match="something else|another design"):
            open_folder({"a": 1}, tmp_path, "d.json", "an audit")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="audit folder .* cannot be written"):
        open_folder({"a": 1}, tmp_path / "file" / "out", "d.json", "an audit")
