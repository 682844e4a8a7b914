"""Links between files lead somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.markdown import DOCUMENTS, ROOT, anchors, links

OUTSIDE = ("https://", "http://", "mailto:")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(path: Path) -> None:
    for link in links(path):
        if link.startswith(OUTSIDE):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{link}: there is no {target}"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target), f"{link}: {target.name} has no such heading"


def test_the_documents_lead_to_each_other() -> None:
    """Links are found at all, and every page of docs/ can be reached from the README."""
    reached: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        path = ahead.pop()
        if path in reached or path.suffix != ".md":
            continue
        reached.add(path)
        targets = (link.partition("#")[0] for link in links(path) if not link.startswith(OUTSIDE))
        ahead += [(path.parent / target).resolve() for target in targets if target]
    missed = {path for path in DOCUMENTS if path.is_relative_to(ROOT / "docs")} - reached
    assert {str(path.relative_to(ROOT)) for path in missed} <= {"docs/data/h100-2026-11-23/README.md"}
