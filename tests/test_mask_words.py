"""Every program's settings name all the ways to find the object that it takes, in the same words."""

import re

import pytest

from core.config import CONF
from core.masks import MODES

TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(CONF.glob("*.yaml"))}
WITH_MASK = [name for name, text in TEXTS.items() if re.search(r"^mask:", text, re.MULTILINE)]


def test_there_are_programs_with_masks():
    assert {"segment.yaml", "crop.yaml", "reconstruct.yaml", "syncdreamer_generate.yaml"} <= set(WITH_MASK)


@pytest.mark.parametrize("name", WITH_MASK)
def test_the_comment_on_mask_names_every_way(name):
    [comment] = re.findall(r"^mask:.*?# (.*)", TEXTS[name], re.MULTILINE)
    wanted = [word for word in MODES if name != "segment.yaml" or word != "none"]  # a picture as a whole is no cut-out
    words = re.sub(r"\(.*?\)", "", comment)
    assert re.sub(r"\s+", "", ",".join(wanted)) in re.sub(r"\s+", "", words), comment
