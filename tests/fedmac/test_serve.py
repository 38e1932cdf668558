"""`fedmac report --serve`: what is found below a folder, how its state is told, and what the server answers to whom."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import HTTPError

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedmac
from fedmac.report.live.found import LeadsOutside, find, version_of
from fedmac.report.live.server import ReportServer, open_server
from fedmac.report.live.state import QUIET_S, State, lines_from_the_end, read_state
from fedmac.scenario_errors import ScenarioError
from tests.fedmac.runs_under_way import begun, make_sweep
from tests.fedmac.small_scenario import VARIANTS, small
from tests.fedmac.synthetic_runs import NASTY
from tests.interruptible import interruptible

ROUNDS = 3
HOUR = 3600.0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two variants under two seeds."""
    return fedmac.run(small(variants=VARIANTS, seeds=2), out=tmp_path_factory.mktemp("made") / "small").folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


@pytest.fixture
def server(root: Path) -> Iterator[ReportServer]:
    """A server of the folder, in a thread."""
    with open_server(root, 0) as opened:
        thread = threading.Thread(target=opened.serve_forever, args=(0.01,))
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def get(server: ReportServer, path: str = "/") -> str:
    with urllib.request.urlopen(server.url.rstrip("/") + path, timeout=30) as answer:
        return str(answer.read().decode())


def version(server: ReportServer, path: str) -> str:
    return str(json.loads(get(server, path))["version"])


