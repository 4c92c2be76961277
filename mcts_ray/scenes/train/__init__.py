"""Training recipes of scenes: `mcts-ray train scenes --part autoencoder|unet|scorer|all`.

Each part resumes from its checkpoint in the output folder, and what is done is not done again. The finished folder
holds `pipeline/` (a diffusers pipeline in fp16 safetensors), `scorer/` and `training.json`.
"""

from .run import PARTS, run

__all__ = ["PARTS", "run"]
