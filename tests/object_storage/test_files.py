"""Files in a bucket: :class:`altermoma_ray.storage.Location` on a real S3 server."""

from __future__ import annotations

import pickle

import pytest

from altermoma_ray.data.nuscenes.index import open_index
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location


def test_files_are_written_listed_read_and_removed(s3):
    assert s3.children() == []
    file = s3.join("a folder", "100%.bin")
    assert not file.exists()
    assert file.size() == -1
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    file.write_bytes(b"first")
    file.write_bytes(b"second one")
    s3.join("b.txt").write_text("text")
    assert (file.read_bytes(), file.size(), file.exists()) == (b"second one", 10, True)
    assert [child.name for child in s3.children()] == ["a folder", "b.txt"]
    assert s3.join("a folder").is_folder()
    again = Location.parse(str(file))
    assert (str(again), again.read_bytes()) == (str(file), b"second one")
    assert pickle.loads(pickle.dumps(file)).read_bytes() == b"second one"
    assert file.parent.join("100%.bin") == file
    s3.join("a folder").delete()
    s3.join("b.txt").delete()
    s3.join("never there").delete()
    assert s3.children() == []


def test_a_part_is_read_without_the_rest(s3, tmp_path):
    for file in (s3.join("c.bin"), Location.parse(tmp_path / "c.bin")):
        file.write_bytes(b"0123456789")
        assert (file.read_part(0, 4), file.read_part(8, 8)) == (b"0123", b"89")
        file.delete()
        with pytest.raises(FileNotFoundError):
            file.read_part(0, 1)


def test_an_object_appears_whole_and_a_small_one_takes_one_put(s3, server, buckets):
    file = s3.join("model.bin")
    file.write_bytes(b"old")
    server.requests.clear()
    file.write_bytes(b"new")
    assert server.requests == {"PUT": 1}
    with file.filesystem.open_output_stream(file.path) as stream:  # what write_bytes does, seen in the middle
        stream.write(bytes(20 << 20))
        stream.flush()
        assert file.read_bytes() == b"new"
    assert file.size() == 20 << 20
    uploads = buckets.list_multipart_uploads(Bucket="results")
    assert "Uploads" not in uploads


def test_checking_that_a_folder_can_be_written_leaves_no_object(s3, objects):
    s3.join("deep", "folder").check_writable()
    assert objects(s3) == {}


def test_the_address_may_name_the_server_itself(server, environment, buckets, objects, monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, environment[name])
    uri = f"s3://results/named?endpoint_override={server.address}&scheme=http&region=us-east-1"
    file = Location.parse(uri).join("file")
    file.write_bytes(b"there")
    assert Location.parse(str(file)).read_bytes() == b"there"
    assert objects(Location.parse(uri)) == {"file": b"there"}


def test_a_missing_bucket_is_one_line(s3):
    place = Location.parse("s3://nowhere-at-all/storage")
    for attempt in (place.check_writable, place.make_folder, lambda: place.join("file").write_bytes(b"")):
        with pytest.raises(UserError, match=r"^cannot write .*s3://nowhere-at-all/.*: its bucket does not exist; cho"):
            attempt()
    assert not place.exists()
    with pytest.raises(UserError, match="dataroot s3://nowhere-at-all/storage is no folder; give --dataroot"):
        open_index(place, "v1.0-trainval", s3)


def test_wrong_credentials_are_one_line_without_them(s3, server):
    s3.join("file").write_bytes(b"")
    server.check_access(0)
    try:
        with pytest.raises(UserError) as refused:
            s3.check_writable()
        assert str(refused.value) == (
            f"cannot write to folder {s3}: access is denied; choose a folder that you may write"
        )
        for attempt in (s3.join("file").read_bytes, s3.exists, s3.children, s3.delete):
            with pytest.raises(UserError, match=r"access is denied; check the (file|address) and its access$"):
                attempt()
    finally:
        server.check_access("inf")


def test_a_server_that_does_not_answer_is_one_line(s3):
    place = Location.parse("s3://results/x?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1")
    with pytest.raises(UserError, match=r"^cannot read s3://results/x\?.*: its server does not answer; check the addr"):
        place.exists()


@pytest.mark.parametrize(
    ("uri", "line"),
    [
        ("s3://", "cannot open s3://: it names no bucket; give s3://BUCKET/FOLDER"),
        ("ftp://host/x", "cannot open ftp://host/x: ftp:// is not known; give a local path, s3:// or gs://"),
        (
            "s3://results/x?colour=red",
            "cannot open s3://results/x: Unexpected query parameter in S3 URI: 'colour'; give a local path, "
            "s3:// or gs://",
        ),
    ],
)
def test_an_address_that_is_none_is_one_line(uri, line):
    with pytest.raises(UserError) as refused:
        Location.parse(uri)
    assert str(refused.value) == line


def test_a_google_address_keeps_its_options():
    text = "gs://bucket/folder?endpoint_override=127.0.0.1:1&scheme=http&retry_limit_seconds=1"
    place = Location.parse(text)
    assert (place.path, str(place.join("a b")), str(place)) == (
        "bucket/folder",
        text.replace("folder", "folder/a%20b"),
        text,
    )
