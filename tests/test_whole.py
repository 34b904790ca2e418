"""Files and folders appear whole under their name, or not at all."""

import pytest

from jaxfact.results.whole import check_new_file, check_new_folder, whole_file, whole_folder


def test_a_file_appears_at_the_end_and_replaces_what_was_there(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with whole_file(file) as made:
        made.write_text("new")
        assert file.read_text() == "old"
        assert made.name.startswith("a.txt.")  # what a killed process leaves is found by the name
        assert made.suffix == ".partial"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_appears_at_the_end_with_its_parents(tmp_path):
    folder = tmp_path / "new" / "deep"
    with whole_folder(folder) as made:
        (made / "a.txt").write_text("a")
        assert not folder.exists()
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "new", folder, folder / "a.txt"]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
@pytest.mark.parametrize("ended_by", [OSError, KeyboardInterrupt])
def test_an_exception_leaves_nothing(tmp_path, whole, ended_by):
    def fail():
        with whole(tmp_path / "a") as made:
            (made if whole is whole_file else made / "part").write_text("half")
            raise ended_by

    with pytest.raises(ended_by):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["empty", "here", "link"])
def test_an_empty_folder_is_filled(tmp_path, monkeypatch, kind):
    """Also where it cannot be replaced: as the folder one is in, or behind a link."""
    target = tmp_path / "empty"
    target.mkdir()
    monkeypatch.chdir(target)
    (tmp_path / "link").symlink_to(target)
    with whole_folder({"empty": target, "here": target.relative_to(target), "link": tmp_path / "link"}[kind]) as made:
        (made / "a.txt").write_text("a")
        (made / "sub").mkdir()
    assert {path.name for path in target.iterdir()} == {"a.txt", "sub"}
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "link"}


@pytest.mark.parametrize("before", [False, True], ids=["while it is made", "before"])
def test_a_folder_that_another_process_has_made_meanwhile_is_kept(tmp_path, before):
    """A new folder is not filled either, whenever the other one came."""

    def theirs():
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "part").write_text("theirs")

    def overtaken():
        if before:
            theirs()
        with whole_folder(tmp_path / "a", new=before) as made:
            (made / "part").write_text("ours")
            if not before:
                theirs()

    with pytest.raises(OSError, match="not empty"):
        overtaken()
    assert (tmp_path / "a" / "part").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_has_left_is_found(tmp_path):
    with whole_file(tmp_path / "a.txt") as made:
        made.touch()
        (tmp_path / "b.txt.1-1.partial").touch()
        assert list(tmp_path.glob("a.txt.*.partial")) == [made]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("full", "is a folder that holds mine; name a new folder"),
        ("file", "is a file; name a new folder"),
        ("file/below", "cannot be written.*choose another folder"),
    ],
)
def test_folders_that_will_not_do(tmp_path, name, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=rf"{name}: {words}"):
        check_new_folder(tmp_path / name)
    check_new_folder(tmp_path / "new" / "deep")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_is_there_is_refused(tmp_path):
    check_new_file(tmp_path / "a.csv")
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match=r"out=.*a\.csv: exists already; choose another"):
        check_new_file(tmp_path / "a.csv")
