"""What each model is made with, shipped or not: data, shape, training, planning.

`pretrain.py --task` and `reproduce.py` take it from here.
"""

from typing import Any

from gbp_agent import DynamicsConfig, MaskedConfig, RepresentationConfig

# All pieces of so many training episodes, of which a plan starts from the nearest. (The shipped
# models' were drawn with some twice: PointMaze's have 2,098 and Wall's 2,367.)
PIECES: dict[str, Any] = {"proposals": 3800, "proposal_steps": 20, "proposal_keys": 8}
# DINO-WM's structure in small: 64 tokens of 32 numbers for a picture of 64 px, which is blurred, as
# tokens of a sharp one tell no near goal from a far one.
PATCHES: dict[str, Any] = {
    "history": 1,
    "encoder": "vit_tiny_patch16_224",
    "encoder_options": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "pixel_mean": (1.0, 1.0, 1.0),
    "pixel_std": (0.1, 0.1, 0.1),
    "blur": 8.0,
    "centered": True,
    "proprio_width": 0,
    "residual": True,
    "depth": 3,
    "heads": 4,
    "head_width": 16,
    "mlp_width": 192,
    "dropout": 0.0,
    "decoder_width": 32,
    **PIECES,
}
# Planners for it, where a roll-out costs milliseconds.
PATCH_PLANNERS: dict[str, Any] = {
    "gradient": {"steps": 10, "restarts": 2, "warm_steps": 3, "learning_rate": 0.1},
    "cem": {"samples": 64, "iterations": 10, "elites": 8},
}
# Random goals are drawn at once; goals are not used in collecting. The behaviour policy never
# misses, and a planner has to know what a miss is.
PUSHED: dict[str, Any] = {
    "episodes": 4000,
    "steps": 30,
    "goal_mode": "random",
    "random_share": 0.25,
}
PUSHT: dict[str, Any] = {
    "data": {"env_id": "gbp/PushT-v0", "episodes": 4000, "steps": 100},
    "model": {
        **PIECES,
        "predictor_width": 256,
        "decoder_proprio": True,
        "initializer_width": 256,
    },
    "mirrors": True,
    "representation": RepresentationConfig(steps=4000),
    "dynamics": DynamicsConfig(steps=20_000),
    "planning": {
        "mpc": {"precision": "auto", "proposals": 1024},
        "objective": {
            "frames": "all",
            "base": 8.0,
            "step_cost": 0.001,
            "proprio_weight": [1.0, 1.0, 0.0, 0.0],
        },
        "planners": {
            "gradient": {
                "steps": 10,
                "restarts": 8,
                "halvings": 1,
                "proposals": 256,
                "warm_steps": 5,
                "warm_restarts": 4,
                "warm_proposals": 128,
                "learning_rate": 0.1,
            }
        },
        "open_loop": {
            "gradient.steps": 30,
            "gradient.restarts": 32,
            "gradient.halvings": 4,
            "gradient.proposals": None,
        },
    },
}
WALL: dict[str, Any] = {
    "data": {"env_id": "gbp/Wall-v0", "episodes": 4000, "steps": 100},
    "model": {
        **PIECES,
        "latent_dim": 16,
        "predictor_width": 128,
        "substeps": 5,
        "initializer_width": 256,
        "initializer_steps": 8,
    },
    "representation": RepresentationConfig(steps=800),
    "dynamics": DynamicsConfig(steps=8000, input_noise=0.1),
    "planning": {
        "mpc": {"precision": "auto", "proposals": 64, "action_limit": 2.0, "horizon": 8},
        "objective": {"frames": "all", "base": 3.0},
        "planners": {
            "gradient": {
                "steps": 5,
                "restarts": 4,
                "warm_steps": 5,
                "warm_restarts": 2,
                "learning_rate": 0.1,
            }
        },
        "open_loop": {"gradient.steps": 20},
    },
}
# One push of many particles is one step. Blurred pictures differ the more, the further the
# particles have moved.
PUSHES: dict[str, Any] = {
    "model": {
        "frameskip": 1,
        "encoder": "linear",
        "latent_dim": 64,
        "proposals": 2048,
        "proposal_steps": 5,
        "initializer_width": 256,
    },
    "mirrors": True,
    "dynamics": DynamicsConfig(steps=16_000, horizon=2),
    "planning": {
        "mpc": {"precision": "auto", "proposals": 128},
        "objective": {"frames": "all", "base": 2.0, "proprio_weight": 0.0},
        "planners": {"gradient": {"steps": 30, "restarts": 32, "halvings": 4}},
    },
}
ROPE_PLANNING: dict[str, Any] = {
    **PUSHES["planning"],
    "planners": {
        "gradient": {
            "steps": 25,
            "init": "beam",
            "proposals": 100,
            "beam_width": 4,
            "beam_branches": 8,
            "restarts": 16,
            "halvings": 4,
            "warm_steps": 22,
            "warm_restarts": 8,
            "learning_rate": 0.1,
            "beta1": 0.7,
            "beta2": 0.95,
        },
        "cem": {"init": "beam", "beam_branches": 8, "init_std": 0.5},
    },
    # Open loop the cheaper plans of a beam leave more.
    "open_loop": {
        "gradient.init": "proposals",
        "gradient.proposals": None,
        "gradient.restarts": 32,
        "gradient.halvings": 5,
        "gradient.learning_rate": 0.2,
    },
}
ROPE: dict[str, Any] = {
    "data": {"env_id": "gbp/Rope-v0", **PUSHED},
    **PUSHES,
    # Latents whose distance ranks shapes nearly as the environment's does, and a predictor that
    # learns what a push does where it goes.
    "model": {
        **PUSHES["model"],
        "encoder": "chamfer",
        "latent_dim": 192,
        "action_frequencies": 5,
        "gated": True,
        "push_grid": 32,
        "predictor_depth": 2,
    },
    "representation": RepresentationConfig(blur=1.4, field=0.01),
    "dynamics": DynamicsConfig(steps=16_000, horizon=2, one_step_share=0.5),
    "planning": {
        **ROPE_PLANNING,
        "mpc": {**ROPE_PLANNING["mpc"], "horizon": 3},
        "planners": {
            **ROPE_PLANNING["planners"],
            "gradient": {**ROPE_PLANNING["planners"]["gradient"], "steps": 15, "warm_steps": 13},
        },
        "open_loop": {**ROPE_PLANNING["open_loop"], "mpc.horizon": 5, "gradient.steps": 25},
    },
}
# What the shipped models were made with. data: arguments of collect(); the rest: fields of
# PretrainConfig.
TASKS: dict[str, dict[str, Any]] = {
    "pusht": PUSHT,
    "point_maze": {
        "data": {"env_id": "gbp/PointMaze-v0", "episodes": 3000, "steps": 100},
        "model": {
            **PIECES,
            "latent_dim": 16,
            "predictor_width": 256,
            "initializer_width": 256,
        },
        "representation": RepresentationConfig(steps=1000),
        "dynamics": DynamicsConfig(steps=8000),
        "planning": {
            "mpc": {"precision": "auto", "proposals": 64},
            "objective": {"frames": "all", "base": 8.0, "proprio_weight": [1.0, 1.0, 0.0, 0.0]},
            "planners": {"gradient": {"steps": 5, "restarts": 4, "warm_steps": 5}},
            "open_loop": {"gradient.steps": 50},
        },
    },
    "wall": WALL,
    "rope": ROPE,
    "granular": {
        "data": {"env_id": "gbp/Granular-v0", **PUSHED},
        **PUSHES,
        # Latents whose distance ranks heaps nearly as the environment's does. (Each member of the
        # shipped model was trained by itself, with a seed of its own.)
        "model": {
            **PUSHES["model"],
            "encoder": "chamfer",
            "latent_dim": 128,
            "action_frequencies": 5,
            "ensemble_size": 2,
        },
        "representation": RepresentationConfig(blur=1.4, field=0.03),
        "planning": {
            **PUSHES["planning"],
            "mpc": {"precision": "auto", "proposals": 256, "horizon": 3, "dead_band": 0.02},
            "objective": {"frames": "all", "base": 6.0, "proprio_weight": 0.0},
            # Few steps from good starts.
            "planners": {
                "gradient": {
                    "steps": 10,
                    "init": "beam",
                    "beam_width": 4,
                    "restarts": 16,
                    "halvings": 4,
                    "learning_rate": 0.15,
                    "beta1": 0.5,
                    "beta2": 0.8,
                },
                "cem": {"init": "beam", "beam_width": 4, "init_std": 0.5},
            },
            "open_loop": {
                "mpc.horizon": 5,
                "gradient.steps": 30,
                "gradient.restarts": 32,
                "gradient.learning_rate": 0.1,
                "gradient.beta1": 0.9,
                "gradient.beta2": 0.999,
            },
        },
    },
    # None of these three is shipped any more.
    "rope-mlp": {
        **ROPE,
        "model": {**ROPE["model"], "push_grid": 0, "predictor_depth": 3},
        "dynamics": PUSHES["dynamics"],
        "planning": {
            **ROPE_PLANNING,
            "mpc": ROPE["planning"]["mpc"],
            "open_loop": {**ROPE_PLANNING["open_loop"], "mpc.horizon": 5},
        },
    },
    "rope-linear": {
        "data": {"env_id": "gbp/Rope-v0", **PUSHED},
        **PUSHES,
        "model": {**PUSHES["model"], "gated": True},
        "representation": RepresentationConfig(blur=4.0),
        "planning": ROPE_PLANNING,
    },
    "granular-linear": {
        "data": {"env_id": "gbp/Granular-v0", **PUSHED},
        **PUSHES,
        "model": {**PUSHES["model"], "latent_dim": 128},
        "representation": RepresentationConfig(blur=2.0),
        "planning": {
            **PUSHES["planning"],
            "objective": {"frames": "all", "base": 6.0, "proprio_weight": 0.0},
        },
    },
    # Nor are these. A twentieth of the data, and on Wall no noise on the first latents: for
    # seeing what finetuning does where the base model is poor.
    "pusht-small": {
        **PUSHT,
        "data": {**PUSHT["data"], "episodes": 200},
        "model": {**PUSHT["model"], "proposals": 190},
        "representation": RepresentationConfig(steps=1500),
        "dynamics": DynamicsConfig(steps=6000),
        # As it was compared: fewer sequences and restarts.
        "planning": {
            **PUSHT["planning"],
            "mpc": {"precision": "auto", "proposals": 128},
            "planners": {
                "gradient": {"steps": 30, "restarts": 4, "warm_steps": 7, "learning_rate": 0.1}
            },
            "open_loop": {},
        },
    },
    "wall-small": {
        **WALL,
        "data": {**WALL["data"], "episodes": 200},
        # As it was compared: the same sequences for all problems, all steps in every decision.
        "model": {**WALL["model"], "proposals": 512, "proposal_steps": 10, "proposal_keys": 0},
        "dynamics": DynamicsConfig(steps=3000),
        "planning": {
            **WALL["planning"],
            "mpc": {**WALL["planning"]["mpc"], "proposals": None},
            "planners": {"gradient": {"steps": 20, "restarts": 4, "learning_rate": 0.1}},
            "open_loop": {},
        },
    },
    "wall-patch": {
        "data": WALL["data"],
        "family": "patch",
        "model": PATCHES,
        "masked": MaskedConfig(steps=1500),
        "dynamics": DynamicsConfig(steps=8000, windows=64, horizon=2),
        "planning": {
            "mpc": {"precision": "auto", "proposals": 16, "action_limit": 2.0, "horizon": 8},
            "objective": {"frames": "all", "base": 3.0},
            "planners": PATCH_PLANNERS,
        },
    },
    "pusht-patch": {
        "data": PUSHT["data"],
        "family": "patch",
        "model": {**PATCHES, "blur": 4.0, "action_width": 48},
        "masked": MaskedConfig(steps=1500),
        "dynamics": DynamicsConfig(
            steps=26_000, windows=32, one_step_share=0.7, learning_rate=3e-3
        ),
        "planning": {
            "mpc": {"precision": "auto", "proposals": 32},
            "objective": PUSHT["planning"]["objective"],
            "planners": PATCH_PLANNERS,
        },
    },
}
# Teacher forcing alone, as DINO-WM is trained.
TASKS["pusht-patch-one-step"] = {
    **TASKS["pusht-patch"],
    "dynamics": DynamicsConfig(steps=26_000, windows=32, horizon=1, learning_rate=3e-3),
}
