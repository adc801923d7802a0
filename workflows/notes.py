"""What the notes in the example workflows say, and where FLUX.1's files come from.

Names are bold, not code: the page's newer nodes draw code in a note blue on blue.
"""

from __future__ import annotations

KONTEXT, DEV = "flux1-dev-kontext_fp8_scaled.safetensors", "flux1-dev.safetensors"
CLIP_L, T5, VAE = "clip_l.safetensors", "t5xxl_fp8_e4m3fn_scaled.safetensors", "ae.safetensors"
FILES = {  # the folder in models/, and where the file is to be had
    KONTEXT: ("diffusion_models", "Comfy-Org/flux1-kontext-dev_ComfyUI", "split_files/diffusion_models/"),
    DEV: ("diffusion_models", "Comfy-Org/flux1-dev", ""),
    CLIP_L: ("text_encoders", "comfyanonymous/flux_text_encoders", ""),
    T5: ("text_encoders", "comfyanonymous/flux_text_encoders", ""),
    VAE: ("vae", "Comfy-Org/Lumina_Image_2.0_Repackaged", "split_files/vae/"),
}
HUB = "https://huggingface.co"

BEST_OF_N = """# Best of N

Samples 8 pictures of one subject and keeps 2. Those that lose its identity (VSM below the gate) are out; of the \
others the 2 that copy the reference's structure least (highest nSSM) are kept.

Candidates that will not win are stopped early. The sheet in the sampler shows all of them."""

LORA = """# A DivRL LoRA

The LoRA was trained to leave the reference's pose and keep the subject. Mode *diverse set* keeps 3 pictures that \
differ from the reference and from each other.

Strength 0 shows the model without it, under the same seeds."""

WIDTH = """# A reference for FLUX.1-dev

FLUX.1-dev reads no reference. A LoRA of **divrl-train cfm** teaches it to, where the reference lies beside the \
picture on one wide canvas: *Width Reference* puts it there.

Keep the guidance and the size that the LoRA was trained at: 1, and 512 px (the pocket's: 128 px) unless you chose \
others. *Repeat Latent Batch* makes 4 pictures at once."""

SCORE = """# Score a folder

Scores pictures, whatever made them, against their reference. *nSSM*: how differently they are built. *VSM*: how \
much of the subject looks the same.

The maps show the structure that was compared, and where identity is lost. They want pictures of one size; Score \
Images takes any."""

POCKET = (
    "Runs on a CPU in seconds with what the pack ships: small models of toy figures, which they often spoil."
)
POCKET_FOLDER = """Copy **workflows/pocket-pictures** of this pack to ComfyUI's **input** folder under the name \
**divrl-pocket**, then press R."""
FOLDER = """In ComfyUI's **input** folder: your pictures in a folder **my-pictures**, then **reference.png** and \
**reference-mask.png**, white where the subject is. Press R to see new files.

Without a mask delete *Reference mask*; the whole picture counts then. The gate of lite0 was set on toy figures: \
look at the sheet, then move it."""
PAINT = """Scores count the whole reference. Better: paint the subject (right click on the reference, *Open in \
MaskEditor*) and connect MASK to *reference_mask*. The gate of lite0 was set on toy figures: look at the sheet, \
then move it."""
IN_MODELS = "In ComfyUI's **models** folder:\n\n"
LICENCE = "FLUX.1 [dev] has a licence of its own: non-commercial, and so are LoRAs trained on it."


def with_pocket(words: str) -> str:
    """The note of a pocket workflow."""
    return f"{words}\n\n{POCKET}"


def with_files(words: str, *names: str) -> str:
    """The note of a full-size workflow, with the files that it needs."""
    return "\n\n".join((words, PAINT, IN_MODELS + "".join(_line(name) for name in names if name), LICENCE))


def stored(*names: str) -> list[dict[str, str]]:
    """Files as the canvas stores them with a node, so that the page can offer to download those that are missing."""
    return [{"name": name, "url": _url(name), "directory": FILES[name][0]} for name in names]


def _line(name: str) -> str:
    """A file and its folder, as a line of a list."""
    if name not in FILES:
        return f"- **loras** / {name} (yours)\n"
    return f"- **{FILES[name][0]}** / [{name}]({_url(name)})\n"


def _url(name: str) -> str:
    _, repository, folder = FILES[name]
    return f"{HUB}/{repository}/resolve/main/{folder}{name}"
