"""The audit refuses what it does not know, and does not take silence for health."""

import importlib.metadata
import importlib.util
import json
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("audit", ROOT / "launch" / "audit.py")
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)


@pytest.mark.parametrize(
    ("licence", "fits"),
    [
        ("Apache-2.0", True),
        ("MIT OR AFL-2.1", True),
        ("GPL-3.0-only OR MIT", True),
        ("BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", True),
        ("Mozilla Public License 2.0 (MPL 2.0)", True),
        ("UNKNOWN", False),
        ("", False),
        ("GPL-3.0-only", False),
        ("MIT AND AGPL-3.0-or-later", False),
        ("Apache Software License; GNU General Public License v3 (GPLv3)", False),
    ],
)
def test_which_licences_fit(licence, fits):
    assert audit.compatible(licence) == fits


def test_every_dependency_has_a_licence_that_fits():
    found = {name for name, _ in audit.list_installed()}
    assert {"jax", "numpy", "tensorstore", "hypothesis"} <= found
    for name in found:
        assert audit.compatible(audit.licence(name)), name


def test_what_recalign_itself_asks_for_stands_in_the_table():
    """What that needs in turn differs from one release of it to the next."""
    table = (ROOT / "launch" / "licences.md").read_text()
    asked = {
        canonicalize_name(Requirement(text).name)
        for text in importlib.metadata.requires("recalign")
        if 'extra == "t5x"' not in text
    }
    for name in asked & {name for name, _ in audit.list_installed()}:
        assert f"| {name} | " in table, "launch/audit.sh writes the table"


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0),
        ([{"name": "a", "version": "1", "vulns": [{"id": "X", "fix_versions": []}]}], 1),
        ([{"name": "a", "skip_reason": "not on PyPI"}], 3),
    ],
)
def test_what_pip_audit_found_is_the_exit_code(tmp_path, capsys, found, code):
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"dependencies": found}))
    assert audit.main("vulnerabilities", str(path)) == code
    if code == 1:
        assert "a 1: X; fixed in: none" in capsys.readouterr().out


def test_no_result_is_not_a_good_one(tmp_path):
    assert audit.main("vulnerabilities", str(tmp_path / "missing.json")) == 3
