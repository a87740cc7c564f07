"""JSON files with a field that is not as expected."""

import re
from pathlib import Path

import pytest

from analysis.json_files import NUMBER, load_object

FIELDS = {"name": str, "counts": [int], "shares": {str: NUMBER}, "rows": [{"n": int}]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "expected JSON, got"),
        ("null", "expected an object, got null. Make it again"),
        ("{}", "name: expected a text, got nothing. Make it again"),
        ('{"name": "a", "counts": null}', "counts: expected a list, got null"),
        ('{"name": "a", "counts": [1, true]}', "counts[1]: expected a whole number, got true"),
        ('{"name": "a", "counts": [], "shares": {"é": null}}', "shares.é: expected a number, got null"),
        ('{"name": "a", "counts": [], "shares": {}, "rows": [{}]}', "rows[0].n: expected a whole number, got nothing"),
        ('{"name": "a", "counts": [], "shares": {}, "rows": [], "more": "b"}', "more: expected a list, got"),
    ],
)
def test_the_file_the_field_and_what_to_do_are_told(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "odd.json"
    file.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{file}: {says}")):
        load_object(file, FIELDS, {"more": [int]}, advice="Make it again")


def test_what_fits_is_read(tmp_path: Path) -> None:
    file = tmp_path / "right.json"
    file.write_text('{"name": "a", "counts": [1], "shares": {"b": 1, "c": 0.5}, "rows": [{"n": 2, "x": null}], "y": 0}')
    read = load_object(file, FIELDS, {"more": [int]}, advice="Make it again")
    assert read["shares"] == {"b": 1, "c": 0.5}
    assert read["rows"] == [{"n": 2, "x": None}]
