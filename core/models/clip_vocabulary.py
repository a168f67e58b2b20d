"""CLIP's tokenizer, from files that are here: a folder like Stable Diffusion's `tokenizer/`, or CLIP's list of merges.

Published weights do not hold it. OpenAI's list, `bpe_simple_vocab_16e6.txt.gz`, is also inside the package open_clip.
"""

import gzip
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from core.errors import BadCheckpoint, MissingWeights

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
NUM_TOKENS = 49408
FOLDER_FILES = ("tokenizer.json", "vocab.json")  # either is enough, with merges.txt beside the second
OPEN_CLIP = "open_clip"
ADVICE = (
    f"put the tokenizer/ folder of a Stable Diffusion (vocab.json and merges.txt) there, or CLIP's {MERGES_FILE}, or "
    f"`pip install --no-deps open_clip_torch` and give {OPEN_CLIP} as its path"
)


def clip_tokenizer(path: str) -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer of 49408 tokens.

    Args:
        path: a folder with vocab.json and merges.txt (or tokenizer.json); a file of merges, CLIP's own; or the word
            `open_clip`, the file in that package, which is looked for but not imported.

    Raises MissingWeights where there is no such file, BadCheckpoint where it holds another vocabulary.
    """
    if path == OPEN_CLIP and not Path(path).exists():
        return _from_merges(_open_clip_file())
    place = Path(path)
    if place.is_file():
        return _from_merges(place)
    if not place.is_dir():
        raise MissingWeights(f"no CLIP tokenizer at {path!r}; {ADVICE}")
    if (place / MERGES_FILE).is_file():
        return _from_merges(place / MERGES_FILE)
    if not any((place / name).is_file() for name in FOLDER_FILES):
        raise MissingWeights(f"{path!r} has no vocab.json; {ADVICE}")
    if not (place / "tokenizer.json").is_file() and not (place / "merges.txt").is_file():
        raise MissingWeights(f"{path!r} has no merges.txt beside its vocab.json; {ADVICE}")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # the library's own, of many kinds
        raise BadCheckpoint(f"the tokenizer at {path!r} cannot be read ({type(error).__name__}: {error})") from error
    return _checked(tokenizer, place)


def vocabulary(merges: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Token -> number: the bytes, the bytes that end a word, each merge, and the two marks."""
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + WORD_END for letter in letters), *("".join(pair) for pair in merges), START, END]
    return {token: number for number, token in enumerate(tokens)}


def from_merges(merges: list[tuple[str, str]]) -> CLIPTokenizer:
    """A tokenizer of CLIP's kind with these merges, in order of precedence."""
    return CLIPTokenizer(vocab=vocabulary(merges), merges=merges)


def _from_merges(path: Path) -> CLIPTokenizer:
    num_merges = NUM_TOKENS - 2 * len(bytes_to_unicode()) - 2
    try:
        content = path.read_bytes()
        lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode().split("\n")
        pairs = [line.split() for line in lines[1 : 1 + num_merges] if line.strip()]
        merges = [(left, right) for left, right in pairs]
    except (OSError, EOFError, ValueError) as error:
        raise BadCheckpoint(f"{path}: no list of CLIP's merges ({error}); {ADVICE}") from error
    return _checked(from_merges(merges), path)


def _checked(tokenizer: CLIPTokenizer, path: Path) -> CLIPTokenizer:
    marks = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    if len(tokenizer) != NUM_TOKENS or marks != (NUM_TOKENS - 2, NUM_TOKENS - 1):
        raise BadCheckpoint(
            f"{path}: {len(tokenizer)} tokens, the marks at {marks}, instead of CLIP's {NUM_TOKENS} that end with the "
            f"two marks; {ADVICE}"
        )
    return tokenizer


def _open_clip_file() -> Path:
    spec = importlib.util.find_spec(OPEN_CLIP)
    places = [Path(folder) / MERGES_FILE for folder in (spec.submodule_search_locations or [])] if spec else []
    for place in places:
        if place.is_file():
            return place
    raise MissingWeights(f"no package {OPEN_CLIP} with {MERGES_FILE} here; {ADVICE}")
