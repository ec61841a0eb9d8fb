from __future__ import annotations

import json
import re
import shutil

import pytest
from shared.fake_runs import TINY, fake_studies

from mixplug.lab.cli.main import main
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.studies.compare import compare
from mixplug.lab.studies.report import report
from mixplug.lab.studies.sweep import sweep


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A comparison, a sweep, and one of each that was interrupted."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(TINY.parent)
        fake_studies(patch)
        recipe = load_recipe(TINY, ["methods.mix.label='Mix [a](b) | <i>'", "description='a_b *c*'"])
        compare(recipe, out / "one", lambda _: None, command="mixplug compare tiny.yaml")
        sweep(
            "tiny.yaml",
            ["epochs=50,100", "fraction=0.1", "data.dataset=cifar10", "seeds=2"],
            out / "epochs",
            lambda _: None,
        )
        with pytest.raises(KeyboardInterrupt):
            compare(load_recipe(TINY), out / "half", interrupt_after(4), command="mixplug compare tiny.yaml seeds=2")
        with pytest.raises(KeyboardInterrupt):
            sweep("tiny.yaml", ["alpha=0.1,0.9", "seeds=1"], out / "half_sweep", interrupt_after(3))
    return out


def interrupt_after(runs):
    lines = []

    def announce(line):
        lines.extend([line] if "accuracy" in line else [])
        if len(lines) == runs:
            raise KeyboardInterrupt

    return announce


@pytest.fixture
def copied(folders, tmp_path):
    """The folders, to be damaged."""
    shutil.copytree(folders, tmp_path / "runs")
    return tmp_path / "runs"


def page(folders, out, *names):
    return report([folders / name for name in names], out).read_text()


def test_a_mixed_page(folders, tmp_path):
    text = page(folders, tmp_path, "one", "epochs", "half", "half_sweep")
    lines = text.splitlines()
    assert lines[2:9] == [
        "| Section | What | Data | Seeds | Best accuracy (%) | Its cost |",
        "| --- | --- | --- | ---: | --- | ---: |",
        "| [one](#one) | comparison of 3 methods | digits, fraction 0.05 | 2 | 50.95 ± 0.07 (SSL+SL) | 12 |",
        "| [epochs](#epochs) | sweep over epochs (50, 100) | cifar10, fraction 0.1 | 2 | "
        "71.05 ± 0.07 (SSL+SL, epochs=100) | 600 |",
        "| [half](#half) | comparison of 3 methods |  |  | unfinished: 4 of 6 runs |  |",
        "| [half\\_sweep](#half_sweep) | sweep of 2 points |  |  | unfinished: 3 of 6 runs |  |",
        "",
    ]
    assert [line for line in lines if line.startswith("## ")] == ["## one", "## epochs", "## half", "## half\\_sweep"]
    for name in ("one", "epochs"):
        assert (folders / name / "table.md").read_text().strip() in text
    assert "a\\_b \\*c\\*" in text
    assert "mixplug sweep tiny.yaml epochs=50,100 fraction=0.1 data.dataset=cifar10 seeds=2" in lines
    assert "mixplug compare tiny.yaml" in lines
    assert len([line for line in lines if "; mixplug " in line and ", torch " in line]) >= 2, "where it was measured"
    assert "<summary>Recipe, at epochs=50</summary>" in text


def test_pictures_are_copied_and_linked(folders, tmp_path):
    text = page(folders, tmp_path, "one", "epochs")
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert linked == [
        "pictures/one-pareto.png",
        "pictures/one-curves.png",
        "pictures/epochs-accuracy.png",
        "pictures/epochs-pareto.png",
    ]
    assert {p.relative_to(tmp_path).as_posix() for p in (tmp_path / "pictures").iterdir()} == set(linked)
    assert (tmp_path / "pictures" / "one-curves.png").read_bytes() == (folders / "one" / "curves.png").read_bytes()


def test_an_interrupted_one_says_so_and_shows_what_there_is(folders, tmp_path):
    text = page(folders, tmp_path, "half", "half_sweep")
    assert (
        "**unfinished: 4 of 6 runs**; start it again with "
        f"'mixplug compare tiny.yaml seeds=2 --out {folders / 'half'}': it goes on with what is there." in text
    )
    assert "| SL | 0 | 50.70 | 0.1 |\n| SSL+SL | 0 | 50.90 | 0.2 |" in text
    assert "| alpha=0.1 | MixTraining | 0 |" in text
    assert "| alpha=0.9 |" not in text
    assert "pictures" not in text


