"""The pocket Kontext's parts: real diffusers and transformers classes with small dimensions.

Head size, rope axes, patch and latent channels are FLUX's own, and the VAE has TAESD's exact architecture, so that the
same weight files load in diffusers and in ComfyUI.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from diffusers import (
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

__all__ = [
    "AutoencoderTiny",
    "FluxKontextPipeline",
    "FluxTransformer2DModel",
    "build_clip",
    "build_pipeline",
    "build_scheduler",
    "build_t5",
    "build_transformer",
    "build_vae",
]

LATENT_CHANNELS = 16
SCALING_FACTOR, SHIFT_FACTOR = 0.3611, 0.1159  # FLUX's, so raw latents are the same in diffusers and ComfyUI
TEXT_TOKENS = 24
TEXT_WIDTH, POOLED_WIDTH = 128, 64


def build_vae(*, seed: int) -> AutoencoderTiny:
    """A TAESD with 16 latent channels: width 64, 8x, one block at full size and three at each lower one."""
    torch.manual_seed(seed)
    return AutoencoderTiny(
        encoder_block_out_channels=(64, 64, 64, 64),
        decoder_block_out_channels=(64, 64, 64, 64),
        num_encoder_blocks=(1, 3, 3, 3),
        num_decoder_blocks=(3, 3, 3, 1),
        latent_channels=LATENT_CHANNELS,
        scaling_factor=SCALING_FACTOR,
        shift_factor=SHIFT_FACTOR,
    )


def build_transformer(
    *, seed: int, heads: int = 1, double_blocks: int = 2, single_blocks: int = 4
) -> FluxTransformer2DModel:
    """A FluxTransformer2DModel of width 128 x heads with the guidance embedding on."""
    torch.manual_seed(seed)
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=LATENT_CHANNELS * 4,
        num_layers=double_blocks,
        num_single_layers=single_blocks,
        attention_head_dim=128,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-dev's scheduler: sigmas shifted by the number of target tokens."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        shift=3.0,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def learn_merges(words: Mapping[tuple[str, ...], int]) -> list[tuple[str, str]]:
    """Byte-pair merges until every word is one piece: the most frequent pair first, of equals that of older pieces.

    The order of the library's own trainer, but for its ties among single characters, which follow a hash map and differ
    from run to run; here they are alphabetical.
    """
    characters = {piece for word in words for piece in word}
    age = {
        piece: place for place, piece in enumerate(sorted(characters, key=lambda piece: (len(piece), piece)))
    }
    merges: list[tuple[str, str]] = []
    left = dict(words)
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in left.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], age[pair[0]], age[pair[1]]))
        merges.append(best)
        age.setdefault("".join(best), len(age))
        left = {_merged(word, best): count for word, count in left.items()}


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The word with every occurrence of the pair as one piece."""
    pieces: list[str] = []
    for piece in word:
        if pieces and (pieces[-1], piece) == pair:
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return tuple(pieces)


def build_clip(sentences: Sequence[str], *, seed: int) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Byte-level BPE learned on `sentences` over all 256 bytes, and a one-layer CLIP text encoder."""
    start, end, word_end = "<|startoftext|>", "<|endoftext|>", "</w>"
    own = CLIPTokenizer().backend_tokenizer
    words: Counter[tuple[str, ...]] = Counter()
    for sentence in sentences:
        for word, _ in own.pre_tokenizer.pre_tokenize_str(own.normalizer.normalize_str(sentence)):
            words[tuple(word[:-1]) + (word[-1] + word_end,)] += 1  # noqa: RUF005
    merges = learn_merges(words)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # every byte needs its end-of-word form: an unknown token would be the end of text in the middle of a prompt
    pieces = [*alphabet, *(c + word_end for c in alphabet), *(a + b for a, b in merges), start, end]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_TOKENS * 2)
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=POOLED_WIDTH,
        intermediate_size=POOLED_WIDTH * 2,
        projection_dim=POOLED_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, CLIPTextModel(config).eval()


def build_t5(sentences: Sequence[str], *, seed: int) -> tuple[T5TokenizerFast, T5EncoderModel]:
    """One piece a word of `sentences`, single characters for any other text, and a one-layer T5 encoder."""
    words = sorted({word for sentence in sentences for word in sentence.split()})
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [("\u2581" + word, -3.0) for word in words]
    letters = [
        ("\u2581", -6.0),
        *((character, -9.0) for character in string.printable if not character.isspace()),
    ]
    tokenizer = T5TokenizerFast(vocab=specials + pieces + letters, extra_ids=0, model_max_length=TEXT_TOKENS)
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=32,
        d_ff=TEXT_WIDTH * 2,
        num_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        dropout_rate=0.0,
    )
    return tokenizer, T5EncoderModel(config).eval()


def build_pipeline(
    vae: AutoencoderTiny, transformer: FluxTransformer2DModel, sentences: Sequence[str], *, seed: int
) -> FluxKontextPipeline:
    """The whole pipeline around a trained VAE and transformer; its text side is seeded and stays as it is drawn."""
    tokenizer, text_encoder = build_clip(sentences, seed=seed)
    tokenizer_2, text_encoder_2 = build_t5(sentences, seed=seed)
    return FluxKontextPipeline(
        scheduler=build_scheduler(),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )
