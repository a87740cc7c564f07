import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.report_server import server


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    outputs = tmp_path / "outputs"
    (outputs / "report" / "a b").mkdir(parents=True)
    (outputs / "report" / "a b" / "report.html").write_text("<p>the report</p>")
    (outputs / "corpus.parquet").write_text("records")
    (tmp_path / "secret.html").write_text("secret")
    (outputs / "link.html").symlink_to(tmp_path / "secret.html")
    (outputs / "folder").symlink_to(tmp_path)
    with server(outputs, port=0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        assert running.server_address[0] == "127.0.0.1"
        yield running.server_address[1]
        running.shutdown()
        thread.join()


def get(port: int, path: str, host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_reports_are_served_and_listed(port: int) -> None:
    assert get(port, "/report/a%20b/report.html") == (200, "<p>the report</p>")
    status, text = get(port, "/")
    assert status == 200
    assert text == '<li><a href="/report/a%20b/report.html">report/a%20b/report.html</a></li>'


@pytest.mark.parametrize(
    "path",
    ["/corpus.parquet", "/link.html", "/folder/secret.html", "/../secret.html", "/%2e%2e/secret.html", "/report/"],
)
def test_nothing_else_is(port: int, path: str) -> None:
    assert get(port, path)[0] == 404


def test_a_name_of_another_site_is_refused(port: int) -> None:
    assert get(port, "/", host=f"evil.example:{port}")[0] == 403
    assert get(port, "/", host=f"localhost:{port}")[0] == 200
