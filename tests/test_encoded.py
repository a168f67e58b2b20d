"""Encoded data are the encoders' outputs, kept."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from core.data.encoded import EncodedViews
from core.data.toybox import ToyboxViews
from core.errors import BadData
from data_tools.toybox.make import Recipe, make
from tests.projects.syncdreamer import tiny


@pytest.fixture(scope="module")
def toybox(tmp_path_factory):
    root = tmp_path_factory.mktemp("toybox")
    list(make(root, Recipe(), {"train": 1, "val": 0, "test": 0}, num_workers=0))
    return root


def encoded(root, latents, encoder):
    return EncodedViews(
        root=str(root), split="train", latents=latents, image_encoder=encoder, cache=str(root / "encoded")
    )


def test_items_are_those_of_the_images_through_the_encoders(toybox):
    torch.manual_seed(0)
    latents, encoder = tiny.latents(), tiny.image_encoder()
    found = encoded(toybox, latents, encoder).__getitem__(0, torch.Generator().manual_seed(5))
    given = ToyboxViews(root=str(toybox), split="train").__getitem__(0, torch.Generator().manual_seed(5))
    with torch.no_grad():
        moments = latents.moments(torch.cat([given["target_pixels"], given["input_pixels"][None]]))
        token = encoder(given["input_pixels"][None])[0]
    assert_close(found["target_moments"].float(), moments[:16], rtol=1e-3, atol=1e-3)  # kept in 16 bits
    assert_close(found["input_moments"].float(), moments[16], rtol=1e-3, atol=1e-3)
    assert_close(found["input_embedding"], token)
    assert_close(found["input_elevation"], given["input_elevation"])


def test_another_networks_encodings_are_not_taken(toybox):
    torch.manual_seed(1)
    first = encoded(toybox, tiny.latents(), tiny.image_encoder())
    second = encoded(toybox, tiny.latents(), tiny.image_encoder())
    assert not np.array_equal(first.moments, second.moments)
    assert not np.array_equal(first.embeddings, second.embeddings)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no array"),
        lambda path: np.save(path, np.load(path)[:, 1:]),
    ],
    ids=["truncated", "empty", "no array", "too few views"],
)
def test_a_damaged_file_of_encodings_is_named_and_made_again(toybox, damage, capsys):
    torch.manual_seed(2)
    latents, encoder = tiny.latents(), tiny.image_encoder()
    before = np.array(encoded(toybox, latents, encoder).embeddings)
    path = max((toybox / "encoded").glob("train-imageencoder-*.npy"), key=lambda file: file.stat().st_mtime_ns)
    damage(path)
    assert np.array_equal(encoded(toybox, latents, encoder).embeddings, before)
    said = capsys.readouterr().err
    assert f"{path} is damaged" in said and said.count("encoding again") == 1


def test_encodings_that_may_not_be_read_are_told_in_one_line(toybox):
    torch.manual_seed(3)
    latents, encoder = tiny.latents(), tiny.image_encoder()
    encoded(toybox, latents, encoder)
    path = max((toybox / "encoded").glob("train-imageencoder-*.npy"), key=lambda file: file.stat().st_mtime_ns)
    path.unlink()
    path.mkdir()  # as unreadable to root as to anyone
    with pytest.raises(BadData, match=path.name):
        encoded(toybox, latents, encoder)
