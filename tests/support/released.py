"""What the vectors made by the authors' code say of themselves."""

import json
from pathlib import Path
from typing import Any

from cdal.sections import ModelConfig


def manifest(parity: Path) -> dict[str, Any]:
    return json.loads((parity / "manifest.json").read_text())


def model_config(parity: Path, generator: str) -> ModelConfig:
    theirs = manifest(parity)["generators_and_discriminators"][generator]["config"]
    return ModelConfig(
        image_size=theirs["image_size"],
        image_channels=3 if theirs["dataset"] == "monu" else 1,
        mask_channels=theirs["num_channels"],
        base_width=theirs["num_channels_dae"],
        width_multipliers=tuple(theirs["ch_mult"]),
        residual_blocks=theirs["num_res_blocks"],
        attention_resolutions=tuple(theirs["attn_resolutions"]),
        encoder_blocks=theirs["cond_enc_layers"] * theirs["cond_enc_num_res_blocks"],
        latent_size=theirs["nz"],
        latent_embedding=theirs["z_emb_dim"],
        latent_layers=theirs["n_mlp"],
        discriminator="small" if theirs["dataset"] == "hippo" else "large",
        discriminator_width=theirs["ngf"],
        discriminator_time_embedding=theirs["t_emb_dim"],
        attention_tap=theirs["attn_scale"],
    )
