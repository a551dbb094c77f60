"""The command line: every way to get the target wrong, exit codes, what goes to which stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from report_cases import accumulated, page_of, plain

from batchfinder.cli import main
from batchfinder.cli.factory import made_by
from batchfinder.errors import InvalidArgument, MissingDependency
from batchfinder.report import Report

TRAINING_THAT_PRINTS = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Loud(nn.Linear):
    def forward(self, x):
        print("called")
        return super().forward(x)


def make():
    print("made")
    rows = TensorDataset(torch.zeros(64, 4), torch.zeros(64, dtype=torch.long))
    return Loud(4, 3), DataLoader(rows, 8), {"loss_fn": nn.CrossEntropyLoss()}
"""

FACTORIES = """
import json

NUMBER = 3


def good():
    return "model", "loader"


def with_options():
    return "model", "loader", {"seed": 7}


def unknown_options():
    return "model", "loader", {"sed": 7, "colour": "red"}


def options_of_another_kind():
    return "model", "loader", ["seed"]


def needs(path, *, depth):
    return path, depth


def optional(path="here", *rest, **more):
    return path, "loader"


def nothing():
    pass


def one():
    return ("model",)


def a_list():
    return ["model", "loader"]


def broken():
    return 1 / 0
"""


def accepts(model: Any, loader: Any, *, seed: int = 0) -> None:
    """Stands in for find_batch_size."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("BATCHFINDER_QUIET", raising=False)
    for name in ("factories", "half", "pack", "pack.inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "factories.py").write_text(FACTORIES)
    (tmp_path / "half.py").write_text("import a_package_that_nobody_has\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_good_targets() -> None:
    assert made_by("factories:good", accepts).loader == "loader"
    assert made_by("factories:with_options", accepts).options == {"seed": 7}
    assert made_by("factories:optional", accepts).model == "here"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("factories", "such as train:make"),
        (":good", "such as train:make"),
        ("factories:", "such as train:make"),
        ("factories.py:good", "such as train:make"),
        ("./factories:good", "such as train:make"),
        ("nowhere:good", "no module 'nowhere' here. Looked from"),
        ("pack.inner:good", "no module 'pack.inner'"),
        ("factories.inner:good", "no module 'factories.inner'"),
        ("factories:god", "no 'god'; its functions are good, with_options"),
        ("pack:good", "it defines no function"),
        ("factories:NUMBER", "factories:NUMBER is of type int"),
        ("factories:needs", "factories:needs needs path, depth"),
        ("factories:nothing", r"nothing\(\) to return .* returned nothing"),
        ("factories:one", "a tuple of 1"),
        ("factories:a_list", "returned a list"),
        ("factories:unknown_options", "accepts does not accept: colour, sed"),
        ("factories:options_of_another_kind", "dict of keyword arguments; found list"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_every_wrong_target_says_how(target: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        made_by(target, accepts)


@pytest.mark.usefixtures("folder")
def test_the_users_own_errors_pass_through() -> None:
    with pytest.raises(ZeroDivisionError):
        made_by("factories:broken", accepts)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        made_by("half:make", accepts)


def test_show_prints_the_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain().to_json(folder / "report.json")
    assert main(["show", "report.json"]) == 0
    assert capsys.readouterr() == (f"{plain()}\n", "")


def test_show_in_every_form(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain().to_json(folder / "report.json")
    asked = ["show", "report.json", "--explain", "--settings", "lightning"]
    assert main([*asked, "--html", "page.html", "--figure", "figure.png"]) == 0
    captured = capsys.readouterr()
    assert "What else to change" in captured.out
    assert "accumulate_grad_batches=1" in captured.out
    assert str(folder / "page.html") in captured.err
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "page.html").read_text(encoding="utf-8") == page_of(plain())


def test_json_on_stdout_is_the_report_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accumulated().to_json(folder / "report.json")
    assert main(["show", "report.json", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["schema"] == 1
    assert Report.from_json(captured.out) == accumulated()


def test_what_a_factory_prints_is_not_in_the_json(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "loud.py").write_text(TRAINING_THAT_PRINTS, encoding="utf-8")
    asked = ["predict", "loud:make", "--memory", "80GB"]
    assert main([*asked, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["batch_size"] > 0
    assert "made" in captured.err and "called" in captured.err
    assert main(asked) == 0
    assert "made" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["show", "none.json"], 2, "there is no file"),
        (
            ["show", "factories.py"],
            2,
            "factories.py is not a report written by to_json: expected the",
        ),
        (["show", "."], 2, "expected a file that can be read"),
        (["show", "report.json", "--figure", "figure.jpeg2000"], 2, "figure file"),
        (["show", "report.json", "--html", "no/such/folder.html"], 2, "no folder"),
        (["show", "report.json", "--html", "."], 2, "is a folder"),
        (["run", "factories:one"], 2, "a tuple of 1"),
        (["predict", "factories:good", "--memory", "lots"], 2, '"512MiB"'),
        (["compare", "factories:good", "--sizes", "16,many"], 2, "16,64,256"),
        (["compare", "factories:good", "--sizes", "0,1"], 2, "at least 1"),
    ],
)
def test_exit_codes_and_reasons(
    arguments: list[str], code: int, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain().to_json(folder / "report.json")
    assert main(arguments) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["dance"], ["run"], ["predict", "a:b"], ["show"]])
def test_what_argparse_refuses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: batchfinder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "target", [["demo"], ["run", "factories:never"], ["show", "report.json"]], ids=lambda t: t[0]
)
def test_an_unknown_framework_is_refused_before_anything_runs(
    target: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*target, "--settings", "lightening"])
    assert stopped.value.code == 2
    assert "lightning" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--save", "--html", "--figure"])
def test_a_folder_that_is_not_there_is_named_before_anything_runs(
    option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The target would raise if it were called."""
    assert main(["run", "factories:broken", option, "none/file.svg"]) == 2
    said = capsys.readouterr().err
    assert str(folder / "none") in said
    assert "create it first" in said