def ask(server: ReportServer, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body, with the path sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def until(there: Callable[[], bool]) -> None:
    """Wait for something that the server notices within moments; a minute is a failure."""
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


def sum_up(folder: Path, **content: object) -> None:
    (folder / "summary.json").write_text(json.dumps({"variants": [], **content}))


def text_of(html: str) -> str:
    """What a reader sees."""
    parts: list[str] = []
    parser = HTMLParser()
    parser.handle_data = parts.append  # type: ignore[method-assign]
    parser.feed(html[html.index("<body") : html.index("<script")])
    return re.sub(r"\s+", " ", " ".join(parts))


@given(st.binary(max_size=200).map(lambda b: b.replace(b"a", b"\n")), st.integers(1, 50))
def test_lines_from_the_end_are_the_whole_lines_reversed(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, block: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines"
    path.write_bytes(content)
    assert list(lines_from_the_end(path, block)) == content.split(b"\n")[:-1][::-1]


def test_a_finished_run_is_finished_however_old_and_shows_means_over_seeds(finished: Path) -> None:
    facts = read_state(finished)
    assert (facts.name, facts.rounds, facts.planned) == ("small", 4 * ROUNDS, 4 * ROUNDS)
    assert facts.state(facts.written + 1000 * HOUR) is State.finished
    rows = json.loads((finished / "summary.json").read_text())["variants"]
    for variant, row in zip(facts.variants, rows, strict=True):
        assert (variant.name, variant.seed) == (row["name"], None)
        assert (variant.accuracy, variant.spread) == (row["test_accuracy"], row["test_accuracy_std"])
        assert variant.energy == row["energy_j_per_device_mean"]


def test_an_unfinished_run_runs_until_it_has_been_silent_for_a_minute(finished: Path, root: Path) -> None:
    facts = read_state(begun(finished, root / "a", lines=3))
    assert (facts.rounds, facts.planned) == (2, 4 * ROUNDS)
    assert facts.patience_s == QUIET_S
    assert facts.state(facts.written + QUIET_S - 1) is State.running
    assert facts.state(facts.written + QUIET_S + 1) is State.interrupted
    last = json.loads((root / "a/rlc/rounds.jsonl").read_text().splitlines()[-1])
    assert (facts.variants[0].accuracy, facts.variants[0].seed) == (last["test_accuracy"], 0)
    assert facts.variants[1].accuracy is None


def test_a_run_of_slow_rounds_is_given_the_time_of_five(finished: Path, root: Path) -> None:
    record = begun(finished, root / "a", lines=3) / "rlc" / "rounds.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    lines[-1]["wall_s"] = 2 * HOUR  # for two rounds
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = read_state(root / "a")
    assert facts.state(facts.written + 4.9 * HOUR) is State.running
    assert facts.state(facts.written + 5.1 * HOUR) is State.interrupted


def test_a_run_that_says_it_was_interrupted_is_until_it_goes_on(finished: Path, root: Path) -> None:
    folder = begun(finished, root / "a", lines=3)
    sum_up(folder, interrupted=True)
    assert read_state(folder).state(time.time()) is State.interrupted
    later = time.time() + 1  # resumed: the scenario and the environment are written anew
    os.utime(folder / "environment.json", (later, later))
    assert read_state(folder).state(later) is State.running


def test_finished_seeds_and_the_one_under_way_are_counted(finished: Path, root: Path) -> None:
    folder = begun(finished, root / "a", lines=ROUNDS + 1 + 2)  # seed 0 done, seed 1 after its first round
    shutil.copy(finished / "rlc" / "model.safetensors", folder / "rlc")
    facts = read_state(folder)
    assert (facts.rounds, facts.variants[0].seed) == (ROUNDS + 1, 1)


def test_a_line_that_is_being_written_does_not_count(finished: Path, root: Path) -> None:
    folder = begun(finished, root / "a", lines=3)
    with (folder / "rlc" / "rounds.jsonl").open("a") as record:
        record.write('{"variant": "rlc", "seed": 0, "rou')
    assert (read_state(folder).rounds, read_state(folder).error) == (2, "")


def test_rounds_without_an_evaluation_show_the_last_one(finished: Path, root: Path) -> None:
    record = begun(finished, root / "a", lines=4) / "rlc" / "rounds.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    for line in lines[2:]:
        del line["test_accuracy"]
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    variant = read_state(root / "a").variants[0]
    assert (variant.rounds, variant.accuracy) == (3, lines[1]["test_accuracy"])
    assert variant.energy == lines[3]["energy_j_per_device_mean"]


def test_runs_are_found_at_any_depth_and_variants_and_hidden_folders_are_none(finished: Path, root: Path) -> None:
    shutil.copytree(finished, root / "b")
    shutil.copytree(finished, root / "deep" / "er" / "a")
    shutil.copytree(finished, root / ".hidden" / "c")
    assert list(find(root).runs) == ["b", "deep/er/a"]
    assert list(find(root / "b").runs) == [""]


def test_links_out_of_the_folder_are_not_followed(finished: Path, root: Path) -> None:
    (root / "link").symlink_to(finished)
    assert not find(root).runs
    shutil.copytree(finished, root / "a")
    (root / "a/rlc/rounds.jsonl").unlink()
    (root / "a/rlc/rounds.jsonl").symlink_to(finished / "rlc/rounds.jsonl")
    with pytest.raises(LeadsOutside, match=r"rounds\.jsonl"):
        version_of(root / "a", root)
    shutil.rmtree(root / "a/rlc")
    (root / "a/rlc").symlink_to(finished / "rlc")
    with pytest.raises(LeadsOutside):
        version_of(root / "a", root)


def test_the_index_lists_runs_with_state_rounds_and_accuracy(server: ReportServer, root: Path, finished: Path) -> None:
    assert "No run is here yet" in get(server)
    shutil.copytree(finished, root / "deep" / "done")
    begun(finished, root / "under way", lines=2)
    until(lambda: "under way" in get(server))
    page = text_of(get(server))
    assert "2 runs · 1 running" in page
    assert "✓ finished" in page
    assert "▶ running" in page
    assert f"1 of {2 * ROUNDS}" in page
    row = json.loads((finished / "summary.json").read_text())["variants"][0]
    assert f"{row['test_accuracy']:.3f} ± {row['test_accuracy_std']:.3f}" in page
    assert 'href="/run/under%20way"' in get(server)


def test_a_run_has_its_report_and_a_round_changes_the_version(server: ReportServer, root: Path, finished: Path) -> None:
    folder = begun(finished, root / "a b", lines=2)
    page = get(server, "/run/a%20b")
    assert "/version/a%20b" in page
    assert "connect-src 'self'" in page
    before, index = version(server, "/version/a%20b"), version(server, "/version")
    assert before in page, "the page knows which version it shows"
    lines = (finished / "rlc" / "rounds.jsonl").read_text().splitlines(keepends=True)
    with (folder / "rlc" / "rounds.jsonl").open("a") as record:
        record.write(lines[2])
    until(lambda: version(server, "/version/a%20b") != before)
    assert version(server, "/version/a%20b") in get(server, "/run/a%20b")
    until(lambda: version(server, "/version") != index)
    assert f"2 of {2 * ROUNDS}" in text_of(get(server))


def test_a_run_may_be_served_itself_and_while_a_line_is_cut(finished: Path, root: Path) -> None:
    folder = begun(finished, root / "a", lines=3)
    with (folder / "rlc" / "rounds.jsonl").open("a") as record:
        record.write('{"variant": "rl')
    with open_server(folder, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert 'href="/run/"' in get(server)
        assert 'id="accuracy"' in get(server, "/run/")
        server.shutdown()


def test_a_sweep_is_one_entry_with_its_cells_folded(server: ReportServer, root: Path, finished: Path) -> None:
    sweep = make_sweep(finished, root / "snr")
    (sweep / "comparison").mkdir()
    (sweep / "comparison" / "comparison.html").write_text("<p>compared</p>")
    html = get(server)
    page = text_of(html)
    assert "1 sweep · 1 comparison" in page
    assert "2 of 4 runs: 1 finished, 1 failed, 2 waiting" in page
    assert "channel.snr_db=0, seed 1 failed: killed by signal 9" in page
    assert "Best so far:" in page
    assert "<details" in html
    assert "<h2>Runs</h2>" not in html, "runs of a sweep stand with it alone"
    assert 'id="accuracy"' in get(server, "/run/snr/cells/channel.snr_db%3D0/seed-0")
    assert get(server, "/comparison/snr/comparison") == "<p>compared</p>"


def test_a_sweep_whose_plan_is_broken_says_so_and_keeps_its_runs(
    server: ReportServer, root: Path, finished: Path
) -> None:
    make_sweep(finished, root / "snr")
    (root / "snr" / "sweep.toml").write_text("name = [")
    html = get(server)
    assert "sweep.toml: cannot be read" in text_of(html)
    assert 'href="/run/snr/cells/channel.snr_db%3D0/seed-0"' in html


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("scenario.toml", "rounds = 'many'\n", "rounds"),
        ("summary.json", "{", "summary.json: not valid JSON"),
        ("rlc/rounds.jsonl", '{"seed": 0, "round": 0}\nnonsense\n', "rlc/rounds.jsonl: one of the last lines"),
    ],
)
def test_a_broken_run_says_what_is_wrong_and_the_others_stay(
    server: ReportServer, root: Path, finished: Path, name: str, content: str, reason: str
) -> None:
    shutil.copytree(finished, root / "fine")
    begun(finished, root / "bad", lines=2)
    (root / "bad" / name).write_text(content)
    page = text_of(get(server))
    assert "✗ broken" in page
    assert reason in page
    assert "✓ finished" in page
    assert ask(server, "GET", "/run/fine")[0] == 200


def test_an_error_is_a_page_and_a_line_and_the_server_lives_on(
    server: ReportServer, root: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, root / "bad\nfedmac: forged")
    (root / "bad\nfedmac: forged" / "rlc" / "rounds.jsonl").write_text("<b>\n<b>\n")
    status, body = ask(server, "GET", "/run/bad%0Afedmac%3A%20forged")
    assert status == 500
    assert b"rounds.jsonl:1" in body
    assert b"<b>" not in body
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("fedmac: ")
    assert "rounds.jsonl:1" in line
    assert ask(server, "GET", "/")[0] == 200


def test_names_are_shown_as_they_are(server: ReportServer, root: Path, finished: Path) -> None:
    name = NASTY.replace("/", "|") + "\udcff"  # no name holds a slash, but one may hold a byte that is no text
    begun(finished, root / name, lines=2)
    html = get(server)
    (link,) = re.findall(r'href="(/run/[^"]*)"', html)
    assert ask(server, "GET", link)[0] == 200
    assert "<i>" not in html
    assert name[:-1] in text_of(html)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil.example", ""]
)
def test_a_request_meant_for_another_host_is_refused(server: ReportServer, host: str) -> None:
    assert ask(server, "GET", "/version", {"Host": host})[0] == 403


