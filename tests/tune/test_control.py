"""The command that steers a search: against a driver that only obeys, and against a real search."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from patience import finish, wait_for
from searches import ROOT, here, start, tiny, trials
from steered import at_work

from tune import control, search
from tune.results import Writer, create_experiment, read_experiment


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    root = tmp_path / "lake"
    create_experiment(root, "first", {"dataset": "phantom", "space": {"parameters": {"loss.adversarial": {"min": 0, "max": 1}}}})
    with Writer(root, "first") as writer:
        for number, status in enumerate(("finished", "running", "interrupted")):
            writer.append("trials", {"trial_id": f"{number:05d}", "number": number, "status": status})
    return root


def typed(lake: Path, *arguments: str) -> int:
    return control.main(["first", *arguments, "--storage", str(lake)])


@pytest.mark.long
def test_the_answer_is_printed(lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "mine.yaml"
    settings.write_text("loss.adversarial: 0.1\n")
    with at_work(lake, "first"):
        assert typed(lake, "stop", "1") == 0
        assert typed(lake, "enqueue", str(settings)) == 0
        assert capsys.readouterr().out.splitlines() == ["stop 1: done", "enqueue {'loss.adversarial': 0.1}: done"]
        assert typed(lake, "budget", "+1gpuh") == 2
        assert capsys.readouterr().err == "error: the search has no GPU-hours to add to\n"
    assert [one["ask"] for one in read_experiment(lake, "first").description["requests"]] == ["stop", "enqueue", "budget"]


def test_a_request_waits_for_the_search_to_go_on(
    lake: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PATIENCE", 0.0)
    assert typed(lake, "stop", "2") == 0
    said = capsys.readouterr().out
    assert "nobody works on first; it will be obeyed when the search goes on" in said
    assert f"python tune/search.py --resume first --storage {lake}" in said
    assert typed(lake, "trials", "+3", "--no-wait") == 0
    left = [json.loads(path.read_text()) for path in sorted((lake / "first/tune/requests").iterdir())]
    assert [(one["ask"], one.get("trial"), one.get("count")) for one in left] == [("stop", 2, None), ("trials", None, 3)]
    assert all("@" in one["by"] for one in left)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("stop", "0"), "trial 0 has ended already: it is finished"),
        (("stop", "7"), "first has no trial 7; its trials are 0 to 2"),
        (("stop",), "give a trial's number"),
        (("budget", "10"), "such as +10h"),
        (("enqueue",), "needs a file with settings"),
        (("enqueue", "nowhere.yaml"), "nowhere.yaml cannot be read: No such file"),
        (("enqueue", "wrong.yaml"), "wrong.yaml: model.latent_size is not searched by first, which searches loss.adversarial"),
        (("enqueue", "binary.yaml"), "binary.yaml is not UTF-8 text"),
        (("enqueue", "/dev/zero"), "/dev/zero has more than"),
        (("pause", "--storage", "s3://"), "s3"),
        (("pause", "--storage", "nowhere"), "no experiment named 'first'"),
    ],
)
def test_wrong_input_is_one_sentence(
    arguments: tuple[str, ...],
    problem: str,
    lake: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("model.latent_size: 3")
    (tmp_path / "binary.yaml").write_bytes(b"\x80\x04\x95")
    assert control.main(["first", "--storage", str(lake), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert problem in captured.err
    assert not list((lake / "first").glob("tune/requests/*"))


@pytest.mark.long
def test_it_is_light() -> None:
    code = "import sys, tune.control; print([name for name in ('ray', 'torch', 'optuna', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.long
def test_what_was_asked_meanwhile_is_obeyed_and_stays(lake: Path, tmp_path: Path) -> None:
    """More trials for a search that has ended, and settings of somebody's own; neither is forgotten, or done twice."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("diffusion.timesteps: 1\nloss.adversarial: 0.0625\n")
    here("--space", tiny(tmp_path, epochs=1), "--trials", 3, "--storage", lake, "--name", "own")
    for words in (("trials", "+2"), ("enqueue", str(mine))):
        assert control.main(["own", *words, "--storage", str(lake), "--no-wait"]) == 0
    for _ in range(2):
        here("--resume", "own", "--storage", lake)
        table = trials(lake, "own")
        assert table["kind"].value_counts().to_dict() == {"published": 1, "unet": 1, "searched": 2, "tried": 1}
        assert table.loc[table["kind"] == "tried", "config.loss.adversarial"].tolist() == [0.0625]
    assert [one["obeyed"] for one in read_experiment(lake, "own").description["requests"]] == [True, True]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--notify", "ftp://host/secret"), "--notify is no address of a webhook"),
        (("--notify-command", "no-such-program"), "there is no program 'no-such-program'"),
        (("--try", "nowhere.yaml"), "nowhere.yaml cannot be read"),
        (("--try", "wide.yaml"), "wide.yaml: loss.adversarial is 7"),
        (("--resume", "first", "--try", "wide.yaml"), "--try is for the start"),
    ],
)
def test_a_search_refuses_wrong_ones_before_it_begins(
    options: tuple[str, ...],
    problem: str,
    lake: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    space = ("--space", str(tiny(tmp_path)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wide.yaml").write_text("diffusion.timesteps: 1\nloss.adversarial: 7\n")
    assert search.main([*options, *(() if "--resume" in options else space), "--storage", str(lake)]) == 2
    said = capsys.readouterr().err
    assert problem in said
    assert said.count("\n") == 1
    assert "secret" not in said
    assert [path.name for path in lake.iterdir() if path.is_dir()] == ["first"]


@pytest.mark.ray
def test_a_real_search_obeys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings before the start and meanwhile, a stop, more trials; the end is told to a command."""
    lake, told = tmp_path / "lake", tmp_path / "told"
    first, second = tmp_path / "one.yaml", tmp_path / "two.yaml"
    first.write_text("diffusion.timesteps: 2\nloss.adversarial: 0.125\n")
    second.write_text("diffusion.timesteps: 1\nloss.adversarial: 0.0625\n")
    options = ["--space", tiny(tmp_path, epochs=999), "--trials", 2, "--try", first, "--max-concurrent", 1, "--scheduler", "none"]
    command = [*options, "--storage", lake, "--name", "first", "--notify-command", f"cp /dev/stdin {told}"]
    with start(*command) as process:

        def running() -> list[int]:  # with something to show
            table = trials(lake, "first") if list(lake.glob("first/trials/*.parquet")) else None
            return [] if table is None else table.loc[(table["status"] == "running") & (table["epochs"] > 0), "number"].tolist()

        def stop_all() -> bool:
            for number in running():
                typed(lake, "stop", str(number))
            return process.poll() is not None

        wait_for(running)
        assert typed(lake, "trials", "+1") == 0
        assert typed(lake, "enqueue", str(second)) == 0
        wait_for(stop_all)
        output = finish(process)
    assert process.returncode == 0, output
    table = trials(lake, "first").set_index("number")
    assert table["kind"].value_counts()["tried"] == 2
    assert {0.125, 0.0625} <= set(table.loc[table["kind"] == "tried", "config.loss.adversarial"])
    assert set(table["reason"]) == {"stopped by hand"}
    assert set(table["status"]) == {"stopped"}
    assert "there will be 3 trials" in capsys.readouterr().out
    assert told.read_text().startswith(f"first: the search finished: {len(table)} trials, best Dice")
