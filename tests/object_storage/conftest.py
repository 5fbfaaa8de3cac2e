"""A real S3 server (moto's) on loopback, with a small synthetic nuScenes in it."""

from __future__ import annotations

import contextlib
import logging
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from altermoma_ray.storage import Location

KEY, SECRET = "AKIAALTERMOMATESTKEY", "a-secret-that-nobody-may-ever-see"


class Server:
    """An S3 server on loopback that counts the requests it gets."""

    def __init__(self) -> None:
        application = DomainDispatcherApplication(create_backend_app)
        self.requests: Counter[str] = Counter()

        def counted(environment, respond):
            self.requests[environment["REQUEST_METHOD"]] += 1
            return application(environment, respond)

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = make_server("127.0.0.1", 0, counted, threaded=True)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def check_access(self, after: int | str) -> None:
        """From now on refuse requests whose credentials are not known, but for so many first ones."""
        kind = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"http://{self.address}/moto-api/reset-auth", str(after).encode(), kind)
        urllib.request.urlopen(request).close()

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(scope="session")
def environment(server: Server) -> dict[str, str]:
    """What a user's shell says of the server, in the names of AWS's own tools."""
    return {
        "AWS_ENDPOINT_URL": f"http://{server.address}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="session")
def buckets(server: Server, environment: dict[str, str]) -> boto3.client:
    """Another S3 client, to make buckets and to look at what is in them."""
    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="results")
    client.create_bucket(Bucket="frames")
    return client


@pytest.fixture
def s3(buckets, environment, monkeypatch, tmp_path) -> Location:
    """A folder of its own in the bucket ``results``."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Location.parse(f"s3://results/{tmp_path.name}")


@pytest.fixture(scope="session")
def dataroot(buckets, server, synthetic_root: Path) -> str:
    """The small synthetic set, uploaded; the address says where the server is, so no environment is needed."""
    uri = f"s3://frames/nuscenes?endpoint_override={server.address}&scheme=http&region=us-east-1"
    for file in synthetic_root.rglob("*"):
        if file.is_file():
            buckets.upload_file(str(file), "frames", f"nuscenes/{file.relative_to(synthetic_root)}")
    return uri


@pytest.fixture
def objects(buckets: boto3.client) -> Callable[[Location], dict[str, bytes]]:
    """Every object below a location by its name there, folder markers left out."""

    def read(place: Location) -> dict[str, bytes]:
        bucket, _, prefix = place.path.partition("/")
        pages = buckets.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        names = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        found = {}
        for name in names:
            # A search that runs deletes what it needs no more, between the listing and the reading too.
            with contextlib.suppress(buckets.exceptions.NoSuchKey):
                if not name.endswith("/"):
                    found[name.removeprefix(f"{prefix}/")] = buckets.get_object(Bucket=bucket, Key=name)["Body"].read()
        return found

    return read
