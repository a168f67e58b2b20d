"""No skip is silent: CONTRIBUTING.md names every file of tests that may skip some, and no other."""

import re

from core.config import CONF

ROOT = CONF.parent
# In pieces, so that this file does not match.
SKIPS = re.compile("|".join(("mark.skip" + "if", "importor" + "skip", r"pytest.skip" + r"\(", "mark" + ".gpu")))


def test_contributing_lists_every_file_with_tests_that_may_be_skipped():
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if SKIPS.search(path.read_text(encoding="utf-8"))
    }
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(tests/\S+\.py)`", text.partition("**Skipped tests.**")[2])) == found
