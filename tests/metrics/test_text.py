import pytest
import torch

from core.errors import BadConfig, BadImage
from core.metrics.text import clip_score, cosines, retrieved
from tests.golden_fixture import load


def test_the_scores_are_those_of_the_official_code():
    fixture, data = load("bootstrap3d", "clip_eval")
    images, texts = data["image_features"], data["text_features"]
    for view, features in enumerate(images):
        similarity = cosines(features, texts)
        score = torch.stack([clip_score(similarity[i : i + 1], i) for i in range(len(texts))]).mean()
        assert score.item() == pytest.approx(data["clip"][view].item(), abs=1e-6)
        for top in (1, 5):
            hits = [retrieved(similarity[i : i + 1], i, top=top).item() for i in range(len(texts))]
            assert 100 * sum(hits) / len(hits) == pytest.approx(data[f"top{top}"][view].item(), abs=1e-4)
    assert fixture["mean_r"] == pytest.approx(data["top1"].mean().item())


def test_a_feature_equal_to_its_text_has_cosine_1_and_is_retrieved():
    texts = torch.eye(4)
    similarity = cosines(5 * texts[2:3], texts)
    assert clip_score(similarity, 2).tolist() == [1] and clip_score(similarity, 0).tolist() == [0]
    assert retrieved(similarity, 2).tolist() == [1] and retrieved(similarity, 3).tolist() == [0]
    assert retrieved(similarity, 1, top=4).tolist() == [1]


def test_features_of_nothing_and_more_texts_than_there_are_are_refused():
    for bad in (torch.zeros(1, 4), torch.full((1, 4), torch.nan)):
        with pytest.raises(BadImage, match="features"):
            cosines(bad, torch.eye(4))
    with pytest.raises(BadConfig, match="top=5 of 4 captions"):
        retrieved(torch.eye(4), 0, top=5)
