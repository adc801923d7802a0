"""What `--model` may be, and what is said of what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from divrl_core.evaluation.contest.entries import Entry, parse_entries, parse_entry


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run, a LoRA file, finished pictures and a raw PEFT folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs/x/lora/best.safetensors", "runs/y/lora/last.safetensors", "fox.safetensors"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "pictures/ours").mkdir(parents=True)
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft/adapter_config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


X, Y = Path("runs/x/lora/best.safetensors"), Path("runs/y/lora/last.safetensors")


@pytest.mark.parametrize(
    ("spec", "entry"),
    [
        ("base", Entry(name="base")),
        ("runs/x", Entry(name="x", lora=X)),
        ("runs/y@0.50", Entry(name="y@0.5", lora=Y, strength=0.5)),
        ("fox.safetensors@-1", Entry(name="fox@-1", lora=Path("fox.safetensors"), strength=-1.0)),
        ("half=runs/x@0.5", Entry(name="half", lora=X, strength=0.5)),
        ("best-of-8", Entry(name="best-of-8", candidates=8)),
        ("best-of-4+runs/x@2", Entry(name="best-of-4+x@2", candidates=4, lora=X, strength=2.0)),
        ("text-noise-0.2", Entry(name="text-noise-0.2", text_noise=0.2)),
        ("loud=text-noise-1+base", Entry(name="loud", text_noise=1.0)),
        ("pictures/ours", Entry(name="ours", finished=Path("pictures/ours"))),
        ("their system=pictures/ours", Entry(name="their system", finished=Path("pictures/ours"))),
    ],
)
def test_a_word_is_an_entry(here: Path, spec: str, entry: Entry) -> None:
    assert parse_entry(spec) == entry


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("runs/z", "there is no file or folder runs/z; known are base, a run folder"),
        ("runs/x@much", "the strength behind @ must be a number, got 'much'"),
        ("runs/x@inf", "must be a number, got 'inf'"),
        ("notes.txt", r"notes\.txt is no LoRA file"),
        ("peft", "a raw PEFT folder; first: divrl-train convert peft"),
        ("pictures/ours@0.5", "finished pictures have no strength"),
        ("best-of-0", "needs a whole number from 1 to 999999, got '0'"),
        ("best-of-1000000", "got '1000000'"),
        (f"best-of-{'9' * 5000}", "needs a whole number from 1 to 999999"),
        ("best-of-many", "got 'many'"),
        ("best-of-4+pictures/ours", "a rival needs base or a LoRA"),
        ("text-noise-", "needs a number from 0 up, got ''"),
        ("text-noise--1", "needs a number from 0 up"),
        ("text-noise-nan", "needs a number from 0 up"),
        ("../x=base", "there is no file or folder"),
        ("x.=base", r"'x\.' cannot be a file's name"),
        ("", "got nothing; give base"),
        (" ", "got nothing; give base"),
        ("@0.5", "there is no file or folder @0.5"),
        ("füchse=base", "a NAME has letters from a to z, digits"),
    ],
)
def test_a_word_that_is_none_is_refused_in_one_line(here: Path, spec: str, words: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        parse_entry(spec)
    assert "\n" not in str(error.value) and spec.rpartition("=")[0] in str(error.value)


def test_base_is_the_model_also_beside_a_folder_of_that_name(here: Path) -> None:
    Path("base").mkdir()
    assert parse_entry("base") == parse_entry("base=base") == Entry(name="base")
    assert parse_entry("./base") == Entry(name="base", finished=Path("base"))


def test_names_are_apart_also_where_a_system_does_not_tell_capitals(here: Path) -> None:
    with pytest.raises(ValueError, match="runs/x and X=runs/y are both called 'X'; name one: NAME=runs/y"):
        parse_entries(["runs/x", "X=runs/y"])
    with pytest.raises(ValueError, match="base and base are both called"):
        parse_entries(["base", "base"])
    with pytest.raises(ValueError, match="nothing to compare"):
        parse_entries([])


def test_forwards_of_a_finished_picture_count_every_candidate(here: Path) -> None:
    counts = {spec: parse_entry(spec).evaluations(28) for spec in ("base", "best-of-8", "text-noise-0.2")}
    assert counts == {"base": 28, "best-of-8": 224, "text-noise-0.2": 28}
    assert parse_entry("pictures/ours").evaluations(28) is None


def test_an_entry_tells_what_it_is(here: Path) -> None:
    assert parse_entry("base").about("pocket") == "pocket as it is"
    assert parse_entry("runs/x@0.5").about("pocket") == "pocket with x/lora/best.safetensors at strength 0.5"
    assert parse_entry("best-of-8").about("pocket") == "best of 8 of pocket"
    assert "0.2 of their deviation" in parse_entry("text-noise-0.2").about("pocket")
    assert parse_entry("pictures/ours").about("pocket") == "finished pictures in ours/"
