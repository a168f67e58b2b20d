"""LPIPS and CLIP through a protocol, with weights made here: files are found, checked and recorded, never replaced."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from core.cameras.rigs import rig
from core.config import instantiate
from core.errors import BadCheckpoint, BadData, MissingWeights, UserError
from core.metrics.text import cosines
from core.views import ViewSet, write_views
from projects.benchmark import networks
from projects.benchmark.networks import ClipRetrieval, ClipScore, LpipsScore, NeighbourClip, NeighbourLpips
from projects.benchmark.pictures import Pictures
from tests.metrics.test_lpips import images, weights
from tests.projects.benchmark.test_protocols import config, scores

CAPTIONS = ["a red ball", "a blue box", "a green cone", "a torus", "a ring of balls"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """AlexNet's file and a tiny CLIP, all random."""
    folder = tmp_path_factory.mktemp("ckpt")
    save_file(weights("alex")[0], folder / "alexnet-owt-7be5be79.safetensors")
    clip = folder / "clip-vit-large-patch14"
    clip.mkdir()
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = tower | {"vocab_size": 300, "max_position_embeddings": 32, "eos_token_id": 2, "bos_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config=tower | {"image_size": 32, "patch_size": 16}, projection_dim=8)
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(clip)
    words = ["<|startoftext|>", "<|endoftext|>", *(f"{word}</w>" for text in CAPTIONS for word in text.split())]
    letters = [chr(97 + n) for n in range(26)]
    listed = dict.fromkeys(["!", *words, *letters, *(f"{letter}</w>" for letter in letters)])
    vocabulary = {word: number for number, word in enumerate(listed)}
    (clip / "vocab.json").write_text(json.dumps(vocabulary))
    (clip / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(clip / "vocab.json"), str(clip / "merges.txt")).save_pretrained(clip)
    return folder


@pytest.fixture
def at_hand(root, monkeypatch):
    monkeypatch.setenv("TURNTABLE_WEIGHTS", str(root))
    networks._clip.cache_clear()


def write_objects(tmp_path: Path, size: int = 64) -> None:
    for number, caption in enumerate(CAPTIONS):
        shown = torch.cat([images(number, size), images(number + 9, size)])
        views = ViewSet(torch.cat([shown, torch.ones(4, 1, size, size)], dim=1), rig("mvdream", size=size), "toy")
        for folder in ("gt", "pred"):
            write_views(tmp_path / folder / f"toy{number}", views)
        (tmp_path / "gt" / f"toy{number}" / "caption.txt").write_text(caption)


def test_lpips_in_a_protocol_scores_equal_views_0_and_records_the_file(tmp_path, at_hand, root):
    write_objects(tmp_path)
    found = scores(tmp_path, "common_lpips", "protocol.size=64", name="toy0", num_objects=5)
    assert found["LPIPS (alex)"] == 0 and found["PSNR (dB)"] == 100
    used = json.loads((tmp_path / "out" / "scores.json").read_text())["weights"]["LPIPS (alex)"]
    content = (root / "alexnet-owt-7be5be79.safetensors").read_bytes()
    assert used == {"file": "alexnet-owt-7be5be79.safetensors", "sha256": hashlib.sha256(content).hexdigest()}


def test_neighbours_lpips_is_that_of_each_pair(at_hand):
    shown = torch.cat([images(0), images(1)])
    views = Pictures("toy", [0, 1, 2, 3], shown, torch.ones(4, 64, 64))
    expected = LpipsScore(net="alex")(shown, shown.roll(-1, dims=0))
    assert torch.allclose(NeighbourLpips(net="alex")(views), expected) and (expected > 0).all()


def test_a_missing_or_another_file_is_refused_with_where_it_belongs(tmp_path):
    with pytest.raises(MissingWeights, match=rf"alexnet-owt-7be5be79.pth: put it .* into '{tmp_path}'"):
        LpipsScore(net="alex", folder=str(tmp_path))
    torch.save(weights("alex")[0], tmp_path / "alexnet-owt-7be5be79.pth")
    with pytest.raises(BadCheckpoint, match="does not begin with 7be5be79"):
        LpipsScore(net="alex", folder=str(tmp_path))
    save_file(weights("alex")[0], tmp_path / "vgg16-397923af.safetensors")
    with pytest.raises(BadCheckpoint, match="not torchvision's vgg network"):
        LpipsScore(net="vgg", folder=str(tmp_path))


def test_clip_scores_are_cosines_of_transformers_own_features(at_hand, root):
    model, tokenizer = networks._clip(root / "clip-vit-large-patch14")
    shown = images(0, 32)
    mean, std = (
        torch.tensor(v)[:, None, None]
        for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    eight_bits = (shown * 255).round() / 255
    with torch.no_grad():
        output = model(**tokenizer(CAPTIONS, padding=True, return_tensors="pt"), pixel_values=(eight_bits - mean) / std)
    expected = cosines(output.image_embeds, output.text_embeds)
    for own in range(len(CAPTIONS)):
        assert torch.allclose(ClipScore()(shown, own, CAPTIONS), expected[:, own], atol=1e-5)
        assert torch.equal(ClipRetrieval()(shown, own, CAPTIONS), (expected.argmax(dim=1) == own).double())
    with pytest.raises(BadData, match="tokens, CLIP reads 32"):
        ClipScore()(shown, 0, ["red " * 20])


def test_clip_in_a_protocol_ranks_all_captions_and_refuses_an_object_without_one(tmp_path, at_hand):
    write_objects(tmp_path)
    scores(tmp_path, "bootstrap3d_clip", name="toy0", num_objects=5)
    found = json.loads((tmp_path / "out" / "scores.json").read_text())["objects"]["pred"]
    assert all(one["scores"]["CLIP-R (top 5)"] == 1 for one in found.values())  # there are but 5
    hits = [hit for one in found.values() for hit in one["per_view"]["CLIP-R (top 1)"]]
    assert len(hits) == 20 and set(hits) <= {0, 1} and sum(hits) < 20  # a random network does not find them all
    assert all(-1 <= one["scores"]["CLIP score"] <= 1 for one in found.values())
    (tmp_path / "gt" / "toy1" / "caption.txt").unlink()
    with pytest.raises(UserError, match="no caption of 'toy1'"):
        scores(tmp_path, "bootstrap3d_clip", name="toy0", num_objects=5)


def test_a_views_clip_likeness_to_itself_is_1(at_hand):
    shown = images(0, 48)[:1].repeat(3, 1, 1, 1)
    views = Pictures("toy", [0, 1, 2], shown, torch.ones(3, 48, 48))
    assert NeighbourClip(model="clip-vit-large-patch14")(views).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["ouroboros_gso100_lpips", "syncdreamer_gso30_lpips", "viewfusion_gso_lpips", "viewfusion_gso_circle_networks"],
)
def test_a_published_protocols_networks_measure_once_their_files_are_there(name, root, tmp_path, monkeypatch):
    for file in root.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "clip-vit-base-patch32").symlink_to(root / "clip-vit-large-patch14")
    if "ouroboros" not in name:
        save_file(weights("vgg")[0], tmp_path / "vgg16-397923af.safetensors")
    monkeypatch.setenv("TURNTABLE_WEIGHTS", str(tmp_path))
    networks._clip.cache_clear()
    protocol = instantiate(config(name).protocol)
    shown = torch.cat([images(0), images(1)])
    if protocol.alone:
        found = {column: protocol.alone[column](Pictures("toy", range(len(shown)), shown, torch.ones(4, 64, 64)))
                 for column in ("LPIPS (vgg) of neighbours", "CLIP of neighbours")}  # fmt: skip
    else:
        [column] = [column for column in protocol.images if column.startswith("LPIPS")]
        found = {column: protocol.images[column](shown, shown.roll(1, dims=0))}
    assert all(len(values) == len(shown) and values.isfinite().all() and values.std() > 0 for values in found.values())