def test_this_machine_may_be_called_by_either_name(server: ReportServer) -> None:
    for host in ("localhost", "LOCALHOST:1234", "127.0.0.1", f"127.0.0.1:{server.server_port}"):
        assert ask(server, "GET", "/version", {"Host": host})[0] == 200
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_nothing_but_get_and_head_is_answered(server: ReportServer, method: str) -> None:
    assert ask(server, method, "/")[0] == 405


def test_head_is_get_without_a_body(server: ReportServer) -> None:
    assert ask(server, "HEAD", "/") == (200, b"")
    assert ask(server, "HEAD", "/nothing") == (404, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/run/../secret", "/run/%2e%2e/secret", "/run/..%2fsecret", "/run//{outside}/secret", "/comparison/../secret",
        "/comparison/..%2Fsecret%2Fcomparison.html", "/run/a/../../secret", "/run/a/scenario.toml", "/../secret",
        "/run/%00", "/run", "/static/x", "/run/secret",
    ],
)  # fmt: skip
def test_only_what_was_found_below_the_folder_is_there(
    server: ReportServer, root: Path, finished: Path, path: str
) -> None:
    shutil.copytree(finished, root / "a")
    secret = shutil.copytree(finished, root.parent / "secret")
    (secret / "comparison.html").write_text("secret")
    (root / "secret").symlink_to(secret)
    status, body = ask(server, "GET", path.replace("{outside}", str(root.parent)))
    assert status == 404
    assert b"small" not in body


