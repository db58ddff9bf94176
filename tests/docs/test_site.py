"""The site builds, and no link of it leads nowhere."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.docs.pages import ROOT, pages

LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    warnings = [line for line in built.stderr.splitlines() if line.startswith("WARNING")]
    assert (built.returncode, warnings) == (0, []), built.stderr
    assert (tmp_path / "tasks" / "text-classification" / "index.html").is_file()


@pytest.mark.slow
def test_no_page_of_the_site_asks_another_server_for_anything(tmp_path):
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True)
    asked = re.compile(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"https?://([^/\"]+)")
    found = {
        host
        for page in tmp_path.rglob("*.html")
        for host in asked.findall(page.read_text(encoding="utf-8"))
    }
    assert found <= {"tunewright.github.io"}
