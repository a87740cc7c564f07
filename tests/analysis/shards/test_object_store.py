"""Corpus and shards in an S3 server on this machine."""

from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

from analysis.engine.files import read_table
from analysis.engine.tasks import SerialEngine
from analysis.shards.corpus import sharded_corpus
from analysis.sources import FilesSource
from tests.analysis.shards.small_shards import CONFIG, content_of, write_corpus

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
moto_server = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("bucket")
    yield system
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_same_documents_and_a_second_run_with_nothing_to_do(bucket: Any, tmp_path: Any) -> None:
    sources, evaluation = write_corpus(tmp_path / "in")
    near = sharded_corpus(sources, str(tmp_path / "out"), SerialEngine(), CONFIG, evaluation=evaluation)
    bucket.put(str(tmp_path / "in") + "/", "bucket/in/", recursive=True)
    far = {name: FilesSource((f"s3://bucket/in/{name}/*",)) for name in sources}
    bench = {"bench": FilesSource(("s3://bucket/in/bench.jsonl",))}
    found = sharded_corpus(far, "s3://bucket/out", SerialEngine(), CONFIG, evaluation=bench)
    for name in ("documents", "dropped", "labels"):
        assert pl.concat([read_table(url) for url in found[name]]).equals(pl.read_parquet(near[name]))
    again = sharded_corpus(far, "s3://bucket/out", SerialEngine(), CONFIG, evaluation=bench)
    assert not any(ran for _, ran in again["stages"].values())
    # After reading, names follow the content of files alone: they are the same in any place.
    here = {path for path in content_of(tmp_path / "out") if not path.startswith(("read/", "evaluation_ngrams/"))}
    there = {path.removeprefix("bucket/out/") for path in bucket.find("bucket/out")}
    assert here <= there
