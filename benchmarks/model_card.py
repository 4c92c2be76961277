"""The model card of the scenes weights, from what the training noted and what the benchmarks measured.

    python -m benchmarks.model_card
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.common import RESULTS
from mcts_ray.scenes.scorer import WEIGHTS

CARD = """\
# Model card: scenes

A small world in full: a `StableDiffusionPipeline` (64×64 pixels, 8×8×4 latents) and an image-text scorer, trained by this
project from its own renderer. No outside data, no people, no text: coloured shapes on a dark ground.

**Use.** The default model of mcts-ray, for demonstrations, tests and studies of search. It can draw nothing else.

**Data.** Rendered on the fly: {pool} scenes for the U-Net, drawn so that {drawn} % of what it sees has one, two, three
objects (in the second stage {second} %); unlimited ones for the autoencoder and the scorer. Captions follow the grammar; the
captions of all medium and hard validation and test prompts, and one in five (colour, shape, relation) combinations, never occur
in training. The verifier labels nothing: the scorer's targets are the facts that hold in the scene that was rendered, known
from its list of objects, and half of its images are soiled or have been through the autoencoder.

**Training.** `mcts-ray train scenes --part all`, on 2 CPU cores shared with other work.

| part | parameters | steps | batch | peak lr | seed | minutes |
|---|---|---|---|---|---|---|
{training}

The U-Net and the text encoder are trained together, v-prediction on Stable Diffusion's noise schedule, a tenth of the
captions dropped, exponential moving average of the weights. Weights are stored in fp16.

**Metrics** (test prompts; `benchmarks/results/`).

- Autoencoder: {ae:.1%} of {ae_n} reconstructed scenes pass the verifier.
- Single samples of the stock DDIM pipeline, {steps} steps, guidance {guidance}:

| prompts | gold (share of facts) | pass | 95 % interval of pass |
|---|---|---|---|
{single}

- Scorer against the verifier on generated images, within prompts, and the share of the gold gain of picking by the
  verifier that picking by the scorer wins among {among} samples:

| prompts | pairwise accuracy | Spearman | share of gain |
|---|---|---|---|
{guide}

**Step models** read noisy states of this generator ([how they are made](../../../docs/step-rewards.md)); the guide is their only teacher,
prompts of validation and test are never among their data, and a tenth of the training prompts is held out for these figures.

| model | parameters | steps | seed | data | on held-out prompts |
|---|---|---|---|---|---|
{step_models}

**Fusion decoder**: from what the U-Net has as features in its up block `{tap}` to the latent that it saw them in, for siblings that are
[fused by features](../../../docs/fusion.md). {decoder} parameters, {states:,} states of {trajectories:,} trajectories of training captions,
{steps_of_decoder:,} steps; it explains {explained:.0%} of the variance of latents on trajectories that were held out.

**Limits.** The scorer is imperfect on purpose: it is the guide, and the verifier that judges is never shown to a search.
Both read this world only.
"""


def _millions(files: list[Path]) -> str:
    """Parameters in safetensors files."""
    from safetensors.numpy import load_file

    total = sum(array.size for file in files for array in load_file(file).values())
    return f"{total / 1e6:.2f} M" if files else "the same"


def _step_models() -> str:
    """A row for each step model in the package."""
    lrm, value, ige = (json.loads((WEIGHTS / name / "metrics.json").read_text()) for name in ("lrm", "value", "ige"))
    accuracy = {level["level"]: level["accuracy"] for level in lrm["held_out"]["levels"]}
    spearman = {int(level): one["spearman"] for level, one in value["levels"].items()}
    quarters = [round(lrm["levels"] * share) for share in (0.75, 0.5, 0.25)]
    ranked = ", ".join(f"{accuracy[level]:.2f}" for level in quarters)
    correlated = ", ".join(f"{spearman[level]:.2f}" for level in quarters)
    told = value["data"]
    predicted = "; ".join(
        f"{name.replace('_', ' ')}: {one['all']['r2']:.2f}, {one['all']['spearman']:.2f}" for name, one in ige["prediction"].items()
    )
    rows = {
        "lrm": (
            lrm["recipe"],
            f"{lrm['pairs']:,} pairs of {lrm['images']:,} images",
            f"pairs ranked right at 25, 50, 75 % of the way: {ranked}",
        ),
        "value": (
            value["recipe"],
            f"{told['states']:,} states of {told['trajectories'] * told['prompts']:,} trajectories, and images made noisy anew",
            f"Spearman within prompts at 25, 50, 75 % of the way: {correlated}",
        ),
        "ige": (
            ige["recipe"] | {"steps": f"{min(ige['best_step'].values())} to {max(ige['best_step'].values())}, by target"},
            f"{ige['data']['states']:,} states of {ige['data']['prompts']} prompts, {ige['data']['nfe']:,} NFE",
            f"R², Spearman of {predicted}",
        ),
    }
    return "\n".join(
        f"| {name} | {_millions([WEIGHTS / name / 'model.safetensors'])} | {recipe['steps']} | {recipe['seed']} | {data} | {found} |"
        for name, (recipe, data, found) in rows.items()
    )


def _decoder() -> dict[str, object]:
    """What is said of the fusion decoder."""
    from mcts_ray.fusion.train import KEPT

    told = json.loads((WEIGHTS / "fusion" / "config.json").read_text())
    count = told["trajectories"]
    known = {"tap": told["tap"], "trajectories": count, "states": KEPT * count, "explained": told["held_out_r2"]}
    return {**known, "decoder": _millions([WEIGHTS / "fusion" / "model.safetensors"]), "steps_of_decoder": told["recipe"]["steps"]}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    from mcts_ray.scenes.train.unet import DRAWN, DRAWN_SECOND, POOL

    notes = json.loads((WEIGHTS / "training.json").read_text())
    model, guide = (json.loads((RESULTS / f"{n}.json").read_text()) for n in ("scenes_model", "guide"))

    files = {
        "autoencoder": ["pipeline/vae/diffusion_pytorch_model.safetensors"],
        "unet": ["pipeline/unet/diffusion_pytorch_model.safetensors", "pipeline/text_encoder/model.safetensors"],
        "unet-second": [],
        "scorer": ["scorer/model.safetensors"],
    }
    training = "\n".join(
        f"| {name} | {_millions([WEIGHTS / f for f in paths])} | {n['steps']} | {n['batch']} | {n['lr']:g} "
        f"| {n['seed']} | {round(n['seconds'] / 60) or 'with the above'} |"
        for name, paths in files.items()
        for n in [notes[name]]
    )
    guidance, rows = next(iter(model["single_sample"].items()))
    single = "\n".join(
        f"| {name} | {row['gold'][0]:.3f} | {row['pass'][0]:.1%} | {row['pass'][1]:.1%} – {row['pass'][2]:.1%} |"
        for name, row in rows.items()
    )
    guided = "\n".join(
        f"| {name} | {row['pairwise_accuracy'][0]:.3f} | {row['spearman'][0]:.3f} | {row['share_of_gain'][0]:.2f} |"
        for name, row in guide["rows"].items()
    )
    card = CARD.format(
        pool=f"{POOL:,}",
        drawn=", ".join(f"{100 * share:g}" for share in DRAWN),
        second=", ".join(f"{100 * share:g}" for share in DRAWN_SECOND),
        training=training,
        ae=model["autoencoder"]["pass"],
        ae_n=model["autoencoder"]["scenes"],
        steps=model["steps"],
        guidance=guidance.split()[1],
        single=single,
        among=guide["among"],
        guide=guided,
        step_models=_step_models(),
        **_decoder(),
    )
    (WEIGHTS / "README.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