FORKED = """
import json, os, runpy, sys
import batchfinder, batchfinder.cli, batchfinder.report

loaded = [getattr(batchfinder, name) for name in dir(batchfinder)]
codes = []
for arguments, out in json.loads(sys.argv[1]):
    pid = os.fork()
    if not pid:
        if out:
            os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
            sys.stdout.reconfigure(encoding="ascii", errors="strict")
        sys.argv[1:] = arguments
        runpy.run_module("batchfinder", run_name="__main__")
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps(codes), file=sys.stderr)
"""
"""``python -m batchfinder`` for several commands; what they import is imported once.

With a file, standard output goes there, as on a console whose encoding is ASCII.
"""

UNREAD = [
    ["--help"],
    ["show", "report.json"],
    ["show", "report.json", "--json"],
    ["show", "report.json", "--html", "page.html"],
    ["predict", "training:make", "--memory", "80GB", "--json"],
]
IN_ASCII = [["--help"], ["compare", "--help"], ["show", "report.json"]]


@dataclass(frozen=True)
class Shell:
    """What ran in a folder: the exit codes, and all that was said on the standard error stream."""

    folder: Path
    unread: list[int]
    in_ascii: list[int]
    said: str


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """``UNREAD`` as in ``batchfinder show report.json | head -1``, and ``IN_ASCII``."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "training.py").write_text(TRAINING)
    plain().to_json(folder / "report.json")
    commands = [(each, None) for each in UNREAD] + [(each, "out") for each in IN_ASCII]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", FORKED, json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(folder)])},
        cwd=folder,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    os.close(writing)
    *said, last = done.stderr.splitlines()
    codes = json.loads(last)
    return Shell(folder, codes[: len(UNREAD)], codes[len(UNREAD) :], "\n".join(said))


def test_a_console_of_another_encoding(shell: Shell) -> None:
    assert shell.in_ascii == [0, 0, 0]
    assert shell.said == f"page written to {shell.folder / 'page.html'}"
    text = (shell.folder / "out").read_text(encoding="ascii")
    assert text.count("usage: batchfinder") == 2
    assert text.rstrip().endswith(str(plain()).encode("ascii", "replace").decode()[-1])


@pytest.mark.parametrize("place", range(len(UNREAD)), ids=lambda place: " ".join(UNREAD[place]))
def test_a_reader_that_has_gone_ends_it_quietly(place: int, shell: Shell) -> None:
    # Some versions of argparse notice a closed pipe by themselves, and call it success.
    assert shell.unread[place] == 141 or UNREAD[place] == ["--help"]
    assert "Traceback" not in shell.said and "BrokenPipe" not in shell.said
    assert (shell.folder / "page.html").read_text() == page_of(plain())


def test_a_broken_pipe_of_the_users_own_passes_through(folder: Path) -> None:
    """Such as one to a worker of a loader: no reader of ours has gone there."""
    (folder / "piping.py").write_text("def make():\n    raise BrokenPipeError('a worker')\n")
    with pytest.raises(BrokenPipeError, match="a worker"):
        main(["run", "piping:make"])


@pytest.mark.parametrize("command", [[], ["demo"], ["run"], ["compare"], ["predict"], ["show"]])
def test_help_teaches(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "usage: batchfinder" in said
    assert command or "def make():" in said


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def interrupted(source: object) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(Report, "from_json", interrupted)
    assert main(["show", "report.json"]) == 130


def test_no_answer_is_1(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    plain().to_json(folder / "report.json")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["show", "report.json", "--figure", "figure.png"]) == 1


@pytest.mark.parametrize(
    ("module", "package"), [("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")]
)
def test_the_demo_names_what_it_lacks_before_it_runs(
    module: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo"]) == 1
    assert f"pip install {package}" in capsys.readouterr().err


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    from batchfinder import demo

    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingDependency, match="scikit-learn"):
        demo.digits()


@pytest.mark.slow
def test_help_loads_no_matplotlib() -> None:
    code = (
        "import sys\nfrom batchfinder.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'matplotlib' not in sys.modules, 'matplotlib'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


TRAINING = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def make():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 8, generator=generator)
    dataset = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    options = {"loss_fn": nn.MSELoss(), "optimizer": optimizer, "headroom": 0.1}
    return model, DataLoader(dataset, batch_size=16, shuffle=True), options
"""


