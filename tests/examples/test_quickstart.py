from mpdf_langgraph import TraceReader
from tests.support.running import run_python


def run(*arguments):
    return run_python("examples/quickstart.py", *arguments)


def test_the_demo_shows_deliberations_and_a_table_and_leaves_traces(tmp_path):
    done = run("--questions", "8", "--show", "2", "--traces", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for expected in ("consensus:", "knows:", "(plain vote", "(classical", "accuracy"):
        assert expected in done.stdout
    counts = {}
    for router in ("always-persist", "always-refine", "threshold", "learned"):
        episodes = list(TraceReader(tmp_path / router))
        assert all(episode.reference for episode in episodes)
        counts[router] = len(episodes)
    assert counts == {"always-persist": 8, "always-refine": 8, "threshold": 8, "learned": 10}


def test_a_dead_server_is_said_in_one_line():
    done = run("--base-url", "http://127.0.0.1:9", "--model", "x")
    assert done.returncode == 1
    assert "cannot connect" in done.stdout
    assert "Traceback" not in done.stderr
