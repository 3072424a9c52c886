"""A run on disk: written whole or not at all, and never read when it is not what was written."""

import json
import os

import pytest
import torch

from avb_core.runs import (
    CorruptFile,
    digest_of,
    load_tensors,
    provenance,
    read_json,
    read_json_lines,
    save_tensors,
    write_atomically,
    write_json,
)

TENSORS = {
    "weights": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)),
    "double": torch.tensor([1 / 3], dtype=torch.float64),
    "half": torch.tensor([0.1, -2.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "flag": torch.tensor([True, False]),
    "nothing": torch.empty(0),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
}


def test_a_writer_that_raises_leaves_nothing_behind(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half of the n")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, write)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "deep" / "folder" / "file"
    write_atomically(path, lambda temporary: temporary.write_text("old"))

    def write(temporary):
        assert temporary.parent == path.parent and temporary.name != path.name
        temporary.write_text("new")
        assert path.read_text() == "old"

    write_atomically(path, write)
    assert path.read_text() == "new"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Else a power cut could leave the name with nothing behind it, in place of the old file."""
    done, fsync, replace = [], os.fsync, os.replace

    def synced(handle):
        done.append(("synced", os.fstat(handle).st_ino, os.fstat(handle).st_size))
        fsync(handle)

    def renamed(old, new):
        done.append(("renamed", os.stat(old).st_ino, os.stat(old).st_size))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_atomically(tmp_path / "file", lambda temporary: temporary.write_text("new"))
    inode = (tmp_path / "file").stat().st_ino
    assert done == [("synced", inode, 3), ("renamed", inode, 3)]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=f"cannot write into {tmp_path / 'file'}"):
        write_json(tmp_path / "file" / "result.json", {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=f"cannot write into {tmp_path}"):
        write_json(tmp_path / "result.json", {})


def test_json_round_trip(tmp_path):
    content = {"a": [1, 2.5, None, "π"], "b": {"c": True}}
    write_json(tmp_path / "file.json", content)
    assert read_json(tmp_path / "file.json") == content
    with pytest.raises(ValueError):
        write_json(tmp_path / "file.json", {"a": float("nan")})
    assert read_json(tmp_path / "file.json") == content


@pytest.mark.parametrize("content", [b'{"a": [1, 2', b"", b"\xff\xfe"], ids=["half", "empty", "not-text"])
def test_half_a_json_file_is_corrupt(content, tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=str(path)):
        read_json(path)
    path.write_bytes(b'{"a": 1}\n' + (content or b"{"))
    with pytest.raises(CorruptFile, match=str(path)):
        read_json_lines(path)


def test_json_lines(tmp_path):
    (tmp_path / "file.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    assert read_json_lines(tmp_path / "file.jsonl") == [{"a": 1}, {"a": 2}]


def test_tensors_round_trip(tmp_path):
    save_tensors(tmp_path / "file", TENSORS, {"step": 3, "name": "σ"})
    tensors, about = load_tensors(tmp_path / "file")
    assert about == {"step": 3, "name": "σ"}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)


def test_views_of_one_storage_are_stored_each_for_itself(tmp_path):
    whole = torch.arange(6.0)
    save_tensors(tmp_path / "file", {"first": whole[:3], "last": whole[3:]}, {})
    assert load_tensors(tmp_path / "file")[0]["last"].tolist() == [3, 4, 5]


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "file"
    save_tensors(path, TENSORS, {"step": 3})
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            tensors, about = load_tensors(path)
        except CorruptFile as error:
            assert str(path) in str(error)
        else:  # padding between the header and the tensors: nothing that is read has changed
            assert about == {"step": 3}
            assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
            assert content[position : position + 1] == b" "


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_corrupt(keep, tmp_path):
    path = tmp_path / "file"
    save_tensors(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptFile, match=str(path)):
        load_tensors(path)


def test_a_file_of_somebody_else_is_not_ours(tmp_path):
    from safetensors.torch import save_file

    save_file({"weights": torch.zeros(3)}, tmp_path / "file")
    with pytest.raises(CorruptFile, match="not one of ours"):
        load_tensors(tmp_path / "file")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "pickle")
    with pytest.raises(CorruptFile, match="not a whole safetensors file"):
        load_tensors(tmp_path / "pickle")
    with pytest.raises(FileNotFoundError, match="missing"):
        load_tensors(tmp_path / "missing")


def test_provenance_is_json_and_says_where_and_with_what():
    about = provenance()
    assert json.loads(json.dumps(about)) == about
    assert about["libraries"]["torch"].startswith(torch.__version__.split("+")[0])
    assert "absent" not in about["libraries"].values()
    assert about["threads"] == torch.get_num_threads()


def test_digests_tell_configurations_apart():
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