@pytest.fixture
def training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delitem(sys.modules, "training", raising=False)
    (folder / "training.py").write_text(TRAINING)
    return folder


@pytest.mark.slow
def test_run_finds_saves_and_shows(training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["run", "training:make", "--memory-limit", "1MiB", "--at-most", "64"]
    assert main([*asked, "--budget-seconds", "5", "--no-noise", "--save", "report.json"]) == 0
    captured = capsys.readouterr()
    report = Report.from_json(training / "report.json")
    assert captured.out == f"{report}\n"
    assert report.max_batch_size <= 64
    assert report.noise_scale is None
    assert "which micro-batches fit" in captured.err


def test_of_several_ranks_the_first_one_prints_and_writes(
    training: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    asked = ["run", "training:make", "--memory-limit", "1MiB", "--at-most", "8", "--no-noise"]
    assert main([*asked, "--budget-seconds", "1", "--save", "report.json"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert not (training / "report.json").exists()


@pytest.mark.slow
def test_quiet_is_quiet(training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["run", "training:make", "--memory-limit", "1MiB", "--at-most", "8"]
    assert main([*asked, "--budget-seconds", "2", "--no-noise", "--quiet", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert Report.from_json(captured.out).max_batch_size <= 8


def test_nothing_fits_is_1_with_the_way_out(
    training: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "training:make", "--memory-limit", "1KiB", "--no-noise"]) == 1
    assert "NothingFits" in capsys.readouterr().err


@pytest.mark.slow
def test_compare_trains_at_each_size(training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "training:make", "--sizes", "16,64", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert {cell["batch_size"] for cell in cells} == {16, 64}


@pytest.mark.slow
def test_predict_runs_nothing(training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "training:make", "--memory", "80GB"]) == 0
    assert "74.5 GiB" in capsys.readouterr().out


@pytest.mark.usefixtures("training")
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_prediction_that_nothing_fits_is_1(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["predict", "training:make", "--memory", "1KiB"]
    assert main(asked + ["--json"] * (form == "json")) == 1
    captured = capsys.readouterr()
    assert "NothingFits: Not even a batch of 1 should fit on a device of 1.00 KiB" in captured.err
    if form == "json":
        assert json.loads(captured.out)["batch_size"] == 0
    else:
        assert captured.out == ""


@pytest.mark.slow
@pytest.mark.usefixtures("training")
@pytest.mark.parametrize(("memory", "code"), [("80GB", 0), ("256MiB", 1)])
def test_whether_one_size_fits_is_the_exit_code(
    memory: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["predict", "training:make", "--batch-size", "64", "--memory", memory, "--savings"]
    assert main(asked) == code
    captured = capsys.readouterr()
    assert "predicted peak at batch size 64" in captured.out
    assert ("should fit in 80GB" in captured.out) is (code == 0)
    assert ("NothingFits: batch size 64 should not fit in 256MiB" in captured.err) is (code == 1)


@pytest.mark.slow
@pytest.mark.usefixtures("training")
def test_a_table_of_all_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "training:make", "--device", "all"]) == 0
    assert "H200" in capsys.readouterr().out


@pytest.mark.usefixtures("training")
@pytest.mark.parametrize(
    "options",
    [
        ["--memory", "8GB", "--savings"],
        ["--device", "all", "--batch-size", "8"],
        ["--memory", "8GB", "--batch-size", "8", "--savings", "--json"],
    ],
)
def test_options_of_predict_that_do_not_go_together(options: list[str]) -> None:
    assert main(["predict", "training:make", *options]) == 2
