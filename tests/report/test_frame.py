from mcts_ray.report.frame import frame


def test_scripts_run_only_where_there_are_some():
    plain, lively = frame("a <b>", "<p>body</p>"), frame("a", "", css=".x{}", script="1+1", after="<div id=tip></div>")
    assert "script" not in plain and "<title>a &lt;b&gt; · mcts-ray</title>" in plain and "<p>body</p>" in plain
    assert "script-src 'unsafe-inline'" in lively and lively.index("tip") < lively.index("<script>1+1</script>") and ".x{}" in lively