def test_more_runs_under_way_make_a_finished_one_unfinished(copied, tmp_path):
    shutil.copy(copied / "half" / "started.json", copied / "one" / "started.json")
    (copied / "one" / "runs" / "mix-seed1.json").unlink()
    assert "unfinished: 5 of 6 runs" in page(copied, tmp_path / "report", "one")


def test_the_same_folders_give_the_same_page(folders, tmp_path):
    names = ("epochs", "one")
    pages = [page(folders, tmp_path / str(i), *names) for i in range(2)]
    assert pages[0] == pages[1]
    assert page(folders, tmp_path / "0", *names) == pages[0]
    assert str(tmp_path) not in pages[0]
    assert str(folders) not in pages[0]


def test_folders_of_one_name_get_along(copied, tmp_path):
    for name in ("a/same", "b/same", "c/same-2", "d/sa me", "e/sa-me"):
        shutil.copytree(copied / "one", copied / name)
    text = page(copied, tmp_path / "report", "a/same", "b/same", "c/same-2", "d/sa me", "e/sa-me")
    anchors = re.findall(r'<a id="([^"]+)">', text)
    assert anchors == ["same", "same-2", "same-2-3", "sa-me", "sa-me-5"]
    assert len(list((tmp_path / "report" / "pictures").iterdir())) == 10


def test_a_point_of_a_sweep_is_a_comparison(folders, tmp_path):
    text = page(folders, tmp_path, "epochs/epochs=50")
    assert "[epochs=50](#epochs-50) | comparison of 3 methods" in text
    assert "mixplug compare tiny.yaml epochs=50 fraction=0.1 data.dataset=cifar10 seeds=2" in text


def damaged(folder, **changes):
    path = folder / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "there is no folder"),
        (lambda f: (f / "results.json").write_text("{half"), "results.json is not what compare or sweep writes"),
        (lambda f: (f / "results.json").write_text("[]"), "results.json is not what compare or sweep writes"),
        (lambda f: (f / "results.json").write_text("{}"), "results.json is not what compare or sweep writes"),
        (lambda f: damaged(f, recipe={}), "results.json is not what compare or sweep writes (no 'data')"),
        (lambda f: damaged(f, recipe=3), "results.json is not what compare or sweep writes"),
        (lambda f: damaged(f, table=[]), "results.json is not what compare or sweep writes"),
        (lambda f: damaged(f, table=[{}]), "results.json is not what compare or sweep writes (no 'accuracy'"),
        (lambda f: damaged(f, machine="mine"), "results.json is not what compare or sweep writes"),
        (lambda f: damaged(f, points=[]), "results.json is not what compare or sweep writes"),
        (lambda f: (f / "table.md").unlink(), "has no table.md; start the command"),
        (lambda f: (f / "started.json").write_text('{"runs": 3}'), "started.json is not what compare or sweep writes"),
        (lambda f: [p.unlink() for p in f.glob("*.*")] and shutil.rmtree(f / "runs"), "holds no results.json"),
        (lambda f: shutil.move(f, f / ".." / "x" / "one"), "there is no folder"),
    ],
)
def test_what_is_damaged_is_named_before_anything_is_written(copied, tmp_path, damage, message, capsys):
    damage(copied / "one")
    assert main(["report", str(copied / "epochs"), str(copied / "one"), "--out", str(tmp_path / "report")]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert str(copied / "one") in errors
    assert not (tmp_path / "report").exists()


def test_a_damaged_run_of_an_interrupted_one(copied, tmp_path):
    for result in ({}, 3, {"accuracy": "x", "seconds": 1}, {"accuracy": 1, "seconds": None}):
        (copied / "half" / "runs" / "sl-seed0.json").write_text(json.dumps({"result": result}))
        with pytest.raises(ValueError, match=r"sl-seed0.json is not what compare or sweep writes .*; remove it"):
            page(copied, tmp_path, "half")


def test_other_folders(copied, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"did you mean .*epochs .*one\?"):
        report([copied], tmp_path / "report")
    with pytest.raises(ValueError, match="is named twice"):
        report([copied / "one", copied / "epochs" / ".." / "one"], tmp_path / "report")


def test_on_the_command_line(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(folders / "one")]) == 0
    assert capsys.readouterr().out == "The report is report/report.md\n"
    assert (tmp_path / "report" / "report.md").exists()