def test_a_comparison_that_is_a_link_out_is_not_shown(server: ReportServer, root: Path) -> None:
    (root.parent / "secret.html").write_text("secret")
    (root / "comparison.html").symlink_to(root.parent / "secret.html")
    status, body = ask(server, "GET", "/comparison/")
    assert status == 500
    assert b"<p>secret" not in body


def test_no_answer_is_kept_by_the_browser(server: ReportServer) -> None:
    for path in ("/", "/version"):
        with urllib.request.urlopen(server.url.rstrip("/") + path, timeout=30) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(server.url + "nothing", timeout=30)
    assert refused.value.headers["Cache-Control"] == "no-store"


def test_a_port_that_was_asked_for_and_is_taken_is_refused_and_another_is_found_otherwise(
    server: ReportServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ScenarioError, match=f"--port = {server.server_port}: taken; accepted: a free port"):
        open_server(root, server.server_port)
    monkeypatch.setattr("fedmac.report.live.server.DEFAULT_PORT", server.server_port)
    with open_server(root) as other:
        assert other.server_port > server.server_port
    with pytest.raises(ScenarioError, match="no such folder"):
        open_server(root / "nothing")


def test_ctrl_c_ends_quietly_and_frees_the_port(root: Path) -> None:
    command = interruptible("-m", "fedmac.cli", "report", str(root), "--serve", "--port", "0")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)/ \(Ctrl-C to end\)", line)[1])  # type: ignore[index]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        assert answer.status == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    open_server(root, port).server_close()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["a", "b", "--serve"], "too many for --serve; accepted: one folder"),
        (["a", "--serve", "--out", "x.html"], "--out = x.html: has no meaning with --serve"),
        (["a", "--port", "80"], "--port = 80: has no meaning without --serve"),
        (["nothing", "--serve"], "FOLDER = 'nothing': no such folder"),
    ],
)
def test_options_that_do_not_fit_together_end_with_2(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    from fedmac import cli

    monkeypatch.chdir(root)
    (root / "a").mkdir()
    monkeypatch.setattr("sys.argv", ["fedmac", "report", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert reason in capfd.readouterr().err
