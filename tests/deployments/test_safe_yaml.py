"""Model files from untrusted authors: refused in one sentence, in time, and without quoting content."""

from time import monotonic

import pytest

from deployments.config.loading import load_model_config
from deployments.config.yaml_file import read_yaml
from tasks.policy.records.errors import ModelConfigError
from tests.support.small_model import YAML

BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(20)
)

NARROW_BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 41))
MERGED_BOMB = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 41))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "references"),
        (NARROW_BOMB + "name: *a40\n", "more than 50,000 values, references written out"),
        (MERGED_BOMB, "more than 50,000 values, references written out"),
        ("a: &a [*a]\n", "more than 50,000 values, references written out"),
        ("name: &n {b: *n}\n", "more than 50,000 values, references written out"),
        ("name: " + "1:" * 200_000 + "1", "more than 300 digits"),
        ("name: " + "9_" * 4_001 + "9", "more than 300 digits"),
        ("name: 0x" + "f" * 5_000, "more than 300 digits"),
        ("a: " + "[" * 5000, "nested more than 20 deep"),
        ("name: " + "9" * 5000, "more than 300 digits"),
        (YAML.replace("window_days: 2", "window_days: 1e999"), "window_days"),
        (YAML.replace("window_days: 2", "window_days: 1.1574e-5"), "window_days"),
        (YAML + "name: other\n", "a key occurs twice"),
        (YAML.replace("name: small", "? [1, 2]\n: small"), "a key is not text"),
        ("name: small\x00", "character that YAML does not allow"),
        (b"name: \xff\xfe", "not text in UTF-8"),
        ("root:x:0:0:secret-of-root:/root:/bin/bash\ndaemon:*:1\n", "expected a mapping|is not YAML"),
        ("key: 'unclosed secret-of-root\n", "is not YAML: line"),
        ("x" * 2_000_000, "bytes, expected at most"),
        ("- secret-of-root\n", "holds list"),
        ("\tname: small", "is not YAML: line 1"),
    ],
)
def test_unsafe_file_is_refused_in_one_sentence(tmp_path, content, message):
    path = tmp_path / "model.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    began = monotonic()
    with pytest.raises(ModelConfigError, match=message) as caught:
        load_model_config(path)
    assert monotonic() - began < 5
    assert "secret-of-root" not in str(caught.value)
    assert str(caught.value).startswith("model.yaml: ")


def test_byte_order_mark_and_few_references_are_accepted(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text("\ufeff" + YAML, encoding="utf-8")
    assert load_model_config(path).name == "small"


def test_mappings_may_be_merged(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text("one: &one {days: 1, kind: tree}\ntwo:\n  <<: *one\n  days: 2\n")
    assert read_yaml(path)["two"] == {"days": 2, "kind": "tree"}


def test_folder_path_is_reported(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ModelConfigError, match="no such model"):
        load_model_config(tmp_path / "folder.yaml")
